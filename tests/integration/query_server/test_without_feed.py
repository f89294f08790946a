"""Query server without the projector's feed."""

from __future__ import annotations

import asyncio

import pytest

from diptych.contract.token import LogIdentity
from diptych.v1.projections_pb2 import ProjectionState
from library.lending import members
from tests.support.local_query_server import QueryServer, Refused, started_query_server
from tests.support.polling import eventually
from tests.support.query_server_calls import (
    ADA,
    get_ada,
    get_status,
    not_serving,
    still_waits,
    upstreams_read,
)
from tests.support.read_store_file import StoreFile
from tests.support.scripted_upstreams import ScriptedUpstreams


async def test_without_a_projector_reads_go_on_up_to_the_checkpoint(store: StoreFile, identity: LogIdentity) -> None:
    store.write(members, {"ada": ADA}, 7)
    async with ScriptedUpstreams(identity) as upstreams:
        await upstreams.stop()
        async with started_query_server(store.path, upstreams) as server:
            assert (await get_ada(server)).token == identity.token(7)
            assert (await get_ada(server, tokens=(identity.token(7),))).response == ADA
            with pytest.raises(Refused) as refused:
                await get_ada(server, tokens=(identity.token(8),), seconds=3)
            assert refused.value.reason == "READ_MODEL_BEHIND"
            assert not await server.serving("diptych.projection.lending")
            status = await get_status(server)
            assert status.log_id == identity.log_id.hex()
            assert not status.HasField("head_age")


async def test_the_store_proves_freshness_while_the_feed_is_silent(server: QueryServer, store: StoreFile) -> None:
    await server.upstreams.at(12)
    await upstreams_read(server, 12)
    server.upstreams.silent = True
    reading = asyncio.ensure_future(get_ada(server, tokens=(server.identity.token(12),)))
    assert await still_waits(server, reading)
    store.write(members, {"ada": ADA}, 12)

    assert (await reading).token == server.identity.token(12)


async def test_a_wait_without_a_feed_requests_the_checkpoint(store: StoreFile, upstreams: ScriptedUpstreams) -> None:
    store.write(members, {"ada": ADA}, 7)
    await upstreams.at(9)
    upstreams.silent = True
    async with started_query_server(store.path, upstreams) as server:
        reading = asyncio.ensure_future(get_ada(server, tokens=(upstreams.identity.token(9),)))
        await eventually(lambda: "lending" in upstreams.checkpoints_asked)
        store.write(members, {}, 9)
        assert (await reading).response == ADA


async def test_progress_of_a_feed_stays_valid_after_its_end(server: QueryServer) -> None:
    await server.upstreams.stop()

    assert (await get_ada(server, tokens=(server.identity.token(10),), seconds=2)).response == ADA


async def test_a_projection_without_feed_frames_is_not_serving(server: QueryServer) -> None:
    await eventually(lambda: server.serving("diptych.projection.lending"))
    await server.upstreams.stop()

    await eventually(lambda: not_serving(server, "diptych.projection.lending"))
    assert await server.serving("library.v1.QueryService")
    status = await get_status(server)
    assert {p.state for p in status.projections} == {ProjectionState.PROJECTION_STATE_UNSPECIFIED}

    await server.upstreams.start()
    await eventually(lambda: server.serving("diptych.projection.lending"))
