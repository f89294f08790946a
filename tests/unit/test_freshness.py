"""What freshness knows, proves and waits for, without any server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych import Domain, Projection
from diptych.contract.identity_codec import identity_to_message
from diptych.contract.reasons import (
    Overloaded,
    ReadModelBehind,
    ReadModelNotReady,
    ReadModelPaused,
    ReadModelRebuilding,
    ReadModelStalled,
    TokenAheadOfLog,
    TokenOfAnotherLog,
    TokenOfOlderEpoch,
)
from diptych.contract.token import Epoch, LogIdentity
from diptych.internal.v1 import feed_pb2
from diptych.v1.projections_pb2 import ProjectionState
from query_server.freshness.tracker import Freshness, Head, HeadHeard, Tracker
from query_server.rows.row_reader import StoredGeneration
from tests.support.clock import Clock

RUNNING = ProjectionState.PROJECTION_STATE_RUNNING
REBUILDING = ProjectionState.PROJECTION_STATE_REBUILDING
PAUSED = ProjectionState.PROJECTION_STATE_PAUSED
STALLED = ProjectionState.PROJECTION_STATE_STALLED
UNKNOWN = ProjectionState.PROJECTION_STATE_UNSPECIFIED
LOG = LogIdentity(bytes(range(8)), (Epoch(1, 1),))


class Answers:
    """A command server and a projector that are asked."""

    def __init__(self) -> None:
        self.head: HeadHeard | None = None
        self.asked = 0
        self.gate: asyncio.Event | None = None
        self.checkpoints: list[str] = []

    async def ask_head(self) -> HeadHeard | None:
        self.asked += 1
        said = self.head
        if self.gate is not None:
            await self.gate.wait()
        return said

    def ask_checkpoint(self, projection: str) -> None:
        self.checkpoints.append(projection)


class At(NamedTuple):
    """What a read says about itself."""

    generation: int
    position: int


@pytest.fixture
def answers() -> Answers:
    return Answers()


def freshness_of(answers: Answers, *names: str, waits_max: int = 100, **more: Any) -> Freshness:
    projections = [Projection(name, version=1) for name in names or ("p",)]
    freshness = Freshness(Domain("d", aggregates=[], projections=projections), answers, waits_max=waits_max, **more)
    freshness.heard_head(0, LOG)
    return freshness


def feed(freshness: Freshness, applied: int, changed: int, name: str = "p", **more: Any) -> None:
    values = {"generation": 1, "version": 1, "state": RUNNING, **more}
    freshness.heard_feed(
        feed_pb2.FollowFeedResponse(
            projections=[
                feed_pb2.ProjectionFeed(name=name, applied_position=applied, changed_position=changed, **values)
            ]
        )
    )


def store(freshness: Freshness, position: int, *, generation: int = 1, version: int = 1, paused: bool = False) -> None:
    freshness.read_store([StoredGeneration("p", generation, version, position, LOG, paused)])


def reading(*reads: At) -> tuple[Callable[[], Awaitable[At]], list[At]]:
    """Reads as they will come, and those that came. The last one repeats."""
    left, done = list(reads), []

    async def read() -> At:
        got = left.pop(0) if len(left) > 1 else left[0]
        done.append(got)
        return got

    return read, done


async def turns(count: int = 5) -> None:
    """Lets everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


def soon(freshness: Freshness, seconds: float = 10) -> float:
    return freshness.now + seconds


# The proof.


@given(
    changes=st.sets(st.integers(1, 60)),
    told=st.lists(st.integers(0, 60), max_size=8),
    checkpoint=st.integers(0, 60),
)
def test_what_is_proved_is_true(changes: set[int], told: list[int], checkpoint: int) -> None:
    """However a feed begins again, a read is never said to include a change that it does not."""
    tracker = Tracker("p", 1)
    for applied in told:
        said = feed_pb2.ProjectionFeed(
            generation=1,
            version=1,
            applied_position=applied,
            changed_position=max((change for change in changes if change <= applied), default=0),
            state=RUNNING,
        )
        Freshness._take(_freshness_for(tracker), tracker, said)

    included = tracker.includes(1, checkpoint)

    assert included >= checkpoint
    assert not any(checkpoint < change <= included for change in changes)
    assert tracker.includes(2, checkpoint) == checkpoint


