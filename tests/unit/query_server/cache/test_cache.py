"""The cache: what it answers is true at the position that it says, however commits, the feed and reads interleave.

The model has a log, a projector that folds it into generations, the real feed with its conflation, reads that begin,
look at the store and end at any time, and a cache that receives and reads all of it. Every answer is held against the
fold of the log at the position claimed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from diptych.contract.reasons import Overloaded
from diptych.internal.v1.feed_pb2 import FollowFeedResponse, ProjectionFeed, ViewChanges
from projector.feed import pending_changes as changes
from projector.feed.feed import Feed, Subscriber
from query_server.cache import memory_budget
from query_server.cache import view_cache as view_cache_module
from query_server.cache.cache import Cache
from query_server.cache.change_progress import ChangeProgress
from query_server.cache.view_cache import ListRead, ViewCache
from query_server.rows.time_limit import TimeLimit
from tests.support.clock import Clock
from tests.support.notes import Notes

NOTES = Notes("kept", columns=False)
NAME, VIEW = "kept", NOTES.notes
KEYS = ["a", "b", "c", "d"]
PLENTY = 1 << 20


def view_cache(cache: Cache) -> ViewCache:
    return cache.view(VIEW)


def begun(bytes_max: int = PLENTY, *, applied: int = 10, changed: int = 10) -> tuple[Cache, ViewCache, Clock]:
    """A cache that has received the projection's position, and nothing before."""
    clock = Clock(100.0)
    cache = Cache([NOTES.projection], bytes_max, clock)
    cache.on_store_poll(NAME, 1, applied)
    tell(cache, applied, changed, gap=True)
    return cache, view_cache(cache), clock


def tell(
    cache: Cache, applied: int, changed: int, rows: dict[str, int] | None = None, *, generation: int = 1, **more: Any
) -> None:
    changed_rows = [ViewChanges(view=NAME, keys=rows.keys(), positions=rows.values())] if rows else []
    cache.on_feed_alive()
    cache.on_feed_frame(
        ProjectionFeed(
            name=NAME,
            generation=generation,
            applied_position=applied,
            changed_position=changed,
            changes=changed_rows,
            **more,
        )
    )


def keep(view: ViewCache, key: str, content: bytes | None, checkpoint: int, generation: int = 1) -> None:
    view.store_row(key, view.changes.cache_epoch, content, generation, checkpoint)


def test_what_is_kept_is_answered_at_the_position_that_is_told() -> None:
    cache, view, _ = begun()
    keep(view, "a", b"row", 10)
    keep(view, "gone", None, 10)
    tell(cache, 12, 11, {"b": 11}, changes_after=10)

    assert view.row("a", 0) == (b"row", 12)
    assert view.row("gone", 12) == (None, 12)
    assert view.row("a", 13) is None
    assert view.row("unknown", 0) is None
    assert (view.hits, view.misses, view.bypasses) == (2, 2, 0)


def test_a_row_read_beyond_what_is_told_is_true_where_it_was_read() -> None:
    cache, view, _ = begun()
    keep(view, "a", b"new", 11)
    assert view.row("a", 11) == (b"new", 11)
    tell(cache, 11, 11, {"a": 11}, changes_after=10)
    assert view.row("a", 11) == (b"new", 11)
    tell(cache, 12, 12, {"a": 12}, changes_after=11)
    assert view.row("a", 0) is None


def test_a_read_that_lost_a_race_is_not_taken() -> None:
    cache, view, _ = begun()
    life = view.changes.cache_epoch
    tell(cache, 11, 11, {"a": 11}, changes_after=10)
    view.store_row("a", life, b"old", 1, 10)
    view.store_row("b", life, b"same", 1, 10)
    view.store_list("all", life, ListRead(b"old", 1, 10), 3)

    assert view.row("a", 0) is None
    assert view.row("b", 0) == (b"same", 11)
    assert view.response("all", 0) is None


