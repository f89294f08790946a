"""The command server as its clients see it: one process, a socket, bytes."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from diptych.contract.token import Token
from diptych.internal.v1.log_pb2 import (
    FollowRequest,
    FollowResponse,
    GetHeadRequest,
    GetHeadResponse,
    WatchHeadRequest,
    WatchHeadResponse,
)
from diptych.v1.commands_pb2 import AggregateRef, CommandContext, CommandEnvelope, ExecuteRequest
from diptych.v1.events_pb2 import (
    GetPositionRequest,
    GetPositionResponse,
    ReadStreamRequest,
    ReadStreamResponse,
    RecordedEvent,
    SubscribeRequest,
    SubscribeResponse,
)
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest
from shop.v1.user_commands_pb2 import (
    DeactivateUserRequest,
    RecordLoginRequest,
    RegisterUserRequest,
    UpdateUserProfileRequest,
)
from shop.v1.user_events_pb2 import LoginRecorded, UserRegistered
from tests.support.command_calls import (
    Answer,
    Client,
    command_server,
    connected,
    envelopes,
    info_of,
    next_outcomes,
)
from tests.support.programs import ROOT, Server

REGISTERED = UserRegistered.DESCRIPTOR.full_name
LOGGED_IN = LoginRecorded.DESCRIPTOR.full_name
SUBSCRIBE = "diptych.v1.EventService/Subscribe"
READ_STREAM = "diptych.v1.EventService/ReadStream"
GET_POSITION = "diptych.v1.EventService/GetPosition"
FOLLOW = "diptych.internal.v1.LogService/Follow"
WATCH_HEAD = "diptych.internal.v1.LogService/WatchHead"
GET_HEAD = "diptych.internal.v1.LogService/GetHead"
ENGINE = "diptych.v1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with command_server(tmp_path_factory.mktemp("command") / "data") as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with connected(server) as client:
        yield client


@pytest.fixture
def me() -> str:
    """An id of this test's own."""
    return f"u-{uuid.uuid4().hex[:12]}"


def register(user_id: str, email: str = "", **context: Any) -> RegisterUserRequest:
    email = email or f"{user_id or uuid.uuid4().hex}@example.com"
    return RegisterUserRequest(context=CommandContext(**context), user_id=user_id, email=email)


def login(user_id: str, **context: Any) -> RecordLoginRequest:
    return RecordLoginRequest(context=CommandContext(**context), user_id=user_id)


def user(user_id: str) -> AggregateRef:
    return AggregateRef(type="user", id=user_id)


async def head_of(client: Client) -> tuple[int, Any]:
    answer = await client.call(GET_HEAD, GetHeadRequest())
    head = GetHeadResponse.FromString(answer.response)
    return head.head_position, head.identity


def token_at(identity: Any, position: int) -> str:
    return str(Token(identity.log_id, identity.epochs[-1].epoch, position))


async def stream_of(client: Client, user_id: str) -> list[RecordedEvent]:
    answer = await client.call(READ_STREAM, ReadStreamRequest(aggregate=user(user_id), page_size=1000))
    assert answer.code is grpc.StatusCode.OK, answer.message
    return list(ReadStreamResponse.FromString(answer.response).events)


# Commands.


async def test_a_command_answers_with_its_result_and_its_token(client: Client, me: str) -> None:
    first = await client.command(register(me))
    second = await client.command(login(me))
    assert first.result.aggregate == user(me)
    assert (first.result.version, second.result.version) == (1, 2)
    assert not first.result.duplicate
    assert first.token == first.result.token < second.result.token == second.token
    [registered, logged_in] = await stream_of(client, me)
    assert Token.parse(first.token).position == registered.position
    assert Token.parse(second.token).position == logged_in.position


async def test_the_event_tells_how_it_came_about(client: Client, me: str) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    issued = Timestamp(seconds=1_900_000_000, nanos=5)
    command = register(me, request_id=f"r-{me}", causation_id="cause", issue_time=issued)
    await client.command(command, metadata=[("traceparent", trace)])
    await client.command(login(me, correlation_id="talk"), metadata=[("traceparent", "nonsense")])
    registered, logged_in = await stream_of(client, me)
    assert registered.metadata.request_id == registered.metadata.correlation_id == f"r-{me}"
    assert (registered.metadata.causation_id, registered.metadata.traceparent) == ("cause", trace)
    assert registered.metadata.issue_time == issued
    assert (logged_in.metadata.correlation_id, logged_in.metadata.traceparent) == ("talk", "")
    assert uuid.UUID(registered.event_id).version == 7
    assert registered.event.type_url.endswith(REGISTERED)


