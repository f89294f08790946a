"""The query server over real sockets, with a command server and a projector that say what the test wants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from diptych.contract.token import Epoch, LogIdentity
from diptych.v1.commands_pb2 import AggregateRef
from diptych.v1.consistency_pb2 import Consistency, MinimizeLatency
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.projections_pb2 import ProjectionState
from diptych.v1.read_model_pb2 import (
    AggregateVersion,
    GetStatusRequest,
    GetStatusResponse,
    WaitForVersionRequest,
    WaitForVersionResponse,
    WaitOutcome,
)
from library.lending import activity, days, lending, members, open_loans
from library.v1.query_service_pb2 import (
    GetLoanDayRequest,
    GetLoanStatisticsRequest,
    GetMemberRequest,
    GetOpenLoanRequest,
    ListMembersRequest,
    ListMembersResponse,
    ListOverdueLoansRequest,
    LoanStatistics,
)
from library.v1.resources_pb2 import LoanDay, Member, OpenLoan
from tests.support.local_query_server import QueryServer, Refused, library_store, started_query_server
from tests.support.polling import eventually
from tests.support.read_store_file import StoreFile
from tests.support.scripted_upstreams import ScriptedUpstreams

STALLED = ProjectionState.PROJECTION_STATE_STALLED
ADA = Member(member_id="ada", email="ada@example.com", name="Ada Lovelace")


@pytest.fixture
def identity() -> LogIdentity:
    return LogIdentity.new()


@pytest.fixture
async def upstreams(identity: LogIdentity) -> AsyncIterator[ScriptedUpstreams]:
    async with ScriptedUpstreams(identity) as scripted:
        yield scripted


@pytest.fixture
def store(tmp_path: Path, identity: LogIdentity) -> Iterator[StoreFile]:
    made = library_store(tmp_path / "read.db", identity)
    yield made
    made.close()


@pytest.fixture
async def server(store: StoreFile, upstreams: ScriptedUpstreams) -> AsyncIterator[QueryServer]:
    """A server that has read everything up to 10, of 10: `ada` was the last to change, at 7."""
    store.write(members, {"ada": ADA}, 7)
    store.write(days, {}, 10)
    await upstreams.at(10)
    await upstreams.feed("lending", 10, 7)
    await upstreams.feed("activity", 10, 0)
    async with started_query_server(store.path, upstreams, wait_seconds=5) as started:
        await known(started, 10)
        yield started


async def known(server: QueryServer, head: int) -> None:
    """Waits until the server has heard both streams."""

    async def heard() -> bool:
        status = await get_status(server)
        return status.head_position == head and all(p.state for p in status.projections)

    await eventually(heard)


async def get_status(server: QueryServer) -> GetStatusResponse:
    answer = await server.ask(server.read_model.GetStatus, GetStatusRequest())
    assert isinstance(answer.response, GetStatusResponse)
    return answer.response


def fresh(token: str) -> Consistency:
    return Consistency(at_least_as_fresh=token)


def get_ada(server: QueryServer, **options: Any) -> Any:
    consistency = options.pop("consistency", None)
    return server.ask(server.library.GetMember, GetMemberRequest(member_id="ada", consistency=consistency), **options)


async def still_waits(server: QueryServer, *calls: asyncio.Future[Any]) -> bool:
    """Return True if calls have no answer, though a read that was sent after them has one.

    The later read is a barrier: its key is in no cache, so it goes through the store, as a call that did not wait
    would have done before it.
    """
    _barriers.append(f"barrier-{len(_barriers)}")
    with pytest.raises(Refused, match="MEMBER_NOT_FOUND"):
        await server.ask(server.library.GetMember, GetMemberRequest(member_id=_barriers[-1]))
    return not any(call.done() for call in calls)


_barriers: list[str] = []
"""Keys that barriers have read: each one is read once."""


async def wait_for(server: QueryServer, position: int, view: str = "", seconds: float = 10) -> WaitForVersionResponse:
    request = WaitForVersionRequest(view=view, token=server.identity.token(position))
    answer = await server.ask(server.read_model.WaitForVersion, request, seconds=seconds)
    assert isinstance(answer.response, WaitForVersionResponse)
    return answer.response


# Gets and the proof.


async def test_a_row_comes_as_it_is_stored_with_the_token_it_was_read_at(server: QueryServer) -> None:
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


async def test_a_feed_that_is_ahead_of_the_store_is_not_believed_about_rows(
    server: QueryServer, store: StoreFile
) -> None:
    await server.upstreams.at(11)
    await server.upstreams.feed("lending", 11, 11)
    await eventually(lambda: applied(server, "lending", 11))
    reading = asyncio.ensure_future(get_ada(server, tokens=(server.identity.token(11),)))
    assert await still_waits(server, reading)

    changed = Member(member_id="ada", email="countess@example.com")
    store.write(members, {"ada": changed}, 11)

    assert (await reading).response == changed


async def applied(server: QueryServer, projection: str, position: int) -> bool:
    status = await get_status(server)
    return any(p.name == projection and p.progress.applied_position == position for p in status.projections)


async def test_a_feed_of_another_generation_proves_nothing(server: QueryServer) -> None:
    await server.upstreams.at(20)
    await server.upstreams.feed("lending", 20, 7, generation=2)
    await eventually(lambda: applied(server, "lending", 20))

    with pytest.raises(Refused) as refused:
        await get_ada(server, tokens=(server.identity.token(20),), seconds=3)

    assert refused.value.reason == "READ_MODEL_BEHIND"


async def test_behind_is_told_in_time_with_the_values(server: QueryServer) -> None:
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


async def test_a_deadline_too_short_to_wait_is_answered_all_the_same(server: QueryServer) -> None:
    await server.upstreams.at(12)
    await known(server, 12)
    refusals = set()
    for _ in range(20):
        try:
            await get_ada(server, tokens=(server.identity.token(12),), seconds=0.03)
        except Refused as refused:
            refusals.add(refused.reason)
        except KeyError:  # gRPC's own word, when the machine was too slow for 5 ms.
            continue

    assert refusals == {"READ_MODEL_BEHIND"}


async def test_without_a_deadline_the_wait_has_an_end_of_its_own(
    store: StoreFile, upstreams: ScriptedUpstreams
) -> None:
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


async def test_the_waits_have_a_limit(store: StoreFile, upstreams: ScriptedUpstreams) -> None:
    await upstreams.at(5)
    await upstreams.feed("lending", 0, 0)
    await upstreams.feed("activity", 0, 0)
    async with started_query_server(store.path, upstreams, waits_max=3) as server:
        await known(server, 5)
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
        await known(server, 5)
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


# Tokens.


@pytest.mark.parametrize("token", ["", "x", "A" * 31, "a" * 32, "W" * 32, "=" * 32])
async def test_a_malformed_token(server: QueryServer, token: str) -> None:
    with pytest.raises(Refused) as refused:
        await get_ada(server, consistency=fresh(token))

    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.reason == "TOKEN_MALFORMED"
    assert refused.value.token == server.identity.token(10)


async def test_a_token_of_another_log_even_beside_a_good_one(server: QueryServer) -> None:
    foreign = LogIdentity(bytes(8), (Epoch(1, 1),)).token(1)
    for tokens in ((foreign,), (foreign, server.identity.token(3))):
        with pytest.raises(Refused) as refused:
            await get_ada(server, tokens=tokens)
        assert refused.value.reason == "TOKEN_OF_ANOTHER_LOG"
        assert refused.value.info.metadata["token_log_id"] == "00" * 8


async def test_tokens_of_an_older_epoch(store: StoreFile, upstreams: ScriptedUpstreams) -> None:
    before = upstreams.identity
    upstreams.identity = LogIdentity(before.log_id, (Epoch(1, 1), Epoch(2, 6)))
    store.write(members, {"ada": ADA}, 8)
    await upstreams.at(8)
    await upstreams.feed("lending", 8, 8)
    await upstreams.feed("activity", 8, 8)
    async with started_query_server(store.path, upstreams) as server:
        await known(server, 8)
        answer = await get_ada(server, tokens=(before.token(5),))
        assert answer.token == upstreams.identity.token(8) > before.token(8)
        with pytest.raises(Refused) as refused:
            await get_ada(server, tokens=(before.token(6),))
        assert refused.value.reason == "TOKEN_OF_OLDER_EPOCH"
        assert refused.value.info.metadata["first_position"] == "6"


async def test_a_token_ahead_of_the_log_is_asked_about_once(server: QueryServer) -> None:
    with pytest.raises(Refused) as refused:
        await get_ada(server, tokens=(server.identity.token(99),))

    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.reason == "TOKEN_AHEAD_OF_LOG"
    assert dict(refused.value.info.metadata) == {"position": "99", "head_position": "10"}
    assert server.upstreams.heads_asked == 1


async def test_a_token_ahead_of_what_was_heard_is_good_if_the_command_server_says_so(
    server: QueryServer, store: StoreFile
) -> None:
    server.upstreams.head_told = 10
    server.upstreams.head = 12
    reading = asyncio.ensure_future(get_ada(server, tokens=(server.identity.token(12),)))
    await eventually(lambda: server.upstreams.heads_asked == 1)
    assert await still_waits(server, reading)
    store.write(members, {"ada": ADA}, 12)
    await server.upstreams.feed("lending", 12, 12)

    assert (await reading).token == server.identity.token(12)


async def test_a_token_ahead_waits_as_any_when_nobody_can_be_asked(server: QueryServer, store: StoreFile) -> None:
    await server.upstreams.stop()
    reading = asyncio.ensure_future(get_ada(server, tokens=(server.identity.token(12),)))
    assert await still_waits(server, reading)
    changed = Member(member_id="ada", email="countess@example.com")
    store.write(members, {"ada": changed}, 12)  # By a projector that cannot be reached.

    assert (await reading).response == changed, "an answer that had not waited would have the old row"


async def test_the_field_wins_over_the_metadata_entirely(server: QueryServer) -> None:
    foreign = LogIdentity(bytes(8), (Epoch(1, 1),)).token(1)
    ahead = server.identity.token(99)
    for consistency in (Consistency(minimize_latency=MinimizeLatency()), fresh(server.identity.token(4))):
        answer = await get_ada(server, consistency=consistency, tokens=(foreign, ahead, "nonsense"))
        assert answer.token == server.identity.token(10)

    with pytest.raises(Refused) as refused:
        await get_ada(server, consistency=Consistency(), tokens=(ahead,))
    assert refused.value.reason == "TOKEN_AHEAD_OF_LOG"


async def test_a_query_asked_before_is_held_to_each_callers_own_token(server: QueryServer, store: StoreFile) -> None:
    assert (await get_ada(server)).response == ADA
    for tokens, reason in ((("nonsense",), "TOKEN_MALFORMED"), ((server.identity.token(99),), "TOKEN_AHEAD_OF_LOG")):
        with pytest.raises(Refused) as refused:
            await get_ada(server, tokens=tokens)
        assert refused.value.reason == reason
    assert (await get_ada(server, tokens=(server.identity.token(10),))).response == ADA

    told = []
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await server.ask(server.library.GetMember, GetMemberRequest(member_id="nobody"))
        told.append((refused.value.reason, dict(refused.value.info.metadata)))
    assert told[0] == told[1], "a missing row is told as well the second time"


# Staleness.


async def test_max_staleness_takes_a_head_heard_lately(server: QueryServer) -> None:
    answer = await get_ada(server, consistency=Consistency(max_staleness=Duration(seconds=5)))

    assert answer.response == ADA
    assert server.upstreams.heads_asked == 0


async def test_max_staleness_of_zero_asks_for_the_head(server: QueryServer) -> None:
    await get_ada(server, consistency=Consistency(max_staleness=Duration()))
    assert server.upstreams.heads_asked == 1

    server.upstreams.head_told = 10
    server.upstreams.head = 11
    with pytest.raises(Refused) as refused:
        await get_ada(server, consistency=Consistency(max_staleness=Duration()), seconds=3)
    assert refused.value.reason == "READ_MODEL_BEHIND"
    assert refused.value.info.metadata["wanted_position"] == "11"


async def test_max_staleness_cannot_be_shown_without_the_command_server(server: QueryServer) -> None:
    await server.upstreams.stop()
    with pytest.raises(Refused) as refused:
        await get_ada(server, consistency=Consistency(max_staleness=Duration(nanos=1)), seconds=0.4)

    assert refused.value.reason == "READ_MODEL_BEHIND"


async def test_a_negative_staleness_is_invalid(server: QueryServer) -> None:
    with pytest.raises(Refused) as refused:
        await get_ada(server, consistency=Consistency(max_staleness=Duration(seconds=-1)))

    assert refused.value.reason == "INVALID_REQUEST"
    assert refused.value.fields == ["consistency.max_staleness"]


# What is not there.


async def test_a_missing_row_says_how_far_the_read_model_is(server: QueryServer) -> None:
    with pytest.raises(Refused) as refused:
        await server.ask(server.library.GetMember, GetMemberRequest(member_id="bob"))
    assert refused.value.code is grpc.StatusCode.NOT_FOUND
    assert refused.value.reason == "MEMBER_NOT_FOUND"
    assert refused.value.info.domain == "library.v1"
    assert dict(refused.value.info.metadata) == {
        "member_id": "bob",
        "applied_position": "10",
        "head_position": "10",
    }
    assert refused.value.retry.retry_delay.ToMilliseconds() == 0
    assert refused.value.token == server.identity.token(10)

    await server.upstreams.at(15)
    await known(server, 15)
    with pytest.raises(Refused) as refused:
        await server.ask(server.library.GetOpenLoan, GetOpenLoanRequest(loan_id="c.1"))
    assert refused.value.reason == "ROW_NOT_FOUND"
    assert refused.value.info.domain == "diptych.v1"
    assert refused.value.info.metadata["head_position"] == "15"
    assert refused.value.retry.retry_delay.ToMilliseconds() > 0


async def test_a_query_may_have_a_row_for_what_is_not_there(server: QueryServer) -> None:
    answer = await server.ask(server.library.GetLoanDay, GetLoanDayRequest(day="2026-01-01"))

    assert answer.response == LoanDay(day="2026-01-01")


async def test_a_deleted_row_is_not_there(server: QueryServer, store: StoreFile) -> None:
    store.write(members, {"ada": None}, 11)

    with pytest.raises(Refused) as refused:
        await get_ada(server)

    assert refused.value.reason == "MEMBER_NOT_FOUND"


async def test_a_query_is_refused_when_it_breaks_the_contract(server: QueryServer) -> None:
    with pytest.raises(Refused) as refused:
        await server.ask(server.library.GetMember, GetMemberRequest())
    assert refused.value.reason == "INVALID_REQUEST"
    assert refused.value.fields == ["member_id"]
    assert refused.value.token == server.identity.token(10)


async def test_a_query_is_refused_when_its_bytes_are_no_message(server: QueryServer) -> None:
    get_member: Any = server.channel.unary_unary("/library.v1.QueryService/GetMember")
    with pytest.raises(Refused) as refused:
        await server.ask(get_member, b"\xff\xff")
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.reason == "MALFORMED_MESSAGE"
    assert refused.value.info.metadata["type"] == "library.v1.GetMemberRequest"
    assert refused.value.token == server.identity.token(10)


async def test_the_store_is_waited_for_and_found_again(
    tmp_path: Path, identity: LogIdentity, upstreams: ScriptedUpstreams
) -> None:
    path = tmp_path / "read.db"
    await upstreams.feed("lending", 9, 0)
    async with started_query_server(path, upstreams) as server:
        assert not await server.serving("")
        assert not await server.serving("library.v1.QueryService")
        with pytest.raises(Refused) as refused:
            await get_ada(server)
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
        assert refused.value.reason == "READ_MODEL_NOT_READY"

        store = library_store(path, identity)
        store.write(members, {"ada": ADA}, 3)
        await eventually(lambda: server.serving("library.v1.QueryService"))
        assert (await get_ada(server)).token == identity.token(3)
        store.close()

        remove_files(tmp_path)
        await eventually(lambda: not_serving(server))
        with pytest.raises(Refused):
            await get_ada(server)

        store = library_store(path, identity)
        await eventually(lambda: server.serving(""))
        with pytest.raises(Refused) as refused:
            await get_ada(server)
        assert refused.value.reason == "MEMBER_NOT_FOUND"
        await eventually(lambda: applied(server, "lending", 9))  # The feed was asked again, as what it said was void.
        assert upstreams.feeds >= 2
        store.close()


def remove_files(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


async def not_serving(server: QueryServer, service: str = "") -> bool:
    return not await server.serving(service)


async def test_a_projection_that_the_store_has_not_is_not_ready_and_harms_no_other(
    tmp_path: Path, identity: LogIdentity, upstreams: ScriptedUpstreams
) -> None:
    store = StoreFile(tmp_path / "read.db", (activity,), identity)
    store.close()
    async with started_query_server(store.path, upstreams) as server:
        with pytest.raises(Refused) as refused:
            await get_ada(server)
        assert refused.value.reason == "READ_MODEL_NOT_READY"
        assert refused.value.info.metadata["projection"] == "lending"
        await server.ask(server.library.GetLoanDay, GetLoanDayRequest(day="d"))
        with pytest.raises(Refused) as refused:
            await wait_for(server, 0)
        assert refused.value.reason == "READ_MODEL_NOT_READY"
        assert (await wait_for(server, 0, view="loan_days")).outcome == WaitOutcome.WAIT_OUTCOME_REACHED


# The feed is away.


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


async def test_a_silent_feed_is_stood_in_for_by_the_store(server: QueryServer, store: StoreFile) -> None:
    await server.upstreams.at(12)
    await known(server, 12)
    server.upstreams.silent = True
    reading = asyncio.ensure_future(get_ada(server, tokens=(server.identity.token(12),)))
    assert await still_waits(server, reading)
    store.write(members, {"ada": ADA}, 12)

    assert (await reading).token == server.identity.token(12)


async def test_those_who_wait_without_a_feed_have_the_checkpoint_written(
    store: StoreFile, upstreams: ScriptedUpstreams
) -> None:
    store.write(members, {"ada": ADA}, 7)
    await upstreams.at(9)
    upstreams.silent = True
    async with started_query_server(store.path, upstreams) as server:
        reading = asyncio.ensure_future(get_ada(server, tokens=(upstreams.identity.token(9),)))
        await eventually(lambda: "lending" in upstreams.checkpoints_asked)
        store.write(members, {}, 9)
        assert (await reading).response == ADA


async def test_what_a_feed_said_outlives_it(server: QueryServer) -> None:
    await server.upstreams.stop()

    assert (await get_ada(server, tokens=(server.identity.token(10),), seconds=2)).response == ADA


async def test_a_projection_not_heard_of_is_not_healthy(server: QueryServer) -> None:
    await eventually(lambda: server.serving("diptych.projection.lending"))
    await server.upstreams.stop()

    await eventually(lambda: not_serving(server, "diptych.projection.lending"))
    assert await server.serving("library.v1.QueryService")
    status = await get_status(server)
    assert {p.state for p in status.projections} == {ProjectionState.PROJECTION_STATE_UNSPECIFIED}

    await server.upstreams.start()
    await eventually(lambda: server.serving("diptych.projection.lending"))


# Generations.


async def test_a_switch_of_generation_loses_no_read(server: QueryServer, store: StoreFile) -> None:
    stop = asyncio.Event()
    seen: set[str] = set()

    async def read() -> None:
        while not stop.is_set():
            seen.add((await get_ada(server)).response.name)

    reading = [asyncio.ensure_future(read()) for _ in range(4)]
    new = Member(member_id="ada", name="Augusta Ada King")
    store.begin(lending, 2, active=False)
    store.write(members, {"ada": new}, 10, generation=2)
    store.switch(lending, 2, drop=1)
    await eventually(lambda: "Augusta Ada King" in seen)
    stop.set()
    await asyncio.gather(*reading)

    assert (await get_ada(server)).response == new
    status = {p.name: p for p in (await get_status(server)).projections}
    await eventually(lambda: generation_is(server, 2))
    assert status["lending"].version == 1


async def generation_is(server: QueryServer, generation: int) -> bool:
    status = {p.name: p for p in (await get_status(server)).projections}
    return status["lending"].generation == generation


# Lists.


def people(count: int) -> dict[str, Member]:
    return {
        f"m{number:02}": Member(
            member_id=f"m{number:02}",
            email=f"{'ABab'[number % 4]}{number:02}@example.com",
            name=f"Name {number} 100%_\\",
            open_loans=number % 3,
        )
        for number in range(count)
    }


async def list_members(server: QueryServer, **request: Any) -> ListMembersResponse:
    answer = await server.ask(server.library.ListMembers, ListMembersRequest(**request))
    assert isinstance(answer.response, ListMembersResponse)
    assert answer.token >= server.identity.token(10)
    return answer.response


async def all_pages(server: QueryServer, **request: Any) -> list[Member]:
    found: list[Member] = []
    token = ""
    while True:
        page = await list_members(server, page_token=token, **request)
        found += page.members
        token = page.next_page_token
        if not token:
            return found


async def test_lists_come_in_pages_and_in_order(server: QueryServer, store: StoreFile) -> None:
    rows = people(60)
    store.write(members, {**rows, "ada": None}, 12)

    expected = sorted(rows.values(), key=lambda m: m.email)
    first = await list_members(server, include_total=True)
    assert list(first.members) == expected[:50]
    assert first.total_size == 60
    assert await all_pages(server, page_size=7) == expected
    assert await all_pages(server, page_size=5000) == expected
    assert await all_pages(server, page_size=7, order_by="open_loans desc, email") == sorted(
        expected, key=lambda m: -m.open_loans
    )
    latest_first = sorted(rows.values(), key=lambda m: m.email, reverse=True)
    assert await all_pages(server, page_size=7, order_by=" open_loans ,  email   desc ") == sorted(
        latest_first, key=lambda m: m.open_loans
    )
    assert not (await list_members(server)).HasField("total_size")


async def test_filters(server: QueryServer, store: StoreFile) -> None:
    rows = people(20)
    store.write(members, {**rows, "ada": None}, 12)

    def named(found: ListMembersResponse) -> set[str]:
        return {member.member_id for member in found.members}

    assert named(await list_members(server, name="NAME 1 ")) == {"m01"}
    assert len(named(await list_members(server, name="100%_\\"))) == 20
    assert named(await list_members(server, name="1%0")) == set()
    assert named(await list_members(server, email_prefix="a")) == {"m02", "m06", "m10", "m14", "m18"}
    assert named(await list_members(server, emails=["A00@example.com", "nobody", "'\"\\"])) == {"m00"}
    empty = await list_members(server, name="nothing", include_total=True)
    assert (named(empty), empty.HasField("total_size"), empty.total_size) == (set(), True, 0)


@pytest.mark.parametrize("order", ["age", "email asc", "email desc desc", "email,", ",", "email, email desc", "key"])
async def test_an_order_that_is_not_served(server: QueryServer, order: str) -> None:
    with pytest.raises(Refused) as refused:
        await list_members(server, order_by=order)

    assert refused.value.reason == "INVALID_REQUEST"
    assert refused.value.fields == ["order_by"]


async def test_a_negative_page_size(server: QueryServer) -> None:
    with pytest.raises(Refused) as refused:
        await list_members(server, page_size=-1)

    assert refused.value.reason == "INVALID_REQUEST"
    assert refused.value.fields == ["page_size"]


async def test_a_page_token_belongs_to_its_query(server: QueryServer, store: StoreFile) -> None:
    store.write(members, people(10), 12)
    await server.upstreams.at(12)
    token = (await list_members(server, page_size=3)).next_page_token

    kept = await list_members(server, page_size=5, page_token=token, consistency=fresh(server.identity.token(12)))
    assert len(kept.members) == 5
    for request in (
        {"order_by": "email desc"},
        {"order_by": "open_loans"},
        {"name": "Name"},
        {"include_total": True},
    ):
        with pytest.raises(Refused) as refused:
            await list_members(server, page_token=token, **request)
        assert refused.value.reason == "PAGE_TOKEN_INVALID"
    for broken in ("x", token[:-4], token + "AAAA", "é", "A" * 40, token.replace(token[:3], "AAA")):
        with pytest.raises(Refused) as refused:
            await list_members(server, page_token=broken)
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.reason == "PAGE_TOKEN_INVALID"


async def test_a_list_without_pages_gives_all_or_says_that_it_cannot(server: QueryServer, store: StoreFile) -> None:
    loans = {f"l{number:04}": OpenLoan(loan_id=f"l{number:04}") for number in range(1001)}
    store.write(open_loans, dict(list(loans.items())[:1000]), 12)
    answer = await server.ask(server.library.ListOverdueLoans, ListOverdueLoansRequest())
    assert len(answer.response.loans) == 1000

    store.write(open_loans, loans, 13)
    with pytest.raises(Refused) as refused:
        await server.ask(server.library.ListOverdueLoans, ListOverdueLoansRequest())
    assert refused.value.reason == "OVERLOADED"


async def test_combined_rows(server: QueryServer, store: StoreFile) -> None:
    store.write(days, {f"d{n}": LoanDay(day=f"d{n}", borrowed=n) for n in range(5)}, 12)

    answer = await server.ask(server.library.GetLoanStatistics, GetLoanStatisticsRequest(first_day="d2"))

    assert answer.response == LoanStatistics(days=3, borrowed=9)
    assert answer.token == server.identity.token(12)


async def test_combined_rows_have_a_limit(store: StoreFile, upstreams: ScriptedUpstreams) -> None:
    store.write(days, {f"d{n}": LoanDay(day=f"d{n}") for n in range(5)}, 12)
    async with started_query_server(store.path, upstreams, combined_rows_max=4) as server:
        with pytest.raises(Refused) as refused:
            await server.ask(server.library.GetLoanStatistics, GetLoanStatisticsRequest())
        assert refused.value.reason == "OVERLOADED"
        await server.ask(server.library.GetLoanStatistics, GetLoanStatisticsRequest(first_day="d1"))


# WaitForVersion and GetStatus.


async def test_a_version_reached(server: QueryServer) -> None:
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


async def test_a_wait_that_times_out_names_the_projection_worst_off(server: QueryServer) -> None:
    await server.upstreams.at(12)
    await server.upstreams.feed("lending", 11, 7)
    await known(server, 12)

    answer = await wait_for(server, 12, seconds=3)

    assert answer.outcome == WaitOutcome.WAIT_OUTCOME_TIMED_OUT
    assert answer.projection == "activity"
    assert answer.progress.lag_events == 2
    assert answer.progress.lag_time.ToMilliseconds() > 0


async def test_a_stall_is_told_at_once(server: QueryServer) -> None:
    await server.upstreams.at(12)
    waiting = asyncio.ensure_future(wait_for(server, 12))
    assert await still_waits(server, waiting)
    await server.upstreams.feed("lending", 10, 7, state=STALLED, reason="FOLD_FAILED: it broke.")

    answer = await waiting
    assert (answer.outcome, answer.projection) == (WaitOutcome.WAIT_OUTCOME_STALLED, "lending")
    assert (await wait_for(server, 10)).outcome == WaitOutcome.WAIT_OUTCOME_REACHED


async def test_a_version_of_an_aggregate(server: QueryServer) -> None:
    wanted = AggregateVersion(aggregate=AggregateRef(type="member", id="ada"), version=2)
    request = WaitForVersionRequest(view="members", aggregate_version=wanted)
    waiting = asyncio.ensure_future(server.ask(server.read_model.WaitForVersion, request))
    assert await still_waits(server, waiting)
    server.upstreams.positions["member/ada", 2] = 11
    await server.upstreams.at(11)
    assert await still_waits(server, waiting)
    await server.upstreams.feed("lending", 11, 11)

    assert (await waiting).response.outcome == WaitOutcome.WAIT_OUTCOME_REACHED


async def test_a_version_that_never_comes_times_out(server: QueryServer) -> None:
    wanted = AggregateVersion(aggregate=AggregateRef(type="member", id="ada"), version=3)
    request = WaitForVersionRequest(aggregate_version=wanted)

    answer = await server.ask(server.read_model.WaitForVersion, request, seconds=3)

    assert answer.response.outcome == WaitOutcome.WAIT_OUTCOME_TIMED_OUT


async def test_waits_that_make_no_sense(server: QueryServer) -> None:
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


async def test_the_status_tells_everything(server: QueryServer) -> None:
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
        await known(server, 5)
        waiting = asyncio.ensure_future(wait_for(server, 5, seconds=60))
        assert await still_waits(server, waiting)

        async def outcome() -> WaitOutcome:
            return (await waiting).outcome

        ending = asyncio.ensure_future(outcome())
    assert await ending == WaitOutcome.WAIT_OUTCOME_TIMED_OUT
    assert time.monotonic() - began < 5