def _freshness_for(tracker: Tracker) -> Freshness:
    freshness = Freshness.__new__(Freshness)
    freshness.trackers = {tracker.name: tracker}
    return freshness


async def test_a_projector_that_starts_again_takes_nothing_back(answers: Answers) -> None:
    freshness = freshness_of(answers)
    tracker = freshness.trackers["p"]
    feed(freshness, 50, 20)
    feed(freshness, 30, 30)

    assert tracker.includes(1, 30) == 50
    assert tracker.position == 50


async def test_other_rows_are_not_proved_by_what_was_said_of_these(answers: Answers) -> None:
    freshness = freshness_of(answers)
    tracker = freshness.trackers["p"]

    feed(freshness, 50, 20)
    feed(freshness, 10, 10, generation=2)
    assert (tracker.includes(1, 30), tracker.includes(2, 10)) == (30, 10)

    feed(freshness, 50, 20)
    store(freshness, 30, version=2)  # Another filling by other folds, under the same number.
    assert tracker.includes(1, 30) == 30

    feed(freshness, 50, 20)
    freshness.replaced_store()
    assert (tracker.includes(1, 30), tracker.position, tracker.stored) == (30, 0, False)

    feed(freshness, 50, 20)
    freshness.heard_head(40, LogIdentity(LOG.log_id, (Epoch(1, 1), Epoch(2, 25))))
    assert tracker.includes(1, 30) == 30


# Waiting.


async def test_waits_are_woken_by_position(answers: Answers) -> None:
    freshness = freshness_of(answers)
    freshness.heard_head(10, None)
    feed(freshness, 0, 0)
    read, done = reading(At(1, 4), At(1, 4), At(1, 9))
    tracker = freshness.trackers["p"]
    waits = {
        wanted: asyncio.ensure_future(freshness.read_fresh(tracker, wanted, soon(freshness), read))
        for wanted in (5, 3, 9, 1)
    }
    await turns()
    assert done == []
    assert freshness.waits == 4

    feed(freshness, 4, 4)
    await turns()
    assert {wanted for wanted, wait in waits.items() if wait.done()} == {1, 3}

    feed(freshness, 9, 9)
    await turns()
    assert all(wait.done() for wait in waits.values())
    assert (freshness.waits, tracker.heap) == (0, [])
    assert len(done) == 4


async def test_a_read_that_is_fresh_already_waits_for_nothing(answers: Answers) -> None:
    freshness = freshness_of(answers)
    feed(freshness, 9, 4)
    read, done = reading(At(1, 5))

    got, position = await freshness.read_fresh(freshness.trackers["p"], 9, soon(freshness), read)

    assert (got, position, done) == (At(1, 5), 9, [At(1, 5)])


async def test_a_store_that_does_not_show_it_yet_is_read_again(answers: Answers) -> None:
    freshness = freshness_of(answers)
    feed(freshness, 9, 9)
    read, done = reading(At(1, 5), At(1, 6), At(1, 9))

    _, position = await freshness.read_fresh(freshness.trackers["p"], 9, soon(freshness), read)

    assert position == 9
    assert len(done) == 3
    assert answers.checkpoints == ["p", "p"]


async def test_a_lost_notification_is_made_good_by_the_poll(answers: Answers) -> None:
    freshness = freshness_of(answers)
    feed(freshness, 4, 4)  # And never again, though the feed lives.
    read, _ = reading(At(1, 8))
    wait = asyncio.ensure_future(freshness.read_fresh(freshness.trackers["p"], 8, soon(freshness), read))
    await turns()
    assert not wait.done()

    store(freshness, 8)
    await turns()

    assert wait.done()
    assert (await wait)[1] == 8


