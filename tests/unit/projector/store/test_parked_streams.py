"""Parked streams: which events are left out, and which can be folded in place later."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.domain.aggregate import AggregateRef
from diptych.domain.memory_rows import MemoryRows
from diptych.storage.errors import LeaseLostError, StreamNotParkedError
from diptych.storage.read_store import Lease, LeftOut, ParkedStream
from diptych.storage.read_store_schema import Checkpoint
from diptych.v1.events_pb2 import RecordedEvent
from projector.generation.parked_refold import EntangledError, ParkedRefold
from projector.store.parked_streams import ERROR_CHARACTERS_MAX, TRACE_CHARACTERS_MAX
from projector.store.row_writer import RowWriter
from projector.store.sqlite_read_store import SqliteReadStore
from tests.support.notes import Archived, Erased, Note, Noted, Notes, Tag, Tagged, log_of_streams, recorded

_KEYS = st.sampled_from("abc")
_EVENTS = st.one_of(
    st.builds(lambda key, text: Noted(key=key, text=text), _KEYS, st.sampled_from(["x", "y", "poison"])),
    st.builds(lambda key: Erased(key=key), _KEYS),
    st.builds(lambda key, tags: Tagged(key=key, tags=tags), _KEYS, st.lists(st.sampled_from("rst"), max_size=2)),
    st.builds(lambda key: Archived(key=key), _KEYS),
)
# Events of a stream, which may touch rows that other streams do.
_LOGS = st.lists(st.tuples(_EVENTS, _KEYS), max_size=30)
_CUTS = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def note(key: str) -> AggregateRef:
    return AggregateRef("note", key)


def by_key() -> Notes:
    """Notes whose streams touch rows of their own, but for those of their tags."""
    return Notes(count_under=lambda event: event.key)


class Store:
    """A read store with one generation open, driven from functions that are not coroutines."""

    def __init__(self, file: SqliteReadStore, notes: Notes, runner: asyncio.Runner) -> None:
        self.file = file
        self.notes = notes
        self.runner = runner
        self.run = runner.run
        self.writer = self.run(self._open())

    async def _open(self) -> RowWriter:
        lease = await self.file.acquire(self.notes.projection)
        assert isinstance(lease, Lease)
        return RowWriter(await self.file.open_generation(lease, lease.active or lease.filling))

    def reopened(self) -> Store:
        return Store(self.file, self.notes, self.runner)

    def commit(self, events: Sequence[RecordedEvent]) -> Any:
        return self.run(self.writer.commit(events, Checkpoint(events[-1].position, events[-1].event_id)))

    @property
    def left_out(self) -> LeftOut:
        return self.writer.left_out

    @property
    def parked(self) -> dict[AggregateRef, int]:
        return dict(self.writer.store.parked)

    def discard(self, key: str) -> int:
        return self.run(self.writer.discard(note(key)))

    def page(self, after: int, size: int, *, discarded: bool) -> tuple[list[ParkedStream], bool]:
        return self.run(self.writer.store.parked_page(after, size, discarded=discarded))

    def fold(self, log: Sequence[RecordedEvent], cuts: Sequence[int] = (1000,)) -> None:
        """Folds a log in batches of these sizes, over and over, and parks what fails."""
        last = log[-1] if log else None
        log = self.followed(log)
        start, turn = 0, 0
        while start < len(log):
            events = list(log[start : start + cuts[turn % len(cuts)]])
            start, turn = start + len(events), turn + 1
            while events and (failure := self.commit(events).folded.failure) is not None:
                self.run(self.writer.park(failure, 1))
                events = [event for event in events if event.position > failure.position]
        if last is not None:
            self.run(self.writer.write_checkpoint(Checkpoint(last.position, last.event_id)))

    def followed(self, log: Sequence[RecordedEvent]) -> list[RecordedEvent]:
        """Return the events as the log sends them."""
        types = self.notes.projection.event_types
        return [event for event in log if event.event.type_url.rpartition("/")[2] in types]

    def refold(self, key: str, log: Sequence[RecordedEvent], cuts: Sequence[int] = (1000,)) -> Any:
        """Folds what is parked of a stream in place, having read the log in frames of these sizes."""
        first = self.parked[note(key)]
        refold = ParkedRefold(self.notes.projection, first)
        rest, turn = self.followed(log[first - 1 :]), 0
        while rest:
            frame, rest = rest[: cuts[turn % len(cuts)]], rest[cuts[turn % len(cuts)] :]
            turn += 1
            between = self.writer.store.left_out_between(refold.position, frame[-1].position)
            refold.add(frame, self.run(between))
            refold.position = frame[-1].position
        return self.run(self.writer.refold(note(key), first, refold.events))

    def rows(self) -> Any:
        return {view: self.read(f"SELECT * FROM {view}_g1 ORDER BY key") for view in ("notes", "notes_tags")}

    def left_out_positions(self) -> set[int]:
        return {position for (position,) in self.read("SELECT position FROM diptych_parked_events")}

    def read(self, sql: str) -> list[Any]:
        return self.run(self.file.run(lambda: self.file.connection.execute(sql).fetchall()))


@contextmanager
def opened(folder: Path, notes: Notes) -> Iterator[Store]:
    with asyncio.Runner() as runner:
        file = SqliteReadStore(folder / "read.db", "127.0.0.1:1")
        runner.run(file.open())
        try:
            yield Store(file, notes, runner)
        finally:
            runner.run(file.close())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path, by_key()) as store:
        yield store


def folded(log: Sequence[RecordedEvent], left_out: set[int], notes: Notes) -> Any:
    """The tables that folding a log in order gives, without some events."""
    memory = MemoryRows(notes.projection)
    assert memory.apply([event for event in log if event.position not in left_out]).failure is None
    return {view: [rows[key] for key in sorted(rows)] for view, rows in memory.rows.items()}


def in_a_store(notes: Notes, test: Any) -> Any:
    """Runs a test on a store of its own."""
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), notes) as store:
        return test(store)


def log_of(events: Sequence[tuple[Any, str]]) -> list[RecordedEvent]:
    return [recorded(position, event, stream=f"note/{key}") for position, (event, key) in enumerate(events, 1)]


def expected_left_out(events: Sequence[tuple[Any, str]]) -> set[int]:
    """Return the events to leave out: poison, and later events of the same stream."""
    left_out: set[int] = set()
    parked: set[str] = set()
    for position, (event, key) in enumerate(events, 1):
        if isinstance(event, Archived):
            continue
        if key in parked or (isinstance(event, Noted) and event.text == "poison"):
            parked.add(key)
            left_out.add(position)
    return left_out


@settings(max_examples=60)
@given(_LOGS, _CUTS)
def test_rows_are_the_fold_of_the_log_without_parked_events(events: list[tuple[Any, str]], cuts: list[int]) -> None:
    log = log_of(events)

    def test(store: Store) -> None:
        store.fold(log, cuts)
        left_out = store.left_out_positions()
        assert left_out == expected_left_out(events)
        assert store.rows() == folded(log, left_out, by_key())
        numbers = store.left_out
        streams = {key for position, (_, key) in enumerate(events, 1) if position in left_out}
        assert numbers == (len(streams), len(left_out), max(left_out, default=0))
        again = store.reopened()
        assert (again.left_out, again.parked) == (numbers, store.parked)

    in_a_store(by_key(), test)


@settings(max_examples=200)
@given(_LOGS, _CUTS, st.permutations("abc"))
def test_refold_gives_the_rows_of_a_fold_in_order(
    events: list[tuple[Any, str]], cuts: list[int], order: Sequence[str]
) -> None:
    log = log_of(events)

    def test(store: Store) -> None:
        store.fold(log)
        store.notes.poison = "mended"
        for key in order:
            before, filling = store.rows(), store.writer.filling
            if note(key) not in store.parked:
                continue
            try:
                assert store.refold(key, log, cuts) is None
            except EntangledError:
                assert store.rows() == before
            else:
                assert store.writer.filling != filling
                store = store.reopened()
                assert note(key) not in store.parked
            left_out = store.left_out_positions()
            assert store.rows() == folded(log, left_out, Notes(poison="-", count_under=lambda e: e.key))

    in_a_store(by_key(), test)


def test_refold_succeeds_when_nothing_else_touches_the_rows(store: Store) -> None:
    log = log_of_streams(
        [
            Noted(key="a", text="x"),
            Noted(key="a", text="poison"),
            Noted(key="b", text="y"),
            Noted(key="a", text="z"),
            Tagged(key="a", tags=["r"]),
            Tagged(key="b", tags=["s"]),
        ]
    )
    store.fold(log)
    assert store.left_out_positions() == {2, 4, 5}
    store.notes.poison = "-"
    assert store.refold("a", log) is None
    assert store.left_out_positions() == set()
    assert store.left_out == LeftOut()
    assert store.rows()["notes"][0] == ("a", 4, Note(text="z", edits=3).SerializeToString(), 3)
    assert store.read("SELECT * FROM diptych_parked") == []


def test_refold_is_refused_when_a_later_event_touched_the_row(store: Store) -> None:
    log = log_of_streams(
        [Noted(key="a", text="poison"), Tagged(key="a", tags=["r"]), Tagged(key="b", tags=["r"]), Noted(key="b")]
    )
    store.fold(log)
    store.notes.poison = "-"
    with pytest.raises(EntangledError, match=r"Event 3 of note/b, .* touched row r of view notes_tags"):
        store.refold("a", log)
    assert store.left_out_positions() == {1, 2}


@pytest.mark.parametrize(
    ("parked", "other", "row"),
    [
        (Tagged(key="b", tags=["r"]), Noted(key="b", text="x"), "row b of view notes"),
        (Noted(key="b", text="x"), Tagged(key="b", tags=["r"]), "row b of view notes"),
        (Noted(key="b", text="x"), Noted(key="b", text="y"), "row b of view notes"),
    ],
    ids=["looked up, then changed", "changed, then looked up", "changed twice"],
)
def test_refold_is_refused_when_a_later_event_uses_the_row(store: Store, parked: Any, other: Any, row: str) -> None:
    events = ((Noted(key="a", text="poison"), "a"), (parked, "a"), (other, "o"))
    log = log_of(events)
    store.fold(log)
    assert store.left_out_positions() == {1, 2}
    store.notes.poison = "-"
    with pytest.raises(EntangledError, match=row):
        store.refold("a", log)


def test_refold_that_fails_changes_only_the_recorded_failure(store: Store) -> None:
    log = log_of_streams([Noted(key="a", text="x"), Noted(key="a", text="poison"), Noted(key="a", text="worse")])
    store.fold(log)
    before, filling = store.rows(), store.writer.filling
    store.notes.poison = "worse"
    failure = store.refold("a", log)
    assert failure.position == 3
    found = store.run(store.writer.store.parked_stream(note("a")))
    assert found is not None
    assert (found.first_position, found.events, found.attempts, found.discard_time) == (2, 2, 2, None)
    assert found.error.startswith("Event 3 (notes.v1.Noted of note/a) failed in view notes_tags, row a: ValueError")
    assert RecordedEvent.FromString(found.event) == log[2]
    assert (store.rows(), store.writer.filling, store.left_out_positions()) == (before, filling, {2, 3})


def test_refold_is_refused_when_the_stream_was_parked_again(store: Store) -> None:
    log = log_of_streams([Noted(key="a", text="poison"), Noted(key="a", text="poison")])
    store.fold(log[:1])
    store.discard("a")
    store.fold(log[1:])
    with pytest.raises(StreamNotParkedError):
        store.run(store.writer.refold(note("a"), 1, log[:1]))
    assert store.left_out == LeftOut(1, 2, 2)


def test_refold_releases_events_that_the_code_no_longer_folds(store: Store) -> None:
    log = log_of_streams([Noted(key="a", text="poison"), Tagged(key="a", tags=["r"])])
    store.fold(log)
    assert store.run(store.writer.refold(note("a"), 1, log[1:])) is None
    assert store.left_out == LeftOut()


def test_discarded_stream_goes_on_and_its_left_out_events_stay_listed(store: Store) -> None:
    log = log_of_streams([Noted(key="a", text="poison"), Noted(key="a", text="x"), Noted(key="a", text="y")])
    store.fold(log[:2])
    assert store.discard("a") == 2
    assert store.left_out == LeftOut(0, 2, 2)
    again = store.reopened()
    again.fold(log[2:])
    assert again.rows() == folded(log, {1, 2}, by_key())
    assert again.left_out_positions() == {1, 2}
    assert again.page(0, 10, discarded=False) == ([], False)
    ((stream,), more) = again.page(0, 10, discarded=True)
    assert (stream.first_position, stream.events, stream.discard_time is not None, more) == (1, 2, True, False)
    with pytest.raises(StreamNotParkedError):
        again.discard("a")


def test_stream_is_parked_again_after_it_was_discarded(store: Store) -> None:
    log = log_of_streams([Noted(key="a", text=text) for text in ("poison", "x", "poison", "z")])
    store.fold(log[:1])
    store.discard("a")
    store.fold(log[1:])
    assert store.left_out == LeftOut(1, 3, 4)
    store.notes.poison = "-"
    assert store.refold("a", log) is None
    assert store.left_out == LeftOut(0, 1, 1)
    assert store.rows() == folded(log, {1}, store.notes)


def test_held_events_before_a_failing_event_are_stored_with_the_checkpoint(store: Store) -> None:
    log = log_of_streams(
        [Noted(key="a", text="poison"), Archived(key="b"), Noted(key="a"), Noted(key="b", text="poison")]
    )
    store.fold(log[:1])
    committed = store.commit(log[1:])
    assert (committed.folded.failure.position, committed.checkpoint) == (4, (3, "a-3"))
    assert (store.left_out_positions(), store.writer.stored.position) == ({1, 3}, 3)


def test_leader_that_lost_its_lease_parks_nothing(store: Store) -> None:
    log = log_of_streams([Noted(key="a", text="poison"), Noted(key="b", text="x")])
    other = store.reopened()
    failure = store.commit(log).folded.failure
    other.fold(log)
    with pytest.raises(LeaseLostError):
        store.run(store.writer.park(failure, 1))
    assert store.left_out == LeftOut()
    assert other.reopened().left_out == LeftOut(1, 1, 1)


def test_each_generation_parks_its_own_streams(store: Store) -> None:
    log = log_of_streams([Noted(key="a", text="poison")])
    store.fold(log)
    newer = Store(store.file, Notes(version=2, count_under=lambda event: event.key), store.runner)
    assert (newer.writer.generation, newer.left_out, newer.parked) == (2, LeftOut(), {})
    newer.fold(log)
    assert newer.read("SELECT generation, position FROM diptych_parked_events") == [(1, 1), (2, 1)]


def test_errors_traces_and_pages_are_bounded(store: Store) -> None:
    log = log_of_streams([Noted(key=f"k{n:02}", text="poison") for n in range(30)])
    for event in log:
        failure = store.commit([event]).folded.failure
        failure.args = ("much " * 1000,)
        failure.__cause__ = ValueError("more " * 10_000)
        store.run(store.writer.park(failure, 1))
    page, more = store.page(0, 20, discarded=False)
    assert ([stream.first_position for stream in page], more) == (list(range(1, 21)), True)
    page, more = store.page(20, 20, discarded=False)
    assert ([stream.first_position for stream in page], more) == (list(range(21, 31)), False)
    assert all(len(stream.error) == ERROR_CHARACTERS_MAX for stream in page)
    assert all(len(stream.trace) == TRACE_CHARACTERS_MAX for stream in page)


def test_event_with_broken_bytes_is_parked(store: Store) -> None:
    log = log_of_streams([Noted(key="a"), Noted(key="a", text="x"), Noted(key="b", text="y")])
    log[0].event.value = b"\xff"
    store.fold(log)
    assert store.left_out_positions() == {1, 2}
    assert store.rows()["notes_tags"] == [("b", 3, Tag(count=1).SerializeToString(), "")]
