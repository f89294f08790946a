"""WaitForVersion and GetStatus."""

from __future__ import annotations

import asyncio
import time

import pytest
from google.protobuf.duration_pb2 import Duration

from diptych.contract.token import Epoch, LogIdentity
from diptych.v1.commands_pb2 import AggregateRef
from diptych.v1.projections_pb2 import ProjectionState
from diptych.v1.read_model_pb2 import (
    AggregateVersion,
    WaitForVersionRequest,
    WaitOutcome,
)
from tests.support.local_query_server import QueryServer, Refused, started_query_server
from tests.support.query_server_calls import (
    STALLED,
    get_status,
    still_waits,
    upstreams_read,
    wait_for,
)
from tests.support.read_store_file import StoreFile
from tests.support.scripted_upstreams import ScriptedUpstreams


async def test_wait_for_version_answers_when_reached(server: QueryServer) -> None:
    answer = await wait_for(server, 10)

    assert answer.outcome == WaitOutcome.WAIT_OUTCOME_REACHED
    assert answer.projection == "activity"
    assert answer.progress.token == server.identity.token(10)
    assert answer.progress.applied_position == answer.progress.head_position == 10
    assert answer.progress.lag_events == 0
    assert answer.progress.lag_time == Duration()


async def test_waiting_for_all_views_ends_with_the_last(server: QueryServer) -> None:
    await server.upstreams.at(12)
    waiting = asyncio.ensure_future(wait_for(server, 12))
    await server.upstreams.feed("lending", 12, 7)
    assert (await wait_for(server, 12, view="members")).outcome == WaitOutcome.WAIT_OUTCOME_REACHED
    assert not waiting.done()
    await server.upstreams.feed("activity", 12, 0)

    assert (await waiting).outcome == WaitOutcome.WAIT_OUTCOME_REACHED


async def test_a_wait_that_times_out_names_the_projection_furthest_behind(server: QueryServer) -> None:
    await server.upstreams.at(12)
    await server.upstreams.feed("lending", 11, 7)
    await upstreams_read(server, 12)

    answer = await wait_for(server, 12, seconds=3)

    assert answer.outcome == WaitOutcome.WAIT_OUTCOME_TIMED_OUT
    assert answer.projection == "activity"
    assert answer.progress.lag_events == 2
    assert answer.progress.lag_time.ToMilliseconds() > 0


async def test_a_wait_ends_at_once_when_the_projection_stalls(server: QueryServer) -> None:
    await server.upstreams.at(12)
    waiting = asyncio.ensure_future(wait_for(server, 12))
    assert await still_waits(server, waiting)
    await server.upstreams.feed("lending", 10, 7, state=STALLED, reason="FOLD_FAILED: it broke.")

    answer = await waiting
    assert (answer.outcome, answer.projection) == (WaitOutcome.WAIT_OUTCOME_STALLED, "lending")
    assert (await wait_for(server, 10)).outcome == WaitOutcome.WAIT_OUTCOME_REACHED


async def test_a_wait_for_an_aggregates_version_ends_when_it_is_applied(server: QueryServer) -> None:
    wanted = AggregateVersion(aggregate=AggregateRef(type="member", id="ada"), version=2)
    request = WaitForVersionRequest(view="members", aggregate_version=wanted)
    waiting = asyncio.ensure_future(server.ask(server.read_model.WaitForVersion, request))
    assert await still_waits(server, waiting)
    server.upstreams.positions["member/ada", 2] = 11
    await server.upstreams.at(11)
    assert await still_waits(server, waiting)
    await server.upstreams.feed("lending", 11, 11)

    assert (await waiting).response.outcome == WaitOutcome.WAIT_OUTCOME_REACHED


async def test_bug_an_aggregate_version_was_waited_for_without_its_epoch(server: QueryServer) -> None:
    """Its position, 8, is in a new epoch of the log, which this server does not know yet; the rows are of the first."""
    log = server.upstreams.identity
    server.upstreams.identity = LogIdentity(log.log_id, (*log.epochs, Epoch(2, 8)))
    server.upstreams.positions["member/ada", 2] = 8
    wanted = AggregateVersion(aggregate=AggregateRef(type="member", id="ada"), version=2)
    request = WaitForVersionRequest(view="members", aggregate_version=wanted)

    answer = await server.ask(server.read_model.WaitForVersion, request, seconds=3)

    assert answer.response.outcome == WaitOutcome.WAIT_OUTCOME_TIMED_OUT
    assert answer.response.progress.applied_position == 7


async def test_bug_an_overloaded_command_server_was_asked_ten_times_a_second(server: QueryServer) -> None:
    server.upstreams.is_overloaded = True
    wanted = AggregateVersion(aggregate=AggregateRef(type="member", id="ada"), version=3)
    request = WaitForVersionRequest(aggregate_version=wanted)

    answer = await server.ask(server.read_model.WaitForVersion, request, seconds=3)

    assert answer.response.outcome == WaitOutcome.WAIT_OUTCOME_TIMED_OUT
    assert server.upstreams.position_requests == 1, "it named a delay of 30 s"


async def test_a_wait_for_an_absent_version_times_out(server: QueryServer) -> None:
    wanted = AggregateVersion(aggregate=AggregateRef(type="member", id="ada"), version=3)
    request = WaitForVersionRequest(aggregate_version=wanted)

    answer = await server.ask(server.read_model.WaitForVersion, request, seconds=3)

    assert answer.response.outcome == WaitOutcome.WAIT_OUTCOME_TIMED_OUT


async def test_invalid_waits_are_refused(server: QueryServer) -> None:
    token = server.identity.token(1)
    for request, reason in (
        (WaitForVersionRequest(), "INVALID_REQUEST"),
        (WaitForVersionRequest(view="nothing", token=token), "UNKNOWN_VIEW"),
        (WaitForVersionRequest(token="x"), "TOKEN_MALFORMED"),
        (WaitForVersionRequest(token=server.identity.token(99)), "TOKEN_AHEAD_OF_LOG"),
    ):
        with pytest.raises(Refused) as refused:
            await server.ask(server.read_model.WaitForVersion, request)
        assert refused.value.reason == reason
        assert refused.value.token == server.identity.token(10)


async def test_the_status_has_every_projection_and_the_head(server: QueryServer) -> None:
    status = await get_status(server)

    assert status.log_id == server.identity.log_id.hex()
    assert (status.epoch, status.head_position) == (1, 10)
    assert status.head_age.ToMilliseconds() < 5000
    assert [p.name for p in status.projections] == ["activity", "lending"]
    told = status.projections[1]
    assert (told.version, told.generation, told.state) == (1, 1, ProjectionState.PROJECTION_STATE_RUNNING)
    assert [(view.name, view.row_type) for view in told.views] == [
        ("members", "library.v1.Member"),
        ("open_loans", "library.v1.OpenLoan"),
    ]
    assert not told.HasField("stalled_event")


async def test_stopping_ends_waits_at_once(store: StoreFile, upstreams: ScriptedUpstreams) -> None:
    await upstreams.at(5)
    await upstreams.feed("lending", 0, 0)
    await upstreams.feed("activity", 0, 0)
    began = time.monotonic()
    async with started_query_server(store.path, upstreams) as server:
        await upstreams_read(server, 5)
        waiting = asyncio.ensure_future(wait_for(server, 5, seconds=60))
        assert await still_waits(server, waiting)

        async def outcome() -> WaitOutcome:
            return (await waiting).outcome

        ending = asyncio.ensure_future(outcome())
    assert await ending == WaitOutcome.WAIT_OUTCOME_TIMED_OUT
    assert time.monotonic() - began < 5
