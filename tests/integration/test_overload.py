"""Overload, passed deadlines, and stops: refusals, undecided commands, and no loss at a stop."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from diptych.internal.v1.log_pb2 import GetHeadRequest, GetHeadResponse
from diptych.v1.commands_pb2 import CommandContext
from diptych.v1.events_pb2 import SubscribeRequest, SubscribeResponse
from shop.v1.user_commands_pb2 import RegisterUserRequest
from tests.support.command_calls import Answer, Client, command_server, connected, envelopes, next_outcomes
from tests.support.polling import eventually
from tests.support.programs import Server

SUBSCRIBE = "diptych.v1.EventService/Subscribe"
LONG = 60.0
ENDED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def register(user_id: str) -> RegisterUserRequest:
    context = CommandContext(request_id=user_id)
    return RegisterUserRequest(context=context, user_id=user_id, email=f"{user_id}@example.com")


async def head(client: Client) -> int:
    """Return the head of the log, as the other servers read it."""
    answer = await client.call("diptych.internal.v1.LogService/GetHead", GetHeadRequest(), seconds=LONG)
    assert answer.code is grpc.StatusCode.OK, answer.message
    return GetHeadResponse.FromString(answer.response).head_position


async def recorded(client: Client) -> set[str]:
    """Return the ids of all recorded users."""
    found: set[str] = set()
    call = client.stream(SUBSCRIBE, SubscribeRequest(), seconds=LONG)
    while True:
        frame = SubscribeResponse.FromString(await call.read())
        found.update(event.aggregate.id for event in frame.batch.events)
        if frame.HasField("caught_up"):
            call.cancel()
            return found


@contextmanager
def hung(log: Path) -> Iterator[None]:
    """Lock the server's log, for less time than the server waits for it."""
    connection = sqlite3.connect(log, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with command_server(tmp_path / "data") as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with connected(server) as client:
        yield client


async def test_a_command_whose_deadline_has_passed_is_not_decided(client: Client, tmp_path: Path) -> None:
    with hung(tmp_path / "data" / "log.db"):
        taken = asyncio.create_task(client.command(register("taken"), seconds=LONG))
        await head(client)  # It is taken, and waits for the log; what comes now forms the next batch.
        late = [asyncio.create_task(client.command(register(f"late-{n}"), seconds=1)) for n in range(5)]
        patient = asyncio.create_task(client.command(register("patient"), seconds=LONG))
        answers = await asyncio.gather(*late)
    assert {answer.code for answer in answers} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert (await patient).code is (await taken).code is grpc.StatusCode.OK
    assert await recorded(client) == {"taken", "patient"}


async def test_a_command_of_a_cancelled_call_is_not_decided(client: Client, tmp_path: Path) -> None:
    with hung(tmp_path / "data" / "log.db"):
        taken = asyncio.create_task(client.command(register("taken"), seconds=LONG))
        await head(client)  # It is taken, and waits for the log; what comes now forms the next batch.
        stream = client.execute(seconds=LONG)
        await stream.write(envelopes(*(register(f"streamed-{n}") for n in range(5))).SerializeToString())
        gone = [asyncio.create_task(client.command(register(f"gone-{n}"), seconds=LONG)) for n in range(5)]
        await head(client)  # All that was sent before it has arrived.
        for call in gone:
            call.cancel()
        stream.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        for _ in range(20):  # gRPC hands cancellations over apart from calls: one answer may overtake them.
            await head(client)
        patient = asyncio.create_task(client.command(register("patient"), seconds=LONG))
        await head(client)
    assert (await patient).code is (await taken).code is grpc.StatusCode.OK
    assert await recorded(client) == {"taken", "patient"}


async def test_calls_at_once_are_limited_and_given_back(tmp_path: Path) -> None:
    with command_server(tmp_path / "data", "--calls-max=3") as server:
        async with connected(server) as client:
            held = [client.stream(SUBSCRIBE, SubscribeRequest(), seconds=LONG) for _ in range(3)]
            for call in held:
                await call.read()
            refused = await client.command(register("ada"))
            assert refused.reason == ("RESOURCE_EXHAUSTED", "diptych.v1", "OVERLOADED")
            assert (refused.metadata["limit"], refused.metadata["what"]) == ("3", "calls at once")
            assert refused.retry_seconds == 1.0
            subscription = client.stream(SUBSCRIBE, SubscribeRequest(), seconds=LONG)
            with pytest.raises(grpc.aio.AioRpcError):
                await subscription.read()
            assert (await Answer.of(subscription)).reason[2] == "OVERLOADED"
            # Our own servers are let in, or a crowd of clients would stop the read side.
            assert await head(client) == 0
            held.pop().cancel()

            async def admitted() -> int:
                answer = await client.command(register("ada"))
                return answer.result.version if answer.code is grpc.StatusCode.OK else 0

            version: int = await eventually(admitted, seconds=LONG)
            assert version == 1
            for call in held:
                call.cancel()


async def test_a_server_that_stops_under_load_answers_every_call_and_loses_nothing(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    refused: set[str] = set()
    with command_server(tmp_path / "data") as server:
        async with connected(server) as client:

            async def single(number: int) -> None:
                for count in range(100_000):
                    id = f"single-{number}-{count}"
                    answer = await client.command(register(id), seconds=LONG)
                    if answer.code is not grpc.StatusCode.OK:
                        # What gRPC had not handed over yet it ends itself, without saying why.
                        assert answer.code in ENDED, answer.message
                        if answer.status.details:
                            assert answer.reason[2] == "LOG_UNAVAILABLE"
                            refused.add(id)
                        return
                    acknowledged.add(id)

            async def streamed(number: int) -> None:
                call = client.execute(seconds=LONG)
                for count in range(100_000):
                    ids = [f"streamed-{number}-{count}-{each}" for each in range(10)]
                    try:
                        await call.write(envelopes(*map(register, ids)).SerializeToString())
                        data = await next_outcomes(call)
                    except Exception:
                        return  # It has ended, which gRPC tells in several ways.
                    for id, outcome in zip(ids, data, strict=True):
                        (acknowledged if outcome.HasField("result") else refused).add(id)

            working = [asyncio.create_task(single(number)) for number in range(20)]
            working += [asyncio.create_task(streamed(number)) for number in range(3)]
            await eventually(lambda: len(acknowledged) > 300, seconds=LONG)
            server.signal(signal.SIGTERM)
            await asyncio.gather(*working)
            assert await asyncio.to_thread(server.wait, LONG) == 0
        server.start()
        async with connected(server) as client:
            found = await recorded(client)
    assert acknowledged <= found, f"lost: {sorted(acknowledged - found)[:5]}"
    assert not refused & found, f"refused and recorded: {sorted(refused & found)[:5]}"


async def test_a_server_that_stops_while_the_log_hangs_answers_every_call_in_time(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(command_server(tmp_path / "data", "--stop-seconds=2"))
        async with connected(server) as client:
            with hung(tmp_path / "data" / "log.db"):
                taken = asyncio.create_task(client.command(register("taken"), seconds=LONG))
                await head(client)
                queued = [asyncio.create_task(client.command(register(f"q-{n}"), seconds=LONG)) for n in range(5)]
                await head(client)
                server.signal(signal.SIGTERM)
                answers = [await taken, *await asyncio.gather(*queued)]
            assert await asyncio.to_thread(server.wait, LONG) == 0
        # On a machine that is too slow to tell all in time, gRPC ends the rest itself.
        reasons = [answer.reason[2] if answer.status.details else "" for answer in answers]
        assert set(reasons) <= {"OUTCOME_UNKNOWN", "LOG_UNAVAILABLE", ""}, reasons
        server.start()
        async with connected(server) as client:
            found = await recorded(client)
            unsaid = {f"q-{n}" for n, reason in enumerate(reasons[1:]) if reason == "LOG_UNAVAILABLE"}
            assert not unsaid & found
            # Whatever became of it, a retry under its request id comes to the same.
            assert (await client.command(register("taken"), seconds=LONG)).result.version == 1