async def test_a_lost_feed_has_the_store_polled_while_anybody_waits(answers: Answers) -> None:
    freshness = freshness_of(answers)
    feed(freshness, 4, 4)
    read, done = reading(At(1, 4), At(1, 8))
    freshness.lost_feed()
    assert not freshness.poll_wanted.is_set()

    wait = asyncio.ensure_future(freshness.read_fresh(freshness.trackers["p"], 8, soon(freshness), read))
    await turns()
    assert freshness.poll_wanted.is_set()
    assert done == [At(1, 4)]  # Without a feed the store is looked at first.

    store(freshness, 8)
    assert (await wait)[1] == 8


async def test_a_feed_that_is_silent_is_not_live(answers: Answers) -> None:
    clock = Clock()
    freshness = freshness_of(answers, clock=clock)
    feed(freshness, 4, 4)

    def now() -> tuple[bool, bool]:
        return freshness.feed_live, freshness.trackers["p"].serving(clock.now)

    assert now() == (True, True)
    clock.now += 1.5
    assert now() == (False, True)
    clock.now += 2
    assert now() == (False, False)
    freshness.heard_feed(feed_pb2.FollowFeedResponse())
    assert now() == (True, True)


async def test_a_stall_ends_the_waits_beyond_it_at_once(answers: Answers) -> None:
    freshness = freshness_of(answers)
    feed(freshness, 4, 4)
    tracker = freshness.trackers["p"]
    read, _ = reading(At(1, 4))
    wait = asyncio.ensure_future(freshness.read_fresh(tracker, 8, soon(freshness), read))
    await turns()

    feed(freshness, 4, 4, state=STALLED, reason="FOLD_FAILED: it broke.")

    with pytest.raises(ReadModelStalled) as refused:
        await wait
    assert refused.value.stall_reason == "FOLD_FAILED: it broke."
    assert (await freshness.read_fresh(tracker, 4, soon(freshness), read))[1] == 4


async def test_a_pause_ends_the_waits_beyond_it_at_once_and_new_ones_wait_when_it_is_over(answers: Answers) -> None:
    freshness = freshness_of(answers)
    feed(freshness, 4, 4)
    tracker = freshness.trackers["p"]
    read, _ = reading(At(1, 4), At(1, 4), At(1, 8))
    wait = asyncio.ensure_future(freshness.read_fresh(tracker, 8, soon(freshness), read))
    await turns()

    feed(freshness, 4, 4, state=PAUSED)

    paused = ReadModelPaused(projection="p", applied_position=4, wanted_position=8)
    for refused in (wait, freshness.read_fresh(tracker, 8, soon(freshness), read)):
        with pytest.raises(ReadModelPaused) as told:
            await refused
        assert told.value == paused
    assert (await freshness.read_fresh(tracker, 4, soon(freshness), read))[1] == 4
    assert not tracker.serving(freshness.now)

    feed(freshness, 4, 4)
    wait = asyncio.ensure_future(freshness.read_fresh(tracker, 8, soon(freshness), read))
    await turns()
    assert not wait.done()
    feed(freshness, 8, 8)
    assert (await wait)[1] == 8


async def test_what_broke_after_it_was_resumed_is_told_to_those_who_wait_again(answers: Answers) -> None:
    freshness = freshness_of(answers)
    for state, refusal in ((PAUSED, ReadModelPaused), (STALLED, ReadModelStalled)):
        feed(freshness, 4, 4)
        read, _ = reading(At(1, 4))
        wait = asyncio.ensure_future(freshness.read_fresh(freshness.trackers["p"], 8, soon(freshness), read))
        await turns()
        feed(freshness, 4, 4, state=state)
        with pytest.raises(refusal):
            await wait


async def test_that_it_is_paused_is_found_in_the_store_where_no_feed_tells(answers: Answers) -> None:
    clock = Clock()
    freshness = freshness_of(answers, clock=clock)
    tracker = freshness.trackers["p"]
    store(freshness, 4)
    assert tracker.state(clock()) == UNKNOWN
    read, _ = reading(At(1, 4))
    wait = asyncio.ensure_future(freshness.read_fresh(tracker, 8, soon(freshness), read))
    await turns()

    store(freshness, 4, paused=True)

    assert tracker.state(clock()) == PAUSED
    with pytest.raises(ReadModelPaused):
        await wait
    store(freshness, 4)
    assert tracker.state(clock()) == UNKNOWN
    store(freshness, 4, paused=True)
    freshness.replaced_store()
    assert tracker.state(clock()) == UNKNOWN