def test_a_read_from_before_all_that_is_remembered_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_cache_module, "RECENT_MAX", 2)
    cache, view, _ = begun()
    tell(cache, 13, 13, {"a": 11, "b": 12, "c": 13}, changes_after=10)
    keep(view, "z", b"row", 10)
    assert view.row("z", 0) is None, "it may have changed at 11 as well as a"
    keep(view, "z", b"row", 11)
    assert view.row("z", 0) == (b"row", 13)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cache: tell(cache, 12, 11, gap=True),
        lambda cache: tell(cache, 12, 11, changes_after=11),
        lambda cache: tell(cache, 12, 11, changes_after=10),
        lambda cache: tell(cache, 9, 9, changes_after=8),
        lambda cache: tell(cache, 12, 10, generation=2, changes_after=10),
        lambda cache: cache.on_feed_lost(),
        lambda cache: cache.on_void(NAME),
    ],
    ids=["gap", "missed", "untold", "set back", "generation", "lost", "void"],
)
def test_all_is_forgotten(spoil: Any) -> None:
    cache, view, _ = begun()
    keep(view, "a", b"row", 10)
    keep(view, "b", None, 10)
    life = view.changes.cache_epoch
    view.store_list("all", life, ListRead(b"rows", 1, 10), 3)
    assert (view.entries, view.size_bytes > 0) == (3, True)
    spoil(cache)
    assert (view.entries, view.size_bytes) == (0, 0)
    view.store_row("a", life, b"row", 1, 20)
    view.store_list("all", life, ListRead(b"rows", 1, 20), 3)
    assert view.entries == 0, "it was read in an earlier life"


def test_it_is_bypassed_when_the_feed_is_silent_and_goes_on_when_it_speaks() -> None:
    cache, view, clock = begun()
    keep(view, "a", b"row", 10)
    clock.now += 0.99
    assert view.row("a", 0) is not None
    clock.now += 0.02
    assert view.row("a", 0) is None
    assert view.response("all", 0) is None
    assert view.bypasses == 2
    cache.on_feed_alive()
    assert view.row("a", 0) == (b"row", 10)


def test_it_is_bypassed_while_another_generation_answers() -> None:
    cache, view, _ = begun()
    keep(view, "a", b"row", 10)
    cache.on_store_poll(NAME, 2, 10)
    assert view.row("a", 0) is None
    cache.on_store_poll(NAME, 0, 0)
    assert view.row("a", 0) is None
    cache.on_store_poll(NAME, 1, 10)
    assert view.row("a", 0) is not None


def test_it_is_bypassed_when_the_store_moves_on_and_the_feed_does_not_tell() -> None:
    cache, view, clock = begun()
    keep(view, "a", b"row", 10)
    for _ in range(12):
        cache.on_store_poll(NAME, 1, 11)
        assert view.row("a", 0) is not None
        clock.now += 0.09
        cache.on_feed_alive()
    cache.on_store_poll(NAME, 1, 14)
    assert view.row("a", 0) is None
    tell(cache, 11, 11, {"b": 11}, changes_after=10)
    assert view.row("a", 0) == (b"row", 11)


def test_the_older_of_two_reads_changes_nothing() -> None:
    _, view, _ = begun()
    keep(view, "a", b"row", 12)
    keep(view, "a", None, 11)
    assert view.row("a", 0) == (b"row", 12)
    keep(view, "a", None, 13)
    assert (view.row("a", 0), view.entries) == ((None, 13), 1)


def test_bytes_are_bounded_and_the_shelf_that_takes_most_gives_way() -> None:
    _, view, _ = begun(100_000)
    for n in range(20):
        keep(view, f"row-{n}", b"x" * 1000, 10)
    for n in range(10_000):
        keep(view, f"absent-{n}", None, 10)
        assert view.size_bytes <= 100_000
    assert all(view.row(f"row-{n}", 0) for n in range(20)), "a flood of keys that do not exist washes nothing else out"
    assert view.row("absent-9999", 0) == (None, 10)
    assert view.row("absent-0", 0) is None
    keep(view, "huge", b"x" * 10_000, 10)
    assert view.row("huge", 0) is None


def test_what_was_not_used_goes_first() -> None:
    _, view, _ = begun(100_000)
    keep(view, "used", b"x" * 1000, 10)
    for n in range(500):
        keep(view, f"row-{n}", b"x" * 1000, 10)
        assert view.row("used", 0) is not None
    assert view.row("row-0", 0) is None


def test_without_room_nothing_is_kept() -> None:
    _, view, _ = begun(0)
    keep(view, "a", b"", 10)
    keep(view, "b", None, 10)
    assert (view.row("a", 0), view.entries, view.size_bytes) == (None, 0, 0)


