"""Command streams: order, refusals, limits and vanished clients."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from diptych.v1.commands_pb2 import CommandContext, CommandEnvelope, ExecuteRequest
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest
from tests.support.command_calls import (
    Answer,
    Client,
    command_server,
    connected,
    envelopes,
    info_of,
    next_outcomes,
)
from tests.support.shop_commands import (
    ENGINE,
    ended,
    head_of,
    login,
    register,
    stream_of,
)


async def test_outcomes_come_in_order_and_number_and_refusals_end_nothing(client: Client, me: str) -> None:
    call = client.execute()
    unknown = ExecuteRequest()
    unknown.commands.add().command.Pack(Timestamp())
    unknown.commands.add()
    malformed = unknown.commands.add()
    malformed.command.type_url = "type.googleapis.com/shop.v1.RegisterUserRequest"
    malformed.command.value = b"\xff"
    await call.write(envelopes(login(me), register(me), login(me), register("a b"), login(me)).SerializeToString())
    await call.write(b"")
    await call.write(unknown.SerializeToString())
    await call.write(envelopes(login(me)).SerializeToString())
    await call.done_writing()
    outcomes = await next_outcomes(call)
    assert [one.result.version for one in outcomes] == [0, 1, 2, 0, 3]
    assert info_of(outcomes[0].error)[:2] == ("shop.v1", "USER_NOT_FOUND")
    assert info_of(outcomes[3].error)[:2] == (ENGINE, "INVALID_REQUEST")
    assert await next_outcomes(call) == []
    reasons = [info_of(one.error)[1] for one in await next_outcomes(call)]
    assert reasons == ["COMMAND_UNKNOWN", "COMMAND_UNKNOWN", "MALFORMED_MESSAGE"]
    [last] = await next_outcomes(call)
    assert last.result.version == 4
    assert await call.read() is grpc.aio.EOF
    answer = await Answer.of(call)
    assert (answer.code, answer.token) == (grpc.StatusCode.OK, last.result.token)


async def test_the_context_of_an_envelope_replaces_the_commands_own(client: Client, me: str) -> None:
    envelope = CommandEnvelope(context=CommandContext(request_id=f"r-{me}"))
    envelope.command.Pack(register(me, request_id="own", expected_version=9))
    request = ExecuteRequest(commands=[envelope, envelope])
    call = client.execute()
    await call.write(request.SerializeToString())
    first, second = await next_outcomes(call)
    call.cancel()
    assert (first.result.version, second.result.duplicate) == (1, True)
    assert (await stream_of(client, me))[0].metadata.request_id == f"r-{me}"


async def test_bug_a_request_id_of_the_whole_stream_was_ignored(client: Client, me: str) -> None:
    call = client.execute(metadata=[("diptych-request-id", f"r-{me}")])
    answer = await Answer.of(await ended(call))
    assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "INVALID_REQUEST")
    assert answer.fields == ["diptych-request-id"]
    assert len(answer.token) == 32


async def test_too_many_commands_in_a_message_end_the_stream_after_what_came_before(client: Client, me: str) -> None:
    call = client.execute()
    await call.write(envelopes(register(me)).SerializeToString())
    await call.write(envelopes(*[login(me)] * 1001).SerializeToString())
    assert [one.result.version for one in await next_outcomes(call)] == [1]
    answer = await Answer.of(await ended(call))
    assert answer.reason == ("RESOURCE_EXHAUSTED", ENGINE, "OVERLOADED")
    assert answer.metadata["limit"] == "1000"
    assert len(await stream_of(client, me)) == 1


async def test_a_malformed_message_ends_the_stream_after_what_came_before(client: Client, me: str) -> None:
    call = client.execute()
    await call.write(envelopes(register(me)).SerializeToString())
    await call.write(b"\xff\xff")
    [outcome] = await next_outcomes(call)
    answer = await Answer.of(await ended(call))
    assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "MALFORMED_MESSAGE")
    assert answer.token == outcome.result.token


async def test_a_thousand_commands_of_one_stream_are_decided_in_the_order_sent(client: Client, me: str) -> None:
    call = client.execute(seconds=60)
    count = 100
    await call.write(envelopes(register(me)).SerializeToString())

    async def send() -> None:
        for number in range(count):
            expected = 10 * number + 1
            commands = [login(me, expected_version=expected + index) for index in range(10)]
            await call.write(envelopes(*commands).SerializeToString())
        await call.done_writing()

    sending = asyncio.create_task(send())
    assert [one.result.version for one in await next_outcomes(call)] == [1]
    versions = [one.result.version for _ in range(count) for one in await next_outcomes(call)]
    assert versions == list(range(2, 10 * count + 2))
    await sending
    assert await call.read() is grpc.aio.EOF


async def test_a_thousand_refusals_fit_into_one_response(client: Client) -> None:
    call = client.execute(seconds=60)
    bad = ImportOrderRequest(order_time=Timestamp(seconds=1), items=[ImportedItem()] * 30)
    await call.write(envelopes(*[bad] * 1000).SerializeToString())
    outcomes = await next_outcomes(call)
    call.cancel()
    assert {info_of(one.error)[1] for one in outcomes} == {"INVALID_REQUEST"}
    assert len(outcomes) == 1000


async def test_a_message_that_takes_long_to_check_delays_no_other_call(client: Client, me: str) -> None:
    call = client.execute(seconds=60)
    bad = ImportOrderRequest(order_time=Timestamp(seconds=1), items=[ImportedItem()] * 30)
    await call.write(envelopes(*[bad] * 1000).SerializeToString())
    reading = asyncio.create_task(next_outcomes(call))
    answers = [await client.command(register(f"{me}-{number}")) for number in range(3)]
    assert not reading.done()
    assert [one.result.version for one in answers] == [1, 1, 1]
    assert len(await reading) == 1000
    call.cancel()


async def test_commands_of_a_vanished_client_delay_no_other_call(client: Client, me: str) -> None:
    call = client.execute()
    await call.write(envelopes(register(me), *[login(me)] * 200).SerializeToString())
    await next_outcomes(call)
    await call.write(envelopes(login(me)).SerializeToString())
    call.cancel()
    assert (await client.command(login(me))).result.version in (202, 203)


async def test_a_full_queue_refuses_single_calls_and_slows_streams_down(tmp_path: Path) -> None:
    with command_server(tmp_path / "data", "--queue-commands-max=5", "--batch-commands-max=1") as server:
        async with connected(server) as client:
            call = client.execute()
            await call.write(envelopes(*[register(f"u{n}") for n in range(100)]).SerializeToString())
            outcomes = await next_outcomes(call)
            assert [one.HasField("result") for one in outcomes] == [True] * 100
            answers = await asyncio.gather(*(client.command(register(f"v{n}")) for n in range(100)))
            overloaded = [one for one in answers if one.code is not grpc.StatusCode.OK]
            for answer in overloaded:
                assert answer.reason == ("RESOURCE_EXHAUSTED", ENGINE, "OVERLOADED")
                assert answer.retry_seconds is not None
                assert answer.retry_seconds > 0
                assert answer.metadata["limit"] == "5"
            assert overloaded
            head, _ = await head_of(client)
            assert head == 200 - len(overloaded)