async def test_a_feed_that_is_there_knows_better_than_the_store(answers: Answers) -> None:
    clock = Clock()
    freshness = freshness_of(answers, clock=clock)
    tracker = freshness.trackers["p"]
    store(freshness, 4, paused=True)
    feed(freshness, 4, 4)
    assert tracker.state(clock()) == RUNNING
    clock.now += 1.5
    assert tracker.state(clock()) == PAUSED, "a silent feed is none"
    freshness.heard_feed(feed_pb2.FollowFeedResponse())
    assert tracker.state(clock()) == RUNNING
    freshness.lost_feed()
    assert tracker.state(clock()) == PAUSED

    feed(freshness, 4, 4, state=PAUSED)
    store(freshness, 4)
    assert tracker.state(clock()) == PAUSED
    freshness.lost_feed()
    assert tracker.state(clock()) == UNKNOWN, "it was resumed, and nobody says what it does"


@pytest.mark.parametrize(("state", "refusal"), [(PAUSED, ReadModelPaused), (STALLED, ReadModelStalled)])
async def test_a_bound_on_staleness_is_hopeless_where_a_projection_stands_still_behind_the_head(
    answers: Answers, state: ProjectionState, refusal: type[Exception]
) -> None:
    clock = Clock()
    freshness = freshness_of(answers, clock=clock)
    tracker = freshness.trackers["p"]
    freshness.heard_head(4, None)
    feed(freshness, 4, 4, state=state)
    clock.now += 5
    answers.head = HeadHeard(LOG, 4)
    assert await freshness.position_within(tracker, 1, soon(freshness)) == 4, "there is nothing newer"
    freshness.heard_head(9, None)
    clock.now += 2
    feed(freshness, 4, 4, state=state)
    assert await freshness.position_within(tracker, 6, soon(freshness)) == 4, "it was the head 2 s ago"
    asked = answers.asked
    with pytest.raises(refusal) as told:
        await freshness.position_within(tracker, 1, soon(freshness))
    assert (told.value.applied_position, told.value.wanted_position) == (4, 9)  # type: ignore[attr-defined]
    assert answers.asked == asked, "nobody need be asked"


async def test_a_pause_ends_the_wait_for_a_head_that_nobody_tells(answers: Answers) -> None:
    clock = Clock()
    freshness = freshness_of(answers, clock=clock)
    tracker = freshness.trackers["p"]
    freshness.heard_head(9, None)
    clock.now += 5
    feed(freshness, 4, 4)
    wait = asyncio.ensure_future(freshness.position_within(tracker, 1, soon(freshness)))
    await turns()
    assert not wait.done()
    feed(freshness, 4, 4, state=PAUSED)
    with pytest.raises(ReadModelPaused):
        await wait


async def test_time_is_up(answers: Answers) -> None:
    freshness = freshness_of(answers)
    freshness.heard_head(12, None)
    feed(freshness, 4, 4)
    read, _ = reading(At(1, 4))

    with pytest.raises(ReadModelBehind) as refused:
        await freshness.read_fresh(freshness.trackers["p"], 8, soon(freshness, 0.02), read)

    assert refused.value == ReadModelBehind(projection="p", applied_position=4, wanted_position=8, lag_events=8)
    assert freshness.trackers["p"].heap == []