async def test_those_who_miss_the_same_list_share_one_read() -> None:
    cache, view, _ = begun()
    reads: list[asyncio.Future[ListRead]] = []

    def read() -> asyncio.Future[ListRead]:
        reads.append(asyncio.get_running_loop().create_future())
        return reads[-1]

    first = asyncio.ensure_future(view.read_once("all", read))
    second = asyncio.ensure_future(view.read_once("all", read))
    other = asyncio.ensure_future(view.read_once("few", read))
    await asyncio.sleep(0)
    assert len(reads) == 2
    assert [view.is_reading(key) for key in ("all", "few", "none")] == [True, True, False]
    tell(cache, 11, 11, {"b": 11}, changes_after=10)
    late = asyncio.ensure_future(view.read_once("all", read))
    await asyncio.sleep(0)
    assert len(reads) == 3, "the first read may be from before the change"
    first.cancel()
    reads[0].set_result(ListRead(b"old", 1, 10))
    reads[1].set_result(ListRead(b"few", 1, 10))
    reads[2].set_result(ListRead(b"new", 1, 11))
    assert [(await task).response for task in (second, other, late)] == [b"old", b"few", b"new"]
    assert first.cancelled() or await asyncio.wait((first,))
    assert not view.is_reading("all")


async def test_caller_that_joins_a_read_extends_its_limit() -> None:
    cache, view, _ = begun()
    read = asyncio.get_running_loop().create_future
    limits = [TimeLimit(seconds, 30) for seconds in (1, 20, 5, 25)]
    first = [asyncio.ensure_future(view.read_once("all", read, limit)) for limit in limits[:3]]
    await asyncio.sleep(0)
    assert limits[0].until == limits[1].until
    tell(cache, 11, 11, {"b": 11}, changes_after=10)
    late = asyncio.ensure_future(view.read_once("all", read, limits[3]))
    await asyncio.sleep(0)
    assert limits[0].until == limits[1].until, "the late caller has a read of its own"
    for task in [*first, late]:
        task.cancel()


async def test_those_who_share_a_read_that_is_refused_get_refusals_of_their_own() -> None:
    _, view, _ = begun()

    async def read() -> ListRead:
        raise Overloaded(what="reads", limit=1).with_details(retry_seconds=1)

    refused = await asyncio.gather(*(view.read_once("all", read) for _ in range(2)), return_exceptions=True)
    assert refused == [Overloaded(what="reads", limit=1)] * 2
    assert refused[0] is not refused[1]


# The model.


class Snapshot(NamedTuple):
    """State of the store at one time: position and bytes of every row."""

    generation: int
    checkpoint: int
    rows: dict[str, bytes | None]


class Reading(NamedTuple):
    """A read under way; `key` None is a list of all rows."""

    key: str | None
    life: int
    snapshot: Snapshot | None


def as_list(rows: dict[str, bytes | None]) -> bytes:
    return b",".join(b"%s=%s" % (key.encode(), row) for key, row in sorted(rows.items()) if row is not None)