async def test_a_request_id_in_a_message_or_in_metadata_is_the_same(client: Client, me: str) -> None:
    metadata = [("diptych-request-id", f"r-{me}")]
    first = await client.command(register(me), metadata=metadata)
    again = await client.command(register(me, request_id=f"r-{me}"))
    assert again.result.duplicate
    assert (again.result.version, again.result.token) == (1, first.result.token)
    other = await client.command(login(me), metadata=metadata)
    assert other.reason == ("FAILED_PRECONDITION", ENGINE, "REQUEST_ID_REUSED")
    assert other.metadata == {"request_id": f"r-{me}"}
    of_the_message = await client.command(login(me, request_id=f"other-{me}"), metadata=metadata)
    assert of_the_message.result.version == 2
    assert (await stream_of(client, me))[1].metadata.request_id == f"other-{me}"


@pytest.mark.parametrize("request_id", ["with space", "x" * 129])
async def test_a_bad_request_id_is_refused_wherever_it_stands(client: Client, me: str, request_id: str) -> None:
    in_metadata = await client.command(register(me), metadata=[("diptych-request-id", request_id)])
    in_message = await client.command(register(me, request_id=request_id))
    for answer in (in_metadata, in_message):
        assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "INVALID_REQUEST")
        assert answer.fields == ["context.request_id"]


async def test_a_generated_id_is_told_and_stays_that_of_a_repeat(client: Client) -> None:
    command = register("", request_id=uuid.uuid4().hex)
    first = await client.command(command)
    again = await client.command(command)
    assert uuid.UUID(first.result.aggregate.id).version == 7
    assert again.result.aggregate == first.result.aggregate
    assert again.result.duplicate


async def test_a_stale_expected_version_is_a_conflict_with_both_versions(client: Client, me: str) -> None:
    await client.command(register(me))
    answer = await client.command(login(me, expected_version=7))
    assert answer.reason == ("ABORTED", ENGINE, "VERSION_CONFLICT")
    assert answer.metadata == {"aggregate": f"user/{me}", "expected_version": "7", "actual_version": "1"}
    assert (await client.command(register(me, expected_version=0))).reason[2] == "VERSION_CONFLICT"
    repeated = login(me, expected_version=1, request_id=f"r-{me}")
    first = await client.command(repeated)
    await client.command(login(me))
    assert (await client.command(repeated)).result.token == first.result.token


async def test_a_command_that_records_nothing_has_the_version_and_token_of_what_is_there(
    client: Client, me: str
) -> None:
    await client.command(register(me))
    first = await client.command(DeactivateUserRequest(user_id=me))
    again = await client.command(DeactivateUserRequest(user_id=me, context=CommandContext(request_id=f"r-{me}")))
    repeat = await client.command(DeactivateUserRequest(user_id=me, context=CommandContext(request_id=f"r-{me}")))
    assert (again.result.version, again.result.token, again.result.duplicate) == (2, first.result.token, False)
    assert (repeat.result.version, repeat.result.token, repeat.result.duplicate) == (2, first.result.token, True)


async def test_a_refusal_of_the_domain_tells_its_reason_and_values(client: Client, me: str) -> None:
    first = await client.command(register(me))
    exists = await client.command(register(me))
    assert exists.reason == ("ALREADY_EXISTS", "shop.v1", "USER_EXISTS")
    assert exists.metadata == {"user_id": me}
    assert me in exists.message
    assert exists.token == first.token
    taken = await client.command(register(f"{me}-2", email=f"{me.upper()}@EXAMPLE.com"))
    assert taken.reason == ("ALREADY_EXISTS", "shop.v1", "EMAIL_TAKEN")
    missing = await client.command(login(f"{me}-3"))
    assert missing.reason == ("NOT_FOUND", "shop.v1", "USER_NOT_FOUND")