async def test_waits_are_bounded_and_cancelled_ones_leave_nothing(answers: Answers) -> None:
    freshness = freshness_of(answers, waits_max=10)
    feed(freshness, 4, 4)
    tracker = freshness.trackers["p"]
    read, _ = reading(At(1, 4))

    def wait(wanted: int) -> asyncio.Task[Any]:
        return asyncio.create_task(freshness.read_fresh(tracker, wanted, soon(freshness), read))

    held = [wait(8) for _ in range(9)]
    await turns()
    for number in range(2000):
        cancelled = wait(1000 - number)
        await turns(2)
        cancelled.cancel()
        await turns(2)
    assert freshness.waits == 9
    assert len(tracker.heap) <= 2 * 9 + 65

    held.append(wait(8))
    await turns()
    with pytest.raises(Overloaded):
        await freshness.read_fresh(tracker, 8, soon(freshness), read)
    freshness.close()
    for refused in await asyncio.gather(*held, return_exceptions=True):
        assert isinstance(refused, ReadModelBehind)


async def test_a_wait_in_several_heaps_is_woken_by_any(answers: Answers) -> None:
    freshness = freshness_of(answers, "p", "q")
    feed(freshness, 4, 4)
    feed(freshness, 4, 4, name="q")
    both = list(freshness.trackers.values())
    news = asyncio.create_task(freshness.news(both, 8, soon(freshness)))
    await turns()

    feed(freshness, 8, 4, name="q")
    await news

    assert freshness.waits == 0
    assert [entry for tracker in both for entry in tracker.heap if not entry[2].future.done()] == []


# Tokens.


async def test_tokens_are_judged(answers: Answers) -> None:
    freshness = freshness_of(answers)
    freshness.heard_head(9, None)
    tracker = freshness.trackers["p"]
    foreign = LogIdentity(bytes(8), LOG.epochs)

    assert await freshness.position_of([LOG.token(3), LOG.token(7)], [tracker], 0) == (7, LOG.token(7))
    with pytest.raises(TokenOfAnotherLog):
        await freshness.position_of([LOG.token(3), foreign.token(1)], [tracker], 0)

    freshness.heard_head(9, LogIdentity(LOG.log_id, (Epoch(1, 1), Epoch(2, 5))))
    assert (await freshness.position_of([LOG.token(4)], [tracker], 0))[0] == 4
    with pytest.raises(TokenOfOlderEpoch):
        await freshness.position_of([LOG.token(5)], [tracker], 0)


async def test_bug_a_token_was_refused_when_the_first_question_about_the_log_failed() -> None:
    class Starting(Answers):
        """A command server that is reached at the third attempt."""

        async def ask_head(self) -> HeadHeard | None:
            self.head = HeadHeard(LOG, 5) if self.asked == 2 else None
            return await super().ask_head()

    starting = Starting()
    freshness = Freshness(Domain("d", aggregates=[], projections=[Projection("p", version=1)]), starting, waits_max=1)
    found = await freshness.position_of([LOG.token(1)], list(freshness.trackers.values()), soon(freshness))
    assert found[0] == 1
    assert starting.asked == 3


async def test_no_log_is_known(answers: Answers) -> None:
    freshness = Freshness(Domain("d", aggregates=[], projections=[Projection("p", version=1)]), answers, waits_max=1)

    with pytest.raises(ReadModelNotReady):
        await freshness.position_of([LOG.token(1)], list(freshness.trackers.values()), soon(freshness, 0.01))

    answers.head = HeadHeard(LOG, 5)
    found = await freshness.position_of([LOG.token(1)], list(freshness.trackers.values()), soon(freshness))
    assert found[0] == 1


async def test_many_who_are_ahead_ask_together(answers: Answers) -> None:
    freshness = freshness_of(answers)
    answers.head, answers.gate = HeadHeard(LOG, 5), asyncio.Event()
    trackers = list(freshness.trackers.values())
    asking = [
        asyncio.ensure_future(freshness.position_of([LOG.token(position)], trackers, soon(freshness)))
        for position in [5] * 50 + [6] * 20
    ]
    await asyncio.wait(asking, timeout=0.2)
    answers.gate.set()
    found = await asyncio.gather(*asking, return_exceptions=True)

    assert found[:50] == [(5, LOG.token(5))] * 50
    assert set(found[50:]) == {TokenAheadOfLog(position=6, head_position=5)}
    assert answers.asked == 2  # Those who came while the first call was under way share the second.