class CacheMachine(RuleBasedStateMachine):
    """A log, a projector, its feed, a store that may lag behind, and a cache."""

    readings = Bundle("readings")

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, bytes | None] | None] = []
        self.log_number = 1
        self.folds: dict[tuple[int, int, int], dict[str, bytes | None]] = {}
        self.generation = 1
        self.applied = 0
        self.changed = 0
        self.rows: dict[str, bytes | None] = {}
        self.history = [Snapshot(1, 0, {})]
        self.clock = Clock(100.0)
        self.cache = Cache([NOTES.projection], 2500, self.clock)
        self.view = view_cache(self.cache)
        self.feed = Feed(10)
        self.subscriber: Subscriber | None = None
        self.frames: deque[bytes] = deque()
        self.publish()
        self.follow_feed()
        self.poll_the_store()

    # What should be.

    def fold(self, generation: int, position: int) -> dict[str, bytes | None]:
        """Every log and every generation gives other rows, so that none can be taken for another."""
        known = self.folds.get((self.log_number, generation, position))
        if known is not None:
            return known
        rows: dict[str, bytes | None] = {}
        for event in self.log[:position]:
            if event is not None:
                key, value = event
                rows[key] = self.content(value, generation)
        self.folds[self.log_number, generation, position] = rows
        return rows

    def content(self, value: bytes | None, generation: int) -> bytes | None:
        return None if value is None else b"%s/%d/%d" % (value, self.log_number, generation)

    def publish(self, changed_rows: changes.Changes | None = ()) -> None:
        self.feed.publish(
            ProjectionFeed(
                name=NAME,
                version=1,
                generation=self.generation,
                applied_position=self.applied,
                changed_position=self.changed,
            ),
            changed_rows,
        )

    # What happens.

    @rule(
        events=st.lists(
            st.none() | st.tuples(st.sampled_from(KEYS), st.sampled_from([b"x", b"y", b"z", None])),
            min_size=1,
            max_size=4,
        ),
        far=st.sampled_from([0, 1, 2, 2, 2]),
    )
    def record(self, events: list[tuple[str, bytes | None] | None], far: int) -> None:
        """Events of rows, and such that are ignored; perhaps committed, and perhaps reported by the feed as well."""
        self.log += events
        if far >= 1:
            self.commit(5)
        if far >= 2:
            self.send()
            self.deliver(5)

    @rule(count=st.integers(1, 5))
    def commit(self, count: int) -> None:
        """The projector folds some events. Rows and checkpoint are on disk then; without rows, nothing is."""
        through = min(self.applied + count, len(self.log))
        changed: dict[str, tuple[Any, ...]] = {}
        rows = dict(self.rows)
        for position in range(self.applied + 1, through + 1):
            event = self.log[position - 1]
            if event is not None:
                key, value = event
                content = self.content(value, self.generation)
                if rows.get(key) != content:
                    rows[key] = content
                    changed[key] = (key, position, content)
        self.applied = through
        if changed:
            self.rows = rows
            self.changed = max(position for _, position, _ in changed.values())
            self.write_checkpoint()
        self.publish(changes.changes_of(NOTES.projection.views, [changed, {}]))

    def write_checkpoint(self) -> None:
        self.history.append(Snapshot(self.generation, self.applied, dict(self.rows)))

    def lose_feed(self) -> None:
        if self.subscriber is not None:
            self.feed.unsubscribe(self.subscriber)
        self.subscriber = None
        self.frames.clear()
        self.cache.on_feed_lost()

    def follow_feed(self) -> None:
        self.lose_feed()
        self.subscriber = self.feed.subscribe()
        self.send()
        self.deliver(1)

    @rule()
    def send(self) -> None:
        if self.subscriber is not None:
            self.frames.append(self.subscriber.take())

    @rule(count=st.integers(1, 3))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.frames))):
            self.cache.on_feed_alive()
            for fed in FollowFeedResponse.FromString(self.frames.popleft()).projections:
                self.cache.on_feed_frame(fed)

    def restart_projector(self) -> None:
        """Lose the events that were applied only in memory, and the feed."""
        self.lose_feed()
        self.feed = Feed(10)
        last = self.history[-1]
        self.applied = self.changed = last.checkpoint
        self.publish()
        self.follow_feed()

    def switch_generation(self) -> None:
        self.generation += 1
        self.rows = {key: row for key, row in self.fold(self.generation, self.applied).items() if row is not None}
        self.changed = self.applied
        self.write_checkpoint()
        self.publish()

    def replace_the_store(self) -> None:
        """Another log, and a store that was filled from it, take the place of these."""
        self.log_number += 1
        self.log = [event and (event[0], b"w") for event in self.log]
        self.rows = {key: row for key, row in self.fold(self.generation, self.applied).items() if row is not None}
        self.history = [Snapshot(self.generation, self.applied, dict(self.rows))]
        self.feed = Feed(10)
        self.publish()
        self.cache.on_void(NAME)
        self.poll_the_store()
        self.follow_feed()

    def poll_the_store(self) -> None:
        self.cache.on_store_poll(NAME, *self.history[-1][:2])

    def pass_time(self) -> None:
        self.clock.now += 0.6

    @rule(
        name=st.sampled_from(
            [
                *["write_checkpoint", "poll_the_store", "pass_time"] * 2,
                "lose_feed",
                "follow_feed",
                "restart_projector",
                "switch_generation",
                "replace_the_store",
            ]
        )
    )
    def trouble(self, name: str) -> None:
        """Run a rare step, or one that changes little."""
        getattr(self, name)()

    @rule(target=readings, key=st.sampled_from([*KEYS, None]))
    def begin_read(self, key: str | None) -> Reading:
        return Reading(key, self.view.changes.cache_epoch, None)

    @rule(target=readings, reading=consumes(readings), behind=st.sampled_from([0, 0, 0, 1, 2]))
    def look_at_the_store(self, reading: Reading, behind: int) -> Reading:
        """The store that is read may be a replica, some commits behind."""
        return reading._replace(snapshot=self.history[max(len(self.history) - 1 - behind, 0)])

    @rule(key=st.sampled_from([*KEYS, None]))
    def read(self, key: str | None) -> None:
        self.end_read(Reading(key, self.view.changes.cache_epoch, self.history[-1]))

    @rule(reading=consumes(readings))
    def end_read(self, reading: Reading) -> None:
        snapshot = reading.snapshot
        if snapshot is None:
            return
        if reading.key is None:
            read = ListRead(as_list(snapshot.rows), snapshot.generation, snapshot.checkpoint)
            self.view.store_list("all", reading.life, read, 3)
        else:
            self.view.store_row(
                reading.key, reading.life, snapshot.rows.get(reading.key), snapshot.generation, snapshot.checkpoint
            )

    @invariant()
    def every_answer_is_true(self) -> None:
        for key in KEYS:
            for required in (0, self.applied):
                if (found := self.view.row(key, required)) is not None:
                    assert found.content == self.expected(found.position, required).get(key)
        for required in (0, self.applied):
            if (found := self.view.response("all", required)) is not None:
                assert found.content == as_list(self.expected(found.position, required))

    def expected(self, position: int, required: int) -> dict[str, bytes | None]:
        """The rows at a position that is claimed."""
        assert required <= position <= max(self.applied, self.history[-1].checkpoint)
        assert self.subscriber is not None
        assert self.view.size_bytes <= 2500
        return self.fold(self.view.changes.generation, position)


