"""`diptych.client` with real servers."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from diptych.client import CallRefused, Connection
from diptych.domain.aggregate import AggregateRef
from diptych.v1 import read_model_pb2
from diptych.v1.commands_pb2 import CommandResult
from shop.v1.user_commands_pb2 import DeactivateUserRequest, RegisterUserRequest
from shop.v1.user_queries_pb2 import GetUserRequest
from tests.support.pair import Pair


def register(user_id: str, email: str = "") -> RegisterUserRequest:
    return RegisterUserRequest(user_id=user_id, email=email or f"{user_id}@example.com")


async def test_a_command_returns_its_response_and_its_token_reads_it(shared_shop: Connection) -> None:
    answer = await shared_shop.execute(register("first"))
    assert (answer.result.aggregate.id, answer.result.version) == ("first", 1)
    user = await shared_shop.query(GetUserRequest(user_id="first"), token=answer.result.token)
    assert user.email == "first@example.com"


async def test_the_message_given_is_not_changed(shared_shop: Connection) -> None:
    command = register("unchanged")
    await shared_shop.execute(command, request_id="unchanged-1")
    assert not command.HasField("context")


async def test_a_request_id_makes_a_repeat_safe(shared_shop: Connection) -> None:
    first = await shared_shop.execute(register("repeated"), request_id="repeated-1")
    again = await shared_shop.execute(register("repeated"), request_id="repeated-1")
    assert again.result.duplicate
    assert again.result.token == first.result.token


async def test_the_greatest_token_is_sent_with_later_reads(shared_pair: Pair) -> None:
    async with shared_pair.connect(read_your_writes=True) as shop:
        for number in range(20):
            answer = await shop.execute(register(f"mine-{number}"))
            assert shop.token == answer.result.token
            assert (await shop.query(GetUserRequest(user_id=f"mine-{number}"))).user_id == f"mine-{number}"
            assert shop.token >= answer.result.token


async def test_a_refusal_has_all_details_of_the_status(shared_shop: Connection) -> None:
    await shared_shop.execute(register("taken"))
    with pytest.raises(CallRefused) as refused:
        await shared_shop.execute(register("other", email="taken@example.com"))
    assert refused.value.code is grpc.StatusCode.ALREADY_EXISTS
    assert (refused.value.reason, refused.value.domain) == ("EMAIL_TAKEN", "shop.v1")
    assert "taken@example.com" in refused.value.metadata.values()
    assert refused.value.token, "a refusal carries a token, too"
    assert str(refused.value).startswith("ALREADY_EXISTS EMAIL_TAKEN: ")


async def test_broken_rules_are_listed_by_field(shared_shop: Connection) -> None:
    with pytest.raises(CallRefused) as refused:
        await shared_shop.execute(RegisterUserRequest(user_id="no such id", email="no email"))
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert {violation.field for violation in refused.value.violations} == {"user_id", "email"}


async def test_a_stale_version_is_refused(shared_shop: Connection) -> None:
    await shared_shop.execute(register("versioned"))
    with pytest.raises(CallRefused) as refused:
        await shared_shop.execute(DeactivateUserRequest(user_id="versioned"), expected_version=7)
    assert refused.value.reason == "VERSION_CONFLICT"
    assert (refused.value.metadata["expected_version"], refused.value.metadata["actual_version"]) == ("7", "1")


async def test_waiting_reaches_a_token_and_a_version(shared_shop: Connection) -> None:
    answer = await shared_shop.execute(register("awaited"))
    for waited in (
        await shared_shop.wait_for(answer.result.token),
        await shared_shop.wait_for(view="users", aggregate=AggregateRef("user", "awaited"), version=1),
    ):
        assert waited.outcome == read_model_pb2.WAIT_OUTCOME_REACHED
    waited = await shared_shop.wait_for(aggregate=AggregateRef("user", "awaited"), version=2, timeout_seconds=3)
    assert waited.outcome == read_model_pb2.WAIT_OUTCOME_TIMED_OUT


async def test_a_message_without_an_rpc_is_named(shared_shop: Connection) -> None:
    with pytest.raises(LookupError, match=r"diptych\.v1\.CommandResult is the request of no rpc"):
        await shared_shop.query(CommandResult())


async def test_a_connection_fails_with_the_missing_address() -> None:
    async with Connection() as nowhere:
        with pytest.raises(ValueError, match="without the address of a command server"):
            await nowhere.execute(register("nobody"))


async def test_a_call_without_a_server_is_retried_until_its_limit() -> None:
    async with Connection("127.0.0.1:1", retry_seconds=0.5) as nowhere:
        started = asyncio.get_running_loop().time()
        with pytest.raises(CallRefused) as refused:
            await nowhere.execute(register("nobody"))
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
        assert asyncio.get_running_loop().time() - started >= 0.3


async def test_a_stream_answers_every_message_in_order(shared_shop: Connection) -> None:
    async with shared_shop.command_stream(window=4) as stream:
        answers = [
            await stream.submit([register(f"stream-{message}-{number}") for number in range(10)])
            for message in range(20)
        ]
        for message, answer in enumerate(answers):
            for number, outcome in enumerate(await answer):
                assert isinstance(outcome, CommandResult)
                assert outcome.aggregate.id == f"stream-{message}-{number}"


async def test_a_refusal_in_a_stream_is_an_outcome(shared_shop: Connection) -> None:
    async with shared_shop.command_stream() as stream:
        answer = await stream.submit([register("streamed"), register("streamed"), register("streamed-2")])
        first, second, third = await answer
    assert isinstance(first, CommandResult)
    assert isinstance(second, CallRefused)
    assert second.reason == "USER_EXISTS"
    assert isinstance(third, CommandResult)


async def test_a_command_stream_cancels_open_commands_when_its_block_raises(shared_shop: Connection) -> None:
    answers = []

    async def leave_early() -> None:
        async with shared_shop.command_stream() as stream:
            answers.append(await stream.submit([register("given-up")]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await leave_early()
    assert [answer.done() for answer in answers] == [True]


async def test_a_command_stream_without_a_server_fails_its_commands() -> None:
    async with Connection("127.0.0.1:1") as nowhere, nowhere.command_stream(retry_seconds=0.3) as stream:
        answer = await stream.submit([register("nobody")])
        with pytest.raises(CallRefused, match="UNAVAILABLE"):
            await answer
        with pytest.raises(CallRefused, match="UNAVAILABLE"):
            await stream.submit([register("nobody")])


async def test_a_stream_survives_kills_and_every_command_takes_effect_once(pair: Pair) -> None:
    async with pair.connect() as shop:
        done = asyncio.Event()

        async def disturb() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
                await pair.command.restart()
            done.set()

        results: list[CommandResult] = []
        async with shop.command_stream(window=8) as stream:
            disturbing = asyncio.create_task(disturb())
            answers = []
            number = 0
            while not done.is_set() or number < 200:
                answers.append(await stream.submit([register(f"user-{number}-{each}") for each in range(5)]))
                number += 1
                await answers[max(0, number - 8)]
            for answer in answers:
                for outcome in await answer:
                    assert isinstance(outcome, CommandResult), outcome
                    results.append(outcome)
            await disturbing
        # Each was registered once: no repeat was decided anew, which would have been refused, and none was lost.
        assert len({result.aggregate.id for result in results}) == number * 5
        assert {result.version for result in results} == {1}
        assert len({result.token for result in results}) == number * 5
