"""LogService, which the other servers use."""

from __future__ import annotations

import asyncio

from diptych.contract.token import Token
from diptych.internal.v1.log_pb2 import (
    FollowRequest,
    FollowResponse,
    WatchHeadRequest,
    WatchHeadResponse,
)
from diptych.v1.events_pb2 import (
    RecordedEvent,
    SubscribeRequest,
)
from tests.support.command_calls import (
    Client,
)
from tests.support.shop_commands import (
    FOLLOW,
    REGISTERED,
    SUBSCRIBE,
    WATCH_HEAD,
    caught_up,
    head_of,
    login,
    register,
    stream_of,
)


async def test_a_follower_gets_identity_then_matching_events_and_positions(client: Client, me: str) -> None:
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


async def test_a_follower_ahead_of_the_log_gets_an_empty_checkpoint(client: Client) -> None:
    head, _ = await head_of(client)
    call = client.stream(FOLLOW, FollowRequest(position=head + 1000))
    first = FollowResponse.FromString(await call.read())
    call.cancel()
    assert (first.checkpoint_event_id, first.head_position) == ("", head)


async def test_watch_head_sends_changes_at_once_and_signs_of_life(client: Client, me: str) -> None:
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