SETTINGS: Any = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a few steps reach."""
    monkeypatch.setattr(view_cache_module, "RECENT_MAX", 2)
    monkeypatch.setattr(changes, "KEYS_MAX", 2)
    monkeypatch.setattr(memory_budget, "_LARGE_PART", 1)


def test_every_answer_is_true(small: None) -> None:
    run_state_machine_as_test(CacheMachine, settings=settings(max_examples=200, stateful_step_count=50, **SETTINGS))


def admits_without_floor(view: ViewCache, key: str, checkpoint: int) -> bool:
    return checkpoint >= view._recent.get(key, 0)


def admits_without_recent(view: ViewCache, key: str, checkpoint: int) -> bool:
    return checkpoint >= view.floor


def begins_without_gap(changes: ChangeProgress, frame: ProjectionFeed) -> bool:
    return frame.generation != changes.generation


def told_without_rows(view: ViewCache, keys: Any, positions: Any) -> None:
    view._recent.update(zip(keys, positions, strict=True))
    view.changed = max([view.changed, *positions])


def drop_silently(pending: changes.PendingChanges) -> None:
    pending._views.clear()
    pending._keys = 0


@pytest.mark.parametrize(
    ("kind", "name", "bug"),
    [
        (ViewCache, "admits", lambda *_: True),
        (ViewCache, "admits", admits_without_floor),
        (ViewCache, "admits", admits_without_recent),
        (ViewCache, "admits_list", lambda *_: True),
        (ViewCache, "apply_changes", lambda *_: None),
        (ViewCache, "apply_changes", told_without_rows),
        (ViewCache, "clear", lambda _: None),
        (ChangeProgress, "begins", begins_without_gap),
        (ChangeProgress, "changes_complete_through", 1),
        (changes.PendingChanges, "add_gap", drop_silently),
        (Cache, "on_feed_lost", lambda _: None),
    ],
)
def test_planted_bugs_are_seen(
    small: None, monkeypatch: pytest.MonkeyPatch, kind: type, name: str, bug: object
) -> None:
    """That the model finds nothing says something only if it finds these."""
    if name == "changes_complete_through":  # One too far.
        bug = property(lambda self: self.__dict__[name] + 1, lambda self, value: self.__dict__.update({name: value}))
    monkeypatch.setattr(kind, name, bug, raising=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            CacheMachine,
            settings=settings(
                max_examples=5000, stateful_step_count=50, phases=[Phase.generate], derandomize=True, **SETTINGS
            ),
        )
