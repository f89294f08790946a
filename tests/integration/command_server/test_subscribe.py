"""Subscriptions: start, filters, progress, slow subscribers and limits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from diptych.contract.token import Token
from diptych.v1.events_pb2 import (
    RecordedEvent,
    SubscribeRequest,
)
from shop.v1.user_commands_pb2 import (
    UpdateUserProfileRequest,
)
from tests.support.command_calls import (
    Answer,
    Client,
    command_server,
    connected,
    envelopes,
    next_outcomes,
)
from tests.support.shop_commands import (
    ENGINE,
    REGISTERED,
    SUBSCRIBE,
    caught_up,
    ended,
    frames,
    head_of,
    login,
    register,
)


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


async def test_an_idle_subscription_sends_progress(client: Client, me: str) -> None:
    answer = await client.command(register(me))
    call = client.stream(SUBSCRIBE, SubscribeRequest(token=answer.token))
    await caught_up(call)
    async for frame in frames(call, 5):
        if frame.HasField("progress"):
            assert frame.progress.token >= answer.token
            break
    call.cancel()


async def test_a_subscription_that_cannot_start_is_refused_with_a_reason(client: Client, me: str) -> None:
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
    """Wait for `caught_up`, and try again while the server still counts streams that have left."""
    async with asyncio.timeout(10):
        while True:
            try:
                await caught_up(call)
            except (AssertionError, grpc.aio.AioRpcError):
                call = client.stream(SUBSCRIBE, SubscribeRequest())
            else:
                return