async def test_an_answer_from_before_the_question_condemns_nobody(answers: Answers) -> None:
    """A call for the head is under way when an event is recorded whose token then comes in."""
    freshness = freshness_of(answers)
    trackers = list(freshness.trackers.values())
    answers.head, answers.gate = HeadHeard(LOG, 5), asyncio.Event()
    first = asyncio.create_task(freshness._ask_head(soon(freshness)))
    await turns()
    answers.head = HeadHeard(LOG, 6)
    second = asyncio.create_task(freshness.position_of([LOG.token(6)], trackers, soon(freshness)))
    await asyncio.wait((second,), timeout=0.1)
    answers.gate.set()

    assert await first
    assert (await second)[0] == 6
    assert answers.asked == 2


async def test_the_head_is_not_asked_for_when_it_comes_by_itself(answers: Answers) -> None:
    freshness = freshness_of(answers)
    found = asyncio.create_task(
        freshness.position_of([LOG.token(6)], list(freshness.trackers.values()), soon(freshness))
    )
    await turns()
    freshness.heard_head(6, None)

    assert (await found)[0] == 6
    assert answers.asked == 0


# Time.


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 2)), min_size=1, max_size=60),
    applied=st.integers(0, 100),
    age=st.floats(0, 50),
)
def test_the_heads_history(steps: list[tuple[int, float]], applied: int, age: float) -> None:
    head, position, now = Head(), 0, 100.0
    truth: list[tuple[int, float]] = []
    for more, later in steps:
        position, now = position + more, now + later
        head.at(position, now)
        truth.append((position, now))

    assert (head.position, head.heard) == truth[-1]
    assert head.fresh_at(applied) == max((then for there, then in truth if there <= applied), default=None)
    since = head.since(now - age)
    assert since is not None
    assert since >= max((there for there, then in truth if then < now - age), default=0)


def test_a_long_history_is_thinned_and_stays_true() -> None:
    head = Head()
    for position in range(20_000):
        head.at(position, float(position))

    assert len(head._positions) <= 4096
    assert (head.position, head.heard) == (19_999, 19_999.0)
    for applied in range(0, 20_000, 777):  # The older, the coarser, and never to our favour.
        allowed = (20_000 - applied) / 20
        assert 0 <= applied - (head.fresh_at(applied) or 0.0) < allowed
        since = head.since(float(applied))
        assert since is not None
        assert 0 <= since - applied < allowed


async def test_lag_is_measured_by_our_own_clock(answers: Answers) -> None:
    clock = Clock()
    freshness = freshness_of(answers, clock=clock)
    freshness.heard_head(5, None)
    assert freshness.lag_seconds(5) == 0
    clock.now += 0.5
    freshness.heard_head(6, None)
    clock.now += 0.5
    assert (freshness.lag_events(5), freshness.lag_seconds(5)) == (1, 1.0)
    assert freshness.lag_seconds(6) == 0
    clock.now += 60  # The command server is away: nobody knows whether 6 is still the head.
    assert freshness.lag_seconds(6) == 60.5


async def test_a_bound_on_staleness_is_a_position(answers: Answers) -> None:
    clock = Clock()
    freshness = freshness_of(answers, clock=clock)
    tracker = freshness.trackers["p"]
    for position in range(1, 11):
        clock.now += 1
        freshness.heard_head(position, None)

    assert await freshness.position_within(tracker, 3.0, soon(freshness)) == 7
    assert await freshness.position_within(tracker, 0.0, soon(freshness)) == 10
    assert answers.asked == 0
    clock.now += 1
    answers.head = HeadHeard(LOG, 12)
    assert await freshness.position_within(tracker, 0.5, soon(freshness)) == 12
    assert answers.asked == 1


async def test_a_bound_that_nobody_can_show_is_refused_in_time(answers: Answers) -> None:
    freshness = freshness_of(answers)

    with pytest.raises(ReadModelBehind):
        await freshness.position_within(freshness.trackers["p"], 0.0, soon(freshness, 0.05))