async def test_the_greatest_token_presented_comes_back_if_nothing_later_was_written(client: Client, me: str) -> None:
    first = await client.command(register(me))
    head, identity = await head_of(client)
    later = token_at(identity, head + 1_000_000)
    presented = [("diptych-token", first.token), ("diptych-token", later)]
    malformed_command = await client.call("shop.v1.CommandService/RegisterUser", b"\xff", metadata=presented)
    for answer in (
        await client.command(login(me), metadata=presented),
        await client.command(login("nobody"), metadata=presented),
        await client.command(register("a b"), metadata=presented),
        malformed_command,
        await client.call(READ_STREAM, ReadStreamRequest(aggregate=user(me)), metadata=presented),
        await client.call(READ_STREAM, ReadStreamRequest(), metadata=presented),
        await client.call(GET_POSITION, GetPositionRequest(aggregate=user(me), version=1), metadata=presented),
        await Answer.of(await ended(client.stream(SUBSCRIBE, b"\xff", metadata=presented))),
    ):
        assert answer.token == later, answer.message
    earlier = await client.command(login(me), metadata=[("diptych-token", first.token)])
    assert earlier.token == earlier.result.token > first.token


async def ended(call: Any) -> Any:
    """The call, when its stream has ended."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass
    return call


async def test_what_is_no_token_of_this_log_is_not_told_back(client: Client, me: str) -> None:
    await client.command(register(me))
    _, identity = await head_of(client)
    own = token_at(identity, 0)
    bad = [own[:-1] + "~", own[:12] + "Z" * 20, "V" * 32, "x", str(Token(b"\xff" * 8, 9, 9))]
    answer = await client.command(login(me), metadata=[("diptych-token", value) for value in bad])
    assert answer.token == answer.result.token
    refused = await client.command(login("nobody"), metadata=[("diptych-token", value) for value in bad])
    assert refused.token == own


async def test_bytes_that_are_no_message_are_malformed(client: Client) -> None:
    answer = await client.call("shop.v1.CommandService/RegisterUser", b"\xff\xff")
    assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "MALFORMED_MESSAGE")
    assert answer.metadata == {"type": "shop.v1.RegisterUserRequest"}
    assert Token.parse(answer.token).position == 0


async def test_all_violations_are_told_with_their_paths(client: Client) -> None:
    item = ImportedItem(product_id="tea", quantity=1, unit_price=Money(currency_code="GBP"))
    bad = ImportedItem(product_id="tea", unit_price=Money(currency_code="gbp"))
    command = ImportOrderRequest(
        context=CommandContext(expected_version=-1, issue_time=Timestamp(nanos=-1)),
        order_id="a/b",
        order_time=Timestamp(seconds=1),
        items=[item, bad],
    )
    answer = await client.command(command)
    assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "INVALID_REQUEST")
    assert answer.fields == sorted(
        ["context.expected_version", "context.issue_time", "order_id", "items[1].quantity", "items[1].unit_price"]
    )
    assert answer.metadata == {"violations": "5"}
    message_rule = UpdateUserProfileRequest(user_id="ada")
    message_rule.update_mask.paths.append("email")
    assert (await client.command(message_rule)).fields == [""]


async def test_thousands_of_violations_are_no_more_than_a_client_takes(client: Client) -> None:
    command = ImportOrderRequest(order_time=Timestamp(seconds=1), items=[ImportedItem()] * 2000)
    answer = await client.command(command)
    assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "INVALID_REQUEST")
    assert answer.metadata == {"violations": "6000"}
    assert "items[0].product_id" in answer.fields


@pytest.mark.parametrize("method", ["shop.v1.CommandService/Nothing", "no.Such/Thing", "diptych.v1.EventService/x"])
async def test_an_unknown_method_is_told_by_us(client: Client, method: str) -> None:
    answer = await client.call(method, b"")
    assert answer.reason == ("UNIMPLEMENTED", ENGINE, "METHOD_UNKNOWN")
    assert answer.metadata == {"method": f"/{method}"}
    streaming: Any = client.channel.stream_stream(f"/{method}")(timeout=20)
    assert (await Answer.of(await ended(streaming))).reason == ("UNIMPLEMENTED", ENGINE, "METHOD_UNKNOWN")


async def test_a_message_over_the_limit_is_refused(client: Client, me: str) -> None:
    answer = await client.call("shop.v1.CommandService/RegisterUser", b"\x00" * ((4 << 20) + 1))
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await client.command(register(me))).result.version == 1, "the connection goes on"


# Execute.


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
    call = client.execute(metadata=[("diptych-request-id", "of-the-call")])
    await call.write(request.SerializeToString())
    first, second = await next_outcomes(call)
    call.cancel()
    assert (first.result.version, second.result.duplicate) == (1, True)
    assert (await stream_of(client, me))[0].metadata.request_id == f"r-{me}"


async def test_a_request_id_of_the_whole_stream_is_not_taken_for_its_commands(client: Client, me: str) -> None:
    call = client.execute(metadata=[("diptych-request-id", f"r-{me}")])
    await call.write(envelopes(register(me), login(me)).SerializeToString())
    assert [one.result.version for one in await next_outcomes(call)] == [1, 2]
    call.cancel()


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


async def test_a_message_that_takes_long_to_check_holds_nobody_up(client: Client, me: str) -> None:
    call = client.execute(seconds=60)
    bad = ImportOrderRequest(order_time=Timestamp(seconds=1), items=[ImportedItem()] * 30)
    await call.write(envelopes(*[bad] * 1000).SerializeToString())
    reading = asyncio.create_task(next_outcomes(call))
    answers = [await client.command(register(f"{me}-{number}")) for number in range(3)]
    assert not reading.done()
    assert [one.result.version for one in answers] == [1, 1, 1]
    assert len(await reading) == 1000
    call.cancel()


async def test_what_a_client_sent_that_vanished_harms_nobody(client: Client, me: str) -> None:
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


# Subscribe.


async def frames(call: Any, seconds: float = 15) -> AsyncIterator[SubscribeResponse]:
    async with asyncio.timeout(seconds):
        while (data := await call.read()) is not grpc.aio.EOF:
            yield SubscribeResponse.FromString(data)


async def caught_up(call: Any) -> tuple[list[RecordedEvent], str]:
    """The events until `caught_up`, and its token."""
    events: list[RecordedEvent] = []
    async for frame in frames(call):
        events += frame.batch.events
        if frame.HasField("caught_up"):
            return events, frame.caught_up.token
    raise AssertionError(f"the stream ended: {await call.details()}")


async def events_until(call: Any, count: int) -> list[RecordedEvent]:
    events: list[RecordedEvent] = []
    async for frame in frames(call):
        assert not frame.HasField("caught_up"), "caught_up is told once"
        events += frame.batch.events
        if len(events) >= count:
            return events
    raise AssertionError(f"the stream ended: {await call.details()}")


async def test_a_subscription_from_the_start_gets_every_event_then_live_ones(client: Client, me: str) -> None:
    await client.command(register(me))
    call = client.stream(SUBSCRIBE, SubscribeRequest())
    events, token = await caught_up(call)
    assert [one.position for one in events] == list(range(1, len(events) + 1))
    assert Token.parse(token).position == len(events)
    for _ in range(3):
        await client.command(login(me))
    live = await events_until(call, 3)
    call.cancel()
    assert [one.position for one in live] == [len(events) + n for n in (1, 2, 3)]
    assert [one.version for one in live] == [2, 3, 4]


async def test_a_subscription_starts_after_its_token_or_position(client: Client, me: str) -> None:
    first = await client.command(register(me))
    second = await client.command(login(me))
    position = Token.parse(first.token).position
    for request in (SubscribeRequest(token=first.token), SubscribeRequest(position=position)):
        call = client.stream(SUBSCRIBE, request)
        events, token = await caught_up(call)
        call.cancel()
        assert events[0].position == position + 1
        assert token >= second.token
    head, _ = await head_of(client)
    call = client.stream(SUBSCRIBE, SubscribeRequest(position=head))
    assert (await caught_up(call))[0] == []
    call.cancel()


async def test_a_filtered_subscription_gets_its_types_and_advances_over_all(client: Client, me: str) -> None:
    await client.command(register(me))
    await client.command(login(me))
    start, _ = await head_of(client)
    call = client.stream(SUBSCRIBE, SubscribeRequest(event_types=[REGISTERED]))
    events, _ = await caught_up(call)
    assert events
    assert all(one.event.type_url.endswith(REGISTERED) for one in events)
    answer = await client.command(login(me))
    async for frame in frames(call):
        assert not frame.batch.events
        if frame.progress.position >= start + 1:
            assert frame.progress.token >= answer.token
            assert frame.progress.head_position >= frame.progress.position
            break
    await client.command(register(f"{me}-2"))
    [event] = await events_until(call, 1)
    call.cancel()
    assert event.aggregate.id == f"{me}-2"


async def test_an_idle_subscription_tells_where_it_is(client: Client, me: str) -> None:
    answer = await client.command(register(me))
    call = client.stream(SUBSCRIBE, SubscribeRequest(token=answer.token))
    await caught_up(call)
    async for frame in frames(call, 5):
        if frame.HasField("progress"):
            assert frame.progress.token >= answer.token
            break
    call.cancel()


async def test_a_subscription_that_cannot_start_says_why(client: Client, me: str) -> None:
    first = await client.command(register(me))
    head, identity = await head_of(client)
    future = Token.parse(first.token)._replace(position=head + 100)
    older = Token.parse(first.token)._replace(epoch=0)

    async def refused(request: SubscribeRequest | bytes) -> Answer:
        return await Answer.of(await ended(client.stream(SUBSCRIBE, request)))

    for ahead in (SubscribeRequest(position=head + 100), SubscribeRequest(token=str(future))):
        answer = await refused(ahead)
        assert answer.reason == ("OUT_OF_RANGE", ENGINE, "TOKEN_AHEAD_OF_LOG")
        assert answer.metadata["position"] == str(head + 100)
    foreign = await refused(SubscribeRequest(token=str(Token(b"elsewher", 1, 1))))
    assert foreign.reason == ("FAILED_PRECONDITION", ENGINE, "TOKEN_OF_ANOTHER_LOG")
    assert foreign.metadata["log_id"] == identity.log_id.hex()
    assert (await refused(SubscribeRequest(token=str(older)))).reason[2] == "TOKEN_OF_OLDER_EPOCH"
    for text in ("", "nonsense", first.token.lower(), "é" * 32):
        malformed = await refused(SubscribeRequest(token=text))
        assert malformed.reason == ("INVALID_ARGUMENT", ENGINE, "TOKEN_MALFORMED"), text
    unknown = await refused(SubscribeRequest(event_types=[REGISTERED, "shop.v1.Nothing", "x" * 100_000]))
    assert unknown.reason == ("INVALID_ARGUMENT", ENGINE, "INVALID_REQUEST")
    assert unknown.fields == ["event_types[1]", "event_types[2]"]
    assert (await refused(SubscribeRequest(position=-1))).fields == ["position"]
    assert (await refused(b"\xff")).reason[2] == "MALFORMED_MESSAGE"


async def test_a_slow_subscriber_blocks_nobody_and_misses_nothing(tmp_path: Path) -> None:
    with command_server(tmp_path / "data", "--tail-events-max=200", "--tail-bytes-max=100000") as server:
        async with connected(server) as client:
            slow = client.stream(SUBSCRIBE, SubscribeRequest(), seconds=60)
            await caught_up(slow)
            quick = client.stream(SUBSCRIBE, SubscribeRequest(), seconds=60)
            await caught_up(quick)
            execute = client.execute(seconds=60)
            bio = "x" * 9000
            await execute.write(envelopes(register("ada")).SerializeToString())
            await next_outcomes(execute)
            for number in range(20):  # Far more than the sockets' buffers and the memory of the server hold.
                changes = [UpdateUserProfileRequest(user_id="ada", bio=f"{bio}{number}-{n}") for n in range(40)]
                await execute.write(envelopes(*changes).SerializeToString())
                assert [one.result.version for one in await next_outcomes(execute)][-1] == 40 * number + 41
            execute.cancel()
            for call in (quick, slow):
                events = await events_until(call, 801)
                assert [one.position for one in events] == list(range(1, 802))
                call.cancel()


async def test_subscriptions_are_limited_and_given_back(tmp_path: Path) -> None:
    with command_server(tmp_path / "data", "--subscriptions-max=3") as server:
        async with connected(server) as client:
            for _ in range(4):
                calls = [client.stream(SUBSCRIBE, SubscribeRequest()) for _ in range(3)]
                for call in calls:
                    await until_subscribed(client, call)
                one_more = await Answer.of(await ended(client.stream(SUBSCRIBE, SubscribeRequest())))
                assert one_more.reason == ("RESOURCE_EXHAUSTED", ENGINE, "OVERLOADED")
                assert one_more.retry_seconds
                for call in calls:
                    call.cancel()


async def until_subscribed(client: Client, call: Any) -> None:
    """Waits for `caught_up`, and tries again while the places of those that left are not free yet."""
    async with asyncio.timeout(10):
        while True:
            try:
                await caught_up(call)
            except (AssertionError, grpc.aio.AioRpcError):
                call = client.stream(SUBSCRIBE, SubscribeRequest())
            else:
                return


# ReadStream and GetPosition.


async def test_a_stream_is_read_in_pages(client: Client, me: str) -> None:
    await client.command(register(me))
    for _ in range(6):
        await client.command(login(me))
    versions: list[list[int]] = []
    token = ""
    while True:
        request = ReadStreamRequest(aggregate=user(me), from_version=2, page_size=4, page_token=token)
        answer = await client.call(READ_STREAM, request)
        page = ReadStreamResponse.FromString(answer.response)
        versions.append([one.version for one in page.events])
        token = page.next_page_token
        if not token:
            break
    assert versions == [[2, 3, 4, 5], [6, 7]]
    assert Token.parse(answer.token).position >= page.events[-1].position


async def test_a_page_token_belongs_to_its_query(client: Client, me: str) -> None:
    await client.command(register(me))
    await client.command(login(me))
    first = await client.call(READ_STREAM, ReadStreamRequest(aggregate=user(me), page_size=1))
    token = ReadStreamResponse.FromString(first.response).next_page_token
    for request in (
        ReadStreamRequest(aggregate=user(f"{me}-2"), page_token=token),
        ReadStreamRequest(aggregate=user(me), from_version=2, page_token=token),
        ReadStreamRequest(aggregate=user(me), page_token=token[:-3]),
        ReadStreamRequest(aggregate=user(me), page_token="é"),
        ReadStreamRequest(aggregate=user(me), page_token="AAAA"),
    ):
        answer = await client.call(READ_STREAM, request)
        assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "PAGE_TOKEN_INVALID")


async def test_a_stream_without_events_is_an_empty_page(client: Client) -> None:
    answer = await client.call(READ_STREAM, ReadStreamRequest(aggregate=user("nobody")))
    assert answer.code is grpc.StatusCode.OK
    assert answer.response == b""


async def test_large_events_make_small_pages(client: Client, me: str) -> None:
    call = client.execute()
    changes = [UpdateUserProfileRequest(user_id=me, bio=f"{n}" + "é" * 9000) for n in range(300)]
    await call.write(envelopes(register(me), *changes[:150]).SerializeToString())
    await call.write(envelopes(*changes[150:]).SerializeToString())
    await next_outcomes(call)
    assert (await next_outcomes(call))[-1].result.version == 301
    call.cancel()
    versions: list[int] = []
    token = ""
    while True:
        request = ReadStreamRequest(aggregate=user(me), page_size=1000, page_token=token)
        answer = await client.call(READ_STREAM, request)
        assert answer.code is grpc.StatusCode.OK, answer.message
        assert len(answer.response) < 1_100_000
        page = ReadStreamResponse.FromString(answer.response)
        versions += [one.version for one in page.events]
        token = page.next_page_token
        if not token:
            break
    assert versions == list(range(1, 302))


async def test_reading_a_stream_checks_what_is_asked(client: Client) -> None:
    for request, field in (
        (ReadStreamRequest(), "aggregate"),
        (ReadStreamRequest(aggregate=AggregateRef(type="nothing", id="x")), "aggregate.type"),
        (ReadStreamRequest(aggregate=AggregateRef(type="x" * 100_000, id="x")), "aggregate.type"),
        (ReadStreamRequest(aggregate=AggregateRef(type="user")), "aggregate.id"),
        (ReadStreamRequest(aggregate=user("x"), page_size=-1), "page_size"),
        (ReadStreamRequest(aggregate=user("x"), from_version=-1), "from_version"),
    ):
        answer = await client.call(READ_STREAM, request)
        assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "INVALID_REQUEST")
        assert answer.fields == [field]
    largest = ReadStreamRequest(aggregate=user("x"), from_version=(1 << 63) - 1, page_size=(1 << 31) - 1)
    assert (await client.call(READ_STREAM, largest)).code is grpc.StatusCode.OK


async def test_a_position_is_told_when_its_version_exists(client: Client, me: str) -> None:
    waiting = asyncio.create_task(client.call(GET_POSITION, GetPositionRequest(aggregate=user(me), version=2)))
    await client.command(register(me))
    answer = await client.command(login(me))
    found = GetPositionResponse.FromString((await waiting).response)
    assert found.token == answer.token
    assert found.position == Token.parse(answer.token).position
    at_once = await client.call(GET_POSITION, GetPositionRequest(aggregate=user(me), version=1))
    assert GetPositionResponse.FromString(at_once.response).position < found.position
    assert at_once.token == GetPositionResponse.FromString(at_once.response).token


async def test_a_version_that_does_not_come_is_told_before_the_deadline(client: Client, me: str) -> None:
    await client.command(register(me))
    answer = await client.call(GET_POSITION, GetPositionRequest(aggregate=user(me), version=2), seconds=3)
    assert answer.reason == ("DEADLINE_EXCEEDED", ENGINE, "VERSION_NOT_REACHED")
    assert answer.metadata == {"aggregate": f"user/{me}", "version": "2"}
    assert answer.token
    assert (await client.call(GET_POSITION, GetPositionRequest(aggregate=user(me)))).fields == ["version"]


# What the other servers use.


async def test_a_follower_gets_the_identity_then_what_matches_and_where_it_is(client: Client, me: str) -> None:
    await client.command(register(me))
    await client.command(login(me))
    events = await stream_of(client, me)
    start = events[0].position
    call = client.stream(FOLLOW, FollowRequest(position=start, event_types=[REGISTERED]))
    first = FollowResponse.FromString(await call.read())
    assert first.identity.log_id
    assert first.checkpoint_event_id == first.event_id == events[0].event_id
    assert not first.events
    reached = start
    while reached < events[1].position:
        frame = FollowResponse.FromString(await call.read())
        assert not frame.HasField("identity")
        reached = frame.position
    await client.command(login(me))
    await client.command(register(f"{me}-2"))
    [wanted] = await stream_of(client, f"{me}-2")
    found: list[RecordedEvent] = []
    frame = first
    while reached < wanted.position:
        frame = FollowResponse.FromString(await call.read())
        found += frame.events
        reached = frame.position
        assert frame.head_position >= reached
    call.cancel()
    assert wanted in found
    assert frame.event_id == wanted.event_id


async def test_every_frame_of_a_follower_names_the_event_at_its_position(client: Client, me: str) -> None:
    await client.command(register(me))
    head, _ = await head_of(client)
    subscription = client.stream(SUBSCRIBE, SubscribeRequest())
    ids = {one.position: one.event_id for one in (await caught_up(subscription))[0]}
    subscription.cancel()
    for types in ([], [REGISTERED], ["no.such.Type"]):
        call = client.stream(FOLLOW, FollowRequest(event_types=types))
        first = FollowResponse.FromString(await call.read())
        assert (first.position, first.event_id, first.checkpoint_event_id) == (0, "", "")
        reached = 0
        while reached < head:
            frame = FollowResponse.FromString(await call.read())
            assert frame.position > reached
            reached = frame.position
            assert frame.event_id == ids[reached]
        call.cancel()


async def test_a_follower_ahead_of_the_log_is_told_that_nothing_is_there(client: Client) -> None:
    head, _ = await head_of(client)
    call = client.stream(FOLLOW, FollowRequest(position=head + 1000))
    first = FollowResponse.FromString(await call.read())
    call.cancel()
    assert (first.checkpoint_event_id, first.head_position) == ("", head)


async def test_the_head_is_told_at_once_on_change_and_when_idle(client: Client, me: str) -> None:
    call = client.stream(WATCH_HEAD, WatchHeadRequest())
    first = WatchHeadResponse.FromString(await call.read())
    head, identity = await head_of(client)
    assert (first.identity, first.head_position) == (identity, head)
    idle = WatchHeadResponse.FromString(await call.read())
    assert (idle.HasField("identity"), idle.head_position) == (False, head)
    answer = await client.command(register(me))
    async with asyncio.timeout(5):
        while WatchHeadResponse.FromString(await call.read()).head_position < Token.parse(answer.token).position:
            pass
    call.cancel()


# Health, reflection, and the program itself.


async def test_health_is_told_for_the_process_and_every_service(client: Client) -> None:
    for service in (
        "",
        "shop.v1.CommandService",
        "diptych.v1.CommandStreamService",
        "diptych.v1.EventService",
        "diptych.internal.v1.LogService",
    ):
        answer = await client.call("grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service=service))
        found = health_pb2.HealthCheckResponse.FromString(answer.response)
        assert found.status == health_pb2.HealthCheckResponse.SERVING
    unknown = await client.call("grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service="x"))
    assert unknown.code is grpc.StatusCode.NOT_FOUND


async def test_reflection_tells_the_services_and_their_contracts(client: Client) -> None:
    call: Any = client.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()

    async def ask(**request: Any) -> reflection_pb2.ServerReflectionResponse:
        await call.write(reflection_pb2.ServerReflectionRequest(**request).SerializeToString())
        return reflection_pb2.ServerReflectionResponse.FromString(await call.read())

    services = {one.name for one in (await ask(list_services="")).list_services_response.service}
    assert {"shop.v1.CommandService", "diptych.v1.CommandStreamService", "diptych.v1.EventService"} <= services
    found = await ask(file_containing_symbol="shop.v1.RegisterUserRequest")
    assert found.file_descriptor_response.file_descriptor_proto
    call.cancel()


async def test_sigterm_ends_open_streams_and_exits_with_0(tmp_path: Path) -> None:
    with command_server(tmp_path / "data") as server:
        async with connected(server) as client:
            waiting = asyncio.create_task(
                client.call(GET_POSITION, GetPositionRequest(aggregate=user("ada"), version=99))
            )
            await client.command(register("ada"))
            subscription = client.stream(SUBSCRIBE, SubscribeRequest())
            await caught_up(subscription)
            follower = client.stream(FOLLOW, FollowRequest())
            await follower.read()
            head = client.stream(WATCH_HEAD, WatchHeadRequest())
            await head.read()
            execute = client.execute()
            await execute.write(envelopes(login("ada")).SerializeToString())
            await next_outcomes(execute)
            server.signal(signal.SIGTERM)
            for call in (subscription, follower, head, execute):
                answer = await Answer.of(await ended(call))
                assert answer.reason == ("UNAVAILABLE", ENGINE, "LOG_UNAVAILABLE")
            assert (await waiting).code is grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(server.wait, 5) == 0


def run_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "command_server", "--domain=shop", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def test_a_second_server_on_one_file_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    with command_server(tmp_path / "data") as server:
        second = await asyncio.to_thread(
            run_program, "--address=127.0.0.1:0", f"--log=sqlite:///{tmp_path / 'data' / 'log.db'}"
        )
        assert second.returncode == 1
        assert f"pid={server.pid}" in second.stderr
        assert f"address={server.address}" in second.stderr
        assert "Traceback" not in second.stderr
        async with connected(server) as client:
            assert (await client.command(register("ada"))).result.version == 1


def test_a_port_that_is_taken_is_named(server: Server, tmp_path: Path) -> None:
    second = run_program(f"--address={server.address}", f"--log=sqlite:///{tmp_path / 'log.db'}")
    assert second.returncode == 1
    assert server.address in second.stderr
    assert "Traceback" not in second.stderr


def test_an_address_beyond_loopback_is_refused(tmp_path: Path) -> None:
    refused = run_program("--address=0.0.0.0:0", f"--log=sqlite:///{tmp_path / 'log.db'}")
    assert refused.returncode == 1
    assert "--insecure" in refused.stderr
    assert not (tmp_path / "log.db").exists()


def test_a_file_that_is_no_log_is_refused_and_left_alone(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE precious (id)")
    other.close()
    (tmp_path / "text.db").write_text("not a database, but long enough to look at\n" * 100)
    (tmp_path / "folder.db").mkdir()
    for name in ("other.db", "text.db", "folder.db", "text.db/log.db"):
        refused = run_program("--address=127.0.0.1:0", f"--log=sqlite:///{tmp_path / name}")
        assert refused.returncode == 1, name
        assert "Traceback" not in refused.stderr
        assert name in refused.stderr
    other = sqlite3.connect(tmp_path / "other.db")
    assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("precious",)]
    other.close()


async def test_bug_a_follower_at_a_negative_position_was_answered_with_internal(client: Client) -> None:
    """With event types: the store was asked for the frame at a position that is none. Found by `test_fuzz.py`."""
    call = client.stream(FOLLOW, FollowRequest(position=-(1 << 63), event_types=["shop.v1.UserRegistered"]))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await Answer.of(call)).reason == ("INVALID_ARGUMENT", ENGINE, "INVALID_REQUEST")
