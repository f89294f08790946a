"""A token's own event that a projection leaves out: progress, look-ups in the store, and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.contract.reasons import ReadModelParked
from diptych.contract.token import Epoch, LogIdentity
from diptych.domain.domain import Domain
from diptych.domain.projection import Projection
from diptych.internal.v1 import feed_pb2
from diptych.v1.projections_pb2 import ProjectionState
from diptych.v1.read_model_pb2 import WaitOutcome
from query_server.freshness.fresh_read import FreshReads
from query_server.freshness.tracker import FreshnessTracker
from query_server.freshness.version_wait import VersionWaits
from query_server.rows.row_source import StoredEvent, StoredGeneration

LOG = LogIdentity(bytes(range(8)), (Epoch(1, 1),))


class Store:
    """A read store of one projection: its generation, checkpoint, and what it leaves out."""

    def __init__(self) -> None:
        self.generation = 1
        self.checkpoint = 0
        self.left_out: set[int] = set()
        self.calls: list[int] = []
        self.at_event: Callable[[], None] = lambda: None

    async def event(self, projection: str, position: int) -> StoredEvent:
        self.calls.append(position)
        error = "It broke." if position in self.left_out and position <= self.checkpoint else None
        told = StoredEvent(self.generation, self.checkpoint, error)
        await asyncio.sleep(0)
        self.at_event()
        return told


class At(NamedTuple):
    """Report of a read, and its result for the event."""

    generation: int
    position: int
    left_out: bool


class Stage:
    """Progress of one projection, from a feed and a store that the test controls."""

    def __init__(self) -> None:
        self.freshness = FreshnessTracker(
            Domain("d", aggregates=[], projections=[Projection("p", version=1)]), waits_max=100
        )
        self.freshness.on_head(100, LOG)
        self.store = Store()
        self.fresh = FreshReads(self.freshness, self.store)
        self.tracker = self.freshness.projections["p"]
        self.polls = 0
        self.at_poll: Callable[[], None] = lambda: None

    def feed(self, applied: int, left_out: int = 0, changed: int | None = None, **more: Any) -> None:
        said = feed_pb2.ProjectionFeed(
            name="p",
            version=1,
            state=ProjectionState.PROJECTION_STATE_RUNNING,
            applied_position=applied,
            changed_position=applied if changed is None else changed,
            left_out_position=left_out,
            **{"generation": 1, **more},
        )
        self.freshness.on_feed_frame(feed_pb2.FollowFeedResponse(projections=[said]))

    def poll(self, **more: Any) -> None:
        store = self.store
        last = max((p for p in store.left_out if p <= store.checkpoint), default=0)
        found = StoredGeneration("p", store.generation, 1, store.checkpoint, LOG, False, 0, 0, last, **more)
        self.freshness.on_store_poll([found])

    async def _poll_while_needed(self) -> None:
        while True:
            await self.freshness.poll_needed.wait()
            self.freshness.poll_needed.clear()
            while self.tracker.waits_for_store:
                await asyncio.sleep(0)
                self.polls += 1
                self.at_poll()
                self.poll()

    async def read(self, position: int) -> At:
        async def read() -> At:
            return At(self.store.generation, self.store.checkpoint, position in self.store.left_out)

        until = self.freshness.now + 30
        polling = asyncio.create_task(self._poll_while_needed())
        try:
            got, included = await self.fresh.read(self.tracker, position, until, read, own=True)
        finally:
            polling.cancel()
        assert included >= position
        return got


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_while_nothing_is_left_out_nothing_is_asked(stage: Stage) -> None:
    stage.store.checkpoint = 10
    stage.feed(10)
    assert (await stage.read(10)).position == 10
    stage.freshness.on_feed_lost()
    stage.store.checkpoint = 20
    stage.poll()
    assert (await stage.read(15)).position == 20
    stage.store.left_out = {3}
    stage.feed(30, left_out=3)
    stage.store.checkpoint = 30
    assert (await stage.read(7)).position == 30
    assert stage.store.calls == []


async def test_what_is_left_out_is_told_and_what_lies_before_it_is_served(stage: Stage) -> None:
    stage.store.checkpoint, stage.store.left_out = 10, {3, 9}
    stage.feed(10, left_out=9)
    for position in (3, 9):
        with pytest.raises(ReadModelParked) as refused:
            await stage.read(position)
        assert refused.value == ReadModelParked(projection="p", position=position, error="It broke.")
    assert not (await stage.read(5)).left_out
    assert stage.store.calls == [3, 9, 5]


async def test_a_store_that_is_ahead_of_the_feed_is_asked(stage: Stage) -> None:
    stage.feed(5)
    stage.store.checkpoint, stage.store.left_out = 10, {8}
    stage.freshness.on_read(stage.tracker, 1, 10)  # By some other read.
    with pytest.raises(ReadModelParked):
        await stage.read(8)
    assert (await stage.read(7)).position == 10


async def test_what_became_of_it_in_a_generation_that_is_gone_proves_nothing(stage: Stage) -> None:
    stage.store.checkpoint = 10
    stage.freshness.on_read(stage.tracker, 1, 10)

    def switch() -> None:
        stage.store.generation, stage.store.left_out = 2, {8}

    stage.store.at_event = switch
    with pytest.raises(ReadModelParked):
        await stage.read(8)
    assert stage.store.calls == [8, 8]


async def test_bug_a_read_waited_for_a_generation_that_was_gone(stage: Stage) -> None:
    """The projector switched, and died before it could tell."""
    stage.store.checkpoint = 10
    stage.feed(10)
    stage.freshness.on_feed_lost()
    stage.store.generation = 2
    async with asyncio.timeout(10):
        assert (await stage.read(7)).generation == 2


async def test_a_store_that_does_not_show_it_yet_is_asked_again(stage: Stage) -> None:
    """A replica is read: the feed reports a left-out event up to that position."""
    stage.feed(10, left_out=10, changed=5)
    stage.store.checkpoint = 5

    def catch_up() -> None:
        if stage.polls == 3:
            stage.store.checkpoint, stage.store.left_out = 10, {8, 10}

    stage.at_poll = catch_up
    with pytest.raises(ReadModelParked):
        await stage.read(8)
    assert stage.store.calls == [8, 8]
    assert stage.polls == 3


async def test_the_first_position_is_no_event(stage: Stage) -> None:
    stage.feed(0)
    await stage.read(0)
    assert stage.store.calls == []


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.booleans()),
        st.tuples(st.just("feed"), st.booleans()),
        st.tuples(st.just("poll"), st.booleans()),
        st.tuples(st.just("fold"), st.booleans()),
        st.tuples(st.just("rebuild"), st.booleans()),
        st.tuples(st.just("lose"), st.booleans()),
    ),
    max_size=30,
)


@given(_STEPS, st.integers(1, 12))
def test_no_event_that_is_left_out_is_ever_taken_for_applied(steps: list[tuple[str, bool]], position: int) -> None:
    """In any order of reports, the event is proved applied, looked up in the store, or not applied yet."""
    stage = Stage()
    store = stage.store

    def look() -> None:
        known = stage.tracker.progress.own_event_applied(position)
        if known == store.generation:
            assert position <= store.checkpoint
            assert position not in store.left_out

    for step, flag in steps:
        match step:
            case "apply":
                store.checkpoint += 1
                if flag:
                    store.left_out.add(store.checkpoint)
            case "feed":
                stage.feed(store.checkpoint, max(store.left_out, default=0), generation=store.generation)
            case "poll":
                stage.poll()
            case "fold" if store.left_out:  # What is parked is folded in place.
                store.left_out.remove(max(store.left_out) if flag else min(store.left_out))
            case "rebuild":
                store.generation += 1
                store.left_out = set()
            case "lose":
                stage.freshness.on_feed_lost()
            case _:
                pass
        look()


def test_every_caller_is_told_apart() -> None:
    async def all_at_once() -> Sequence[At | BaseException]:
        stage = Stage()
        stage.store.checkpoint, stage.store.left_out = 10, {3}
        stage.feed(10, left_out=3)
        return await asyncio.gather(stage.read(3), stage.read(2), stage.read(9), return_exceptions=True)

    refused, earlier, later = asyncio.run(all_at_once())
    assert isinstance(refused, ReadModelParked)
    assert isinstance(earlier, At)
    assert isinstance(later, At)


async def test_bug_a_wait_timed_out_for_what_was_there_when_the_store_had_been_asked_about_another() -> None:
    domain = Domain("d", aggregates=[], projections=[Projection("p", version=1), Projection("q", version=1)])
    freshness, store = FreshnessTracker(domain, waits_max=100), Store()
    store.checkpoint = 9
    freshness.on_head(9, LOG)

    def feed(name: str, applied: int, left_out: int) -> None:
        state = ProjectionState.PROJECTION_STATE_RUNNING
        said = feed_pb2.ProjectionFeed(
            name=name, version=1, generation=1, state=state, applied_position=applied, left_out_position=left_out
        )
        freshness.on_feed_frame(feed_pb2.FollowFeedResponse(projections=[said]))

    feed("p", 9, left_out=9)  # So the store is asked what became of 5.
    feed("q", 3, left_out=0)
    store.at_event = lambda: feed("q", 5, left_out=0)
    waits = VersionWaits(freshness, FreshReads(freshness, store))
    result = await waits.wait(list(freshness.projections.values()), 5, until=freshness.now)
    assert result.outcome == WaitOutcome.WAIT_OUTCOME_REACHED


async def test_what_was_waited_for_in_vain_is_not_told_to_be_applied() -> None:
    domain = Domain("d", aggregates=[], projections=[Projection("p", version=1)])
    freshness, store = FreshnessTracker(domain, waits_max=100), Store()
    store.checkpoint = 7
    freshness.on_head(9, LOG)
    state = ProjectionState.PROJECTION_STATE_RUNNING
    said = feed_pb2.ProjectionFeed(name="p", version=1, generation=1, state=state, applied_position=9)
    freshness.on_feed_frame(feed_pb2.FollowFeedResponse(projections=[said]))
    # The feed ends after a switch, and the generation that is read instead does not have it all on disk yet.
    freshness.on_feed_lost()
    freshness.on_read(freshness.projections["p"], 2, 7)
    waits = VersionWaits(freshness, FreshReads(freshness, store))
    outcome, _, position = await waits.wait(list(freshness.projections.values()), 8, freshness.now)
    assert (outcome, position) == (WaitOutcome.WAIT_OUTCOME_TIMED_OUT, 7)