def test_an_identity_comes_from_whoever_knows_best() -> None:
    head = Head()
    other = LogIdentity(bytes(8), LOG.epochs)
    assert not head.identified(LOG, 0)
    assert head.identified(other, 1)
    assert not head.identified(LOG, 0)
    assert head.identity == other
    assert head.identified(LOG, 2)
    assert not head.identified(other, 1)
    assert head.identity == LOG


async def test_what_is_being_filled_is_not_taken_for_what_is_read(answers: Answers) -> None:
    """A newer version is filled beside what answers here, which stays where it is until the switch."""
    freshness = freshness_of(answers)
    tracker = freshness.trackers["p"]
    store(freshness, 90)
    waiting = asyncio.create_task(freshness.news((tracker,), 100, soon(freshness)))
    await turns()
    feed(freshness, 120, 110, generation=2, version=2, state=REBUILDING, filling_up=True)
    await waiting
    assert tracker.position == 90
    assert tracker.state(freshness.now) == REBUILDING
    assert tracker.includes(2, 110) == 110
    assert freshness.hopeless(tracker, 90) is None
    assert freshness.hopeless(tracker, 100) == ReadModelRebuilding(
        projection="p", applied_position=90, wanted_position=100
    )
    feed(freshness, 121, 110, generation=2, version=2)
    assert (tracker.position, tracker.includes(2, 110)) == (121, 121)
    store(freshness, 95)  # A look that began before the switch.
    assert (tracker.position, tracker.includes(2, 110)) == (121, 121)


async def test_a_rebuild_beside_what_goes_on_is_no_reason_to_give_up(answers: Answers) -> None:
    freshness = freshness_of(answers)
    feed(freshness, 90, 90, state=REBUILDING)
    assert freshness.trackers["p"].serving(freshness.now)
    assert freshness.hopeless(freshness.trackers["p"], 100) is None


async def test_a_projection_that_nothing_answers_for_yet_is_being_rebuilt(answers: Answers) -> None:
    freshness = freshness_of(answers)
    assert isinstance(freshness.absent(freshness.trackers["p"]), ReadModelNotReady)
    feed(freshness, 9, 9, generation=2, version=2, state=REBUILDING, filling_up=True)
    assert isinstance(freshness.absent(freshness.trackers["p"]), ReadModelRebuilding)


async def test_rows_of_another_shape_are_not_heard_of(answers: Answers) -> None:
    freshness = freshness_of(answers)
    store(freshness, 90)
    feed(freshness, 120, 120, generation=2, version=2, shape="another")
    tracker = freshness.trackers["p"]
    assert (tracker.position, tracker.state(freshness.now)) == (90, REBUILDING)
    assert isinstance(freshness.hopeless(tracker, 100), ReadModelRebuilding)


async def test_an_older_version_that_goes_on_says_nothing_of_the_newer_one(answers: Answers) -> None:
    """Both have the same shape, and the feed is still that of the older one's projector."""
    freshness = freshness_of(answers)
    tracker = freshness.trackers["p"]
    feed(freshness, 100, 80)
    store(freshness, 90)
    store(freshness, 98, generation=2, version=2)
    assert tracker.includes(2, 98) == 98
    feed(freshness, 130, 80)
    assert tracker.includes(2, 98) == 98
    assert tracker.position == 100, "what was told to be applied stays so; reads come up to there in a moment"
    read, _ = reading(At(2, 98), At(2, 103))
    assert await freshness.read_fresh(tracker, 100, soon(freshness), read) == (At(2, 103), 103)


async def test_a_generation_of_a_later_life_of_the_log_begins_where_it_is(answers: Answers) -> None:
    """What answered holds events that a restore has lost; a rebuild takes over from it at a lower position."""
    later = LogIdentity(LOG.log_id, (Epoch(1, 1), Epoch(2, 51)))
    freshness = freshness_of(answers)
    tracker = freshness.trackers["p"]
    feed(freshness, 90, 90, identity=identity_to_message(LOG))
    store(freshness, 90)
    freshness.heard_head(60, later)
    assert tracker.position == 50
    feed(freshness, 60, 60, generation=2, identity=identity_to_message(later))
    assert tracker.position == 60
    store(freshness, 90)  # A look that began before the switch.
    assert tracker.position == 60
