"""Reads with and without tokens: the row, the token, and the wait until freshness is proved."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from diptych.v1.events_pb2 import RecordedEvent
from library.lending import members
from library.v1.query_service_pb2 import (
    GetMemberRequest,
)
from library.v1.resources_pb2 import Member
from tests.support.local_query_server import QueryServer, Refused, started_query_server
from tests.support.polling import eventually
from tests.support.query_server_calls import (
    ADA,
    STALLED,
    applied,
    fresh,
    get_ada,
    get_status,
    not_serving,
    still_waits,
    upstreams_read,
)
from tests.support.read_store_file import StoreFile
from tests.support.scripted_upstreams import ScriptedUpstreams


async def test_get_returns_the_stored_row_and_the_token_of_the_read(server: QueryServer) -> None:
    answer = await get_ada(server)

    assert answer.response == ADA
    assert answer.token == server.identity.token(10)


async def test_a_token_beyond_the_checkpoint_is_honoured_when_nothing_changed_since(server: QueryServer) -> None:
    answer = await get_ada(server, tokens=(server.identity.token(10),))

    assert answer.response == ADA
    assert server.upstreams.checkpoints_asked == []


async def test_a_read_waits_for_its_token(server: QueryServer, store: StoreFile) -> None:
    await server.upstreams.at(11)
    reading = asyncio.ensure_future(get_ada(server, consistency=fresh(server.identity.token(11))))
    assert await still_waits(server, reading)

    changed = Member(member_id="ada", email="countess@example.com")
    store.write(members, {"ada": changed}, 11)
    await server.upstreams.feed("lending", 11, 11)

    answer = await reading
    assert answer.response == changed
    assert answer.token == server.identity.token(11)


async def test_a_read_waits_for_the_store_when_only_the_feed_is_ahead(server: QueryServer, store: StoreFile) -> None:
    await server.upstreams.at(11)
    await server.upstreams.feed("lending", 11, 11)
    await eventually(lambda: applied(server, "lending", 11))
    reading = asyncio.ensure_future(get_ada(server, tokens=(server.identity.token(11),)))
    assert await still_waits(server, reading)

    changed = Member(member_id="ada", email="countess@example.com")
    store.write(members, {"ada": changed}, 11)

    assert (await reading).response == changed


async def test_a_feed_of_another_generation_proves_nothing(server: QueryServer) -> None:
    await server.upstreams.at(20)
    await server.upstreams.feed("lending", 20, 7, generation=2)
    await eventually(lambda: applied(server, "lending", 20))

    with pytest.raises(Refused) as refused:
        await get_ada(server, tokens=(server.identity.token(20),), seconds=3)

    assert refused.value.reason == "READ_MODEL_BEHIND"


async def test_read_model_behind_is_refused_before_the_deadline_with_positions(server: QueryServer) -> None:
    await server.upstreams.at(12)
    began = time.monotonic()

    with pytest.raises(Refused) as refused:
        await get_ada(server, tokens=(server.identity.token(12),), seconds=3)

    assert refused.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert refused.value.reason == "READ_MODEL_BEHIND"
    assert dict(refused.value.info.metadata) == {
        "projection": "lending",
        "applied_position": "10",
        "wanted_position": "12",
        "lag_events": "2",
    }
    assert refused.value.token == server.identity.token(12)
    assert time.monotonic() - began < 3


async def test_a_read_with_a_very_short_deadline_is_refused_as_behind(server: QueryServer) -> None:
    await server.upstreams.at(12)
    await upstreams_read(server, 12)
    refusals = set()
    for _ in range(20):
        try:
            await get_ada(server, tokens=(server.identity.token(12),), seconds=0.03)
        except Refused as refused:
            refusals.add(refused.reason)
        except KeyError:  # gRPC's own word, when the machine was too slow for 5 ms.
            continue

    assert refusals == {"READ_MODEL_BEHIND"}


async def test_a_read_without_a_deadline_waits_for_wait_seconds(store: StoreFile, upstreams: ScriptedUpstreams) -> None:
    await upstreams.at(5)
    await upstreams.feed("lending", 0, 0)
    await upstreams.feed("activity", 0, 0)
    async with started_query_server(store.path, upstreams, wait_seconds=0.2) as server:
        call = server.library.GetMember(
            GetMemberRequest(member_id="ada"), metadata=(("diptych-token", upstreams.identity.token(5)),)
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call

    assert Refused(error.value).reason == "READ_MODEL_BEHIND"


async def test_a_stalled_projection_refuses_at_once_what_lies_beyond(server: QueryServer) -> None:
    await server.upstreams.at(12)
    event = RecordedEvent(position=11, event_id="e")
    reading = asyncio.ensure_future(get_ada(server, tokens=(server.identity.token(12),)))
    assert await still_waits(server, reading)
    await server.upstreams.feed("lending", 10, 7, state=STALLED, reason="FOLD_FAILED: it broke.", stalled_event=event)

    with pytest.raises(Refused) as refused:
        await reading

    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.reason == "READ_MODEL_STALLED"
    assert refused.value.info.metadata["stall_reason"] == "FOLD_FAILED: it broke."
    assert (await get_ada(server)).response == ADA
    assert (await get_ada(server, tokens=(server.identity.token(10),))).response == ADA
    status = {p.name: p for p in (await get_status(server)).projections}
    assert status["lending"].stalled_event == event
    # Health follows with the next look at the store, which may be the first one.
    await eventually(lambda: server.serving("diptych.projection.activity"))
    await eventually(lambda: server.serving("library.v1.QueryService"))
    await eventually(lambda: not_serving(server, "diptych.projection.lending"))


async def test_reads_beyond_the_limit_of_waits_are_refused(store: StoreFile, upstreams: ScriptedUpstreams) -> None:
    await upstreams.at(5)
    await upstreams.feed("lending", 0, 0)
    await upstreams.feed("activity", 0, 0)
    async with started_query_server(store.path, upstreams, waits_max=3) as server:
        await upstreams_read(server, 5)
        token = upstreams.identity.token(5)
        waiting = [asyncio.ensure_future(get_ada(server, tokens=(token,), seconds=2)) for _ in range(3)]
        assert await still_waits(server, *waiting)
        with pytest.raises(Refused) as refused:
            await get_ada(server, tokens=(token,), seconds=2)
        assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.value.reason == "OVERLOADED"
        assert refused.value.retry.retry_delay.ToMilliseconds() > 0
        store.write(members, {"ada": ADA}, 5)
        await upstreams.feed("lending", 5, 5)
        assert [(await wait).response for wait in waiting] == [ADA] * 3


async def test_a_cancelled_wait_makes_room(store: StoreFile, upstreams: ScriptedUpstreams) -> None:
    await upstreams.at(5)
    await upstreams.feed("lending", 0, 0)
    await upstreams.feed("activity", 0, 0)
    async with started_query_server(store.path, upstreams, waits_max=1) as server:
        await upstreams_read(server, 5)
        token = upstreams.identity.token(5)
        for _ in range(5):
            waiting = asyncio.ensure_future(get_ada(server, tokens=(token,)))
            assert await still_waits(server, waiting)
            waiting.cancel()

        async def room() -> bool:
            with pytest.raises(Refused) as refused:
                await get_ada(server, tokens=(token,), seconds=3)
            return refused.value.reason == "READ_MODEL_BEHIND"

        await eventually(room)
