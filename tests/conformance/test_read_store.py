"""Conformance suite of read stores. Another database is one more parameter of `backend`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from diptych.contract.token import Epoch, LogIdentity
from diptych.domain.aggregate import AggregateRef
from diptych.domain.memory_rows import MemoryRows
from diptych.domain.projection import Projection
from diptych.server.errors import StartError
from diptych.storage.errors import LeaseLostError, OvertakenError, StreamNotParkedError
from diptych.storage.read_store import (
    Change,
    FailedEvent,
    GenerationStore,
    Lease,
    LeaseHolder,
    LeftOut,
    ReadStore,
)
from diptych.storage.read_store_schema import Checkpoint, view_table_name
from diptych.v1.events_pb2 import RecordedEvent
from projector.store.row_writer import Committed, RowWriter
from projector.store.sqlite_read_store import SqliteReadStore
from tests.support.notes import Erased, Note, Noted, Notes, Tagged, log_of, log_of_streams
from tests.support.read_stores import leased, opened_writer, read_file

IDENTITY = LogIdentity(b"12345678", [Epoch(1, 1), Epoch(2, 5)])
A = AggregateRef("note", "a")
POISONED = log_of_streams([Noted(key="a", text="poison"), Noted(key="b", text="x"), Noted(key="a", text="y")])
"""Stream a is parked from 1 on; 3 is left out, too."""


class Backend:
    """One read store, opened as often as a test wants."""

    def __init__(self, name: str, folder: Path) -> None:
        assert name == "sqlite"
        self._path = folder / "read store 100%.db"

    @asynccontextmanager
    async def open(self, *projections: Projection, address: str = "127.0.0.1:1") -> AsyncIterator[ReadStore]:
        """Open the store as one projector does, and close it in the end."""
        store = SqliteReadStore(self._path, address)
        await store.open(projections)
        try:
            yield store
        finally:
            await store.close()

    async def opened_once_more(self, projection: Projection) -> None:
        """Open the store as another projector does, and leave it open if that succeeds."""
        await SqliteReadStore(self._path, "127.0.0.1:3").open([projection])

    def contents(self) -> dict[str, list[Any]]:
        """Return all that the store has, by table."""
        tables = [name for (name,) in read_file(self._path, "SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: read_file(self._path, f"SELECT * FROM {name} ORDER BY 1, 2, 3") for name in tables}

    def rows(self, view: str, generation: int = 1) -> list[Any]:
        """Return the rows of a view by key: key, position, bytes (None: tombstone), columns."""
        table = view_table_name(view, generation)
        return read_file(self._path, f"SELECT * FROM {table} ORDER BY key")

    def floor(self) -> int:
        """Return the floor of the first generation."""
        ((floor,),) = read_file(self._path, "SELECT tombstone_floor FROM diptych_generations WHERE generation = 1")
        return int(floor)


@pytest.fixture(params=["sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return Backend(request.param, tmp_path)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[ReadStore]:
    async with backend.open() as opened:
        yield opened


async def commit(writer: RowWriter, events: Sequence[RecordedEvent]) -> Committed:
    """Fold a batch that reaches to its last event."""
    return await writer.commit(events, Checkpoint(events[-1].position, events[-1].event_id))


async def fold(writer: RowWriter, log: Sequence[RecordedEvent], size: int = 1000) -> None:
    """Fold a log in batches, and park the streams of events that fail."""
    for start in range(0, len(log), size):
        events = list(log[start : start + size])
        while events and (failure := (await commit(writer, events)).folded.failure) is not None:
            await writer.park(failure, 1)
            events = [event for event in events if event.position > failure.position]


def failed(event: RecordedEvent, error: str = "It broke.") -> FailedEvent:
    return FailedEvent(event, error, "trace", 3)


# Rows and checkpoint.


async def test_rows_and_checkpoint_are_committed_together(backend: Backend, store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    log = log_of([Noted(key="a", text="x"), Noted(key="ä", text="y"), Noted(key="a", text="z")])
    committed = await commit(writer, log)
    assert (committed.rows, committed.checkpoint, writer.stored) == (3, (3, "a-3"), (3, "a-3"))
    assert backend.rows("notes") == [
        ("a", 3, Note(text="z", edits=2).SerializeToString(), 2),
        ("ä", 2, Note(text="y", edits=1).SerializeToString(), 1),
    ]
    assert [one.position for one in await store.generations("notes")] == [3]


async def test_fold_loads_the_rows_that_exist_and_writes_none_when_it_returns_none(
    backend: Backend, store: ReadStore
) -> None:
    writer = await opened_writer(store, Notes().projection)
    await commit(writer, log_of([Noted(key="a", text="x"), Noted(key="b", text="y"), Erased(key="b")]))
    before = backend.contents()
    loaded: list[Any] = []
    change = await writer.store.fold(lambda: [["a", "b", "c"], []], loaded.extend)
    assert change is None
    assert loaded == [{"a": Note(text="x", edits=1).SerializeToString(), "b": None}, {}]
    assert backend.contents() == before


async def test_fold_that_raises_changes_nothing(backend: Backend, store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    await commit(writer, log_of([Noted(key="a", text="x")]))
    before = backend.contents()

    def fail(rows: Any) -> Change:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await writer.store.fold(lambda: [["a"], []], fail)
    assert backend.contents() == before
    assert (await commit(writer, log_of([Noted(key="a", text="x")] * 2)[1:])).checkpoint == (2, "a-2")


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_rows_do_not_depend_on_batches(backend: Backend, store: ReadStore, size: int) -> None:
    notes = Notes()
    made = [
        [
            Noted(key=f"k{n % 7}", text=str(n)),
            Tagged(key=f"k{n % 5}", tags=[f"t{n % 4}", "all"]),
            Erased(key=f"k{n % 11}"),
        ]
        for n in range(40)
    ]
    log = log_of([event for three in made for event in three])
    await fold(await opened_writer(store, notes.projection), log, size)
    memory = MemoryRows(notes.projection)
    memory.apply(log)
    for view in ("notes", "notes_tags"):
        assert backend.rows(view) == [memory.rows[view][key] for key in sorted(memory.rows[view])]


async def test_deleted_row_leaves_a_tombstone_and_can_return(backend: Backend, store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    log = log_of([Noted(key="a", text="x"), Erased(key="a"), Noted(key="a", text="y")])
    await commit(writer, log[:2])
    assert backend.rows("notes") == [("a", 2, None, None)]
    await commit(writer, log[2:])
    assert backend.rows("notes") == [("a", 3, Note(text="y", edits=1).SerializeToString(), 1)]


async def test_equal_bytes_change_nothing(backend: Backend, store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    log = log_of([Noted(key="a", text="x"), Noted(key="a", text="x"), Erased(key="c")])
    await commit(writer, log[:1])
    before = backend.rows("notes")
    assert (await commit(writer, log[1:2])).rows == 1, "only the view that counts"
    assert backend.rows("notes") == before
    contents = backend.contents()
    assert (await commit(writer, log[2:])).rows == 0
    assert (writer.stored, backend.contents()) == ((2, "a-2"), contents)
    assert await writer.write_checkpoint(Checkpoint(3, "a-3")) == (3, "a-3")
    assert await writer.write_checkpoint(Checkpoint(2, "a-2")) == (3, "a-3"), "never back"


async def test_bug_checkpoint_went_back_when_a_fold_was_queued_before_it(store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    later, earlier = Change(Checkpoint(3, "a-3")), Change(Checkpoint(2, "a-2"))
    # Both are queued while the stored checkpoint is 0.
    await asyncio.gather(writer.store.write(later), writer.store.write(earlier))
    assert writer.stored == (3, "a-3")


async def test_everything_is_found_again_after_the_store_was_closed(backend: Backend) -> None:
    async with backend.open() as store:
        writer = await opened_writer(store, Notes().projection)
        await writer.write_identity(IDENTITY)
        await fold(writer, POISONED)
        await writer.write_paused(True, Checkpoint(9, "a-9"))
        state = _state(writer.store)
    assert state == ((9, "a-9"), IDENTITY, True, writer.filling, LeftOut(1, 2, 3), {A: 1})
    async with backend.open() as store:
        lease = await leased(store, Notes().projection)
        assert (lease.active, lease.filling, lease.paused) == (1, 0, True)
        assert _state(await store.open_generation(lease, 1)) == state


def _state(store: GenerationStore) -> Any:
    return store.stored, store.identity, store.paused, store.filling, store.left_out, dict(store.parked)


# Parked streams.


async def test_parked_stream_is_left_out_and_listed(backend: Backend, store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    await fold(writer, POISONED)
    assert (writer.stored, writer.left_out) == ((3, "a-3"), LeftOut(1, 2, 3))
    assert [row[0] for row in backend.rows("notes")] == ["b"]
    stream = await writer.store.parked_stream(A)
    assert stream is not None
    assert (stream.first_position, stream.events, stream.attempts, stream.discard_time) == (1, 2, 1, None)
    assert RecordedEvent.FromString(stream.event) == POISONED[0]
    assert await writer.store.parked_page(0, 10, discarded=False) == ([stream], False)
    assert await writer.store.parked_page(1, 10, discarded=False) == ([], False)
    assert await writer.store.left_out_between(0, 3) == {1: 1, 3: 1}
    assert await writer.store.left_out_between(1, 2) == {}


async def test_held_and_failed_events_of_one_change_are_both_left_out(store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    await writer.store.write(Change(Checkpoint(1, "a-1"), park=failed(POISONED[0])))
    event = log_of_streams([Noted(key="b")] * 4)[3]
    await writer.store.write(Change(Checkpoint(4, "a-4"), hold=[POISONED[2]], park=failed(event)))
    assert writer.left_out == LeftOut(2, 3, 4)
    assert await writer.store.left_out_between(0, 9) == {1: 1, 3: 1, 4: 4}


async def test_released_stream_has_its_rows_and_another_filling(backend: Backend, store: ReadStore) -> None:
    notes = Notes(count_under=lambda event: event.key)
    writer = await opened_writer(store, notes.projection)
    await fold(writer, POISONED)
    filling = writer.filling
    notes.poison = "-"
    assert await writer.refold(A, 1, [POISONED[0], POISONED[2]]) is None
    assert writer.filling != filling
    assert (writer.left_out, dict(writer.store.parked), writer.stored) == (LeftOut(), {}, (3, "a-3"))
    assert [(row[0], row[1]) for row in backend.rows("notes")] == [("a", 3), ("b", 2)]
    assert await writer.store.parked_page(0, 10, discarded=True) == ([], False)


async def test_refold_that_fails_again_records_the_failure_alone(backend: Backend, store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    await fold(writer, POISONED)
    before, filling = backend.rows("notes"), writer.filling
    failure = await writer.refold(A, 1, [POISONED[0], POISONED[2]])
    assert failure is not None
    stream = await writer.store.parked_stream(A)
    assert stream is not None
    assert (stream.attempts, stream.events) == (2, 2)
    assert (backend.rows("notes"), writer.filling, writer.left_out) == (before, filling, LeftOut(1, 2, 3))


async def test_discarded_stream_goes_on_and_its_events_stay_listed(backend: Backend, store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    await fold(writer, POISONED)
    assert await writer.discard(A) == 2
    assert (writer.left_out, dict(writer.store.parked)) == (LeftOut(0, 2, 3), {})
    ((stream,), more) = await writer.store.parked_page(0, 10, discarded=True)
    assert (stream.aggregate, stream.events, stream.discard_time is not None, more) == (A, 2, True, False)
    assert await writer.store.parked_page(0, 10, discarded=False) == ([], False)
    await commit(writer, log_of_streams([Noted(key="a", text="z")] * 4)[3:])
    assert [row[0] for row in backend.rows("notes")] == ["a", "b"]


async def test_stream_that_is_not_parked_is_neither_released_nor_discarded(backend: Backend, store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    await fold(writer, POISONED)
    before = backend.contents()
    other = AggregateRef("note", "b")
    changes = [
        Change(Checkpoint(9, "a-9"), discard=other),
        Change(Checkpoint(9, "a-9"), release=other),
        Change(Checkpoint(9, "a-9"), fail_again=(other, failed(POISONED[0]))),
    ]
    for change in changes:
        with pytest.raises(StreamNotParkedError):
            await writer.store.write(change)
    with pytest.raises(StreamNotParkedError):
        await writer.refold(A, 2, [POISONED[0]])
    assert await writer.store.parked_stream(other) is None
    assert backend.contents() == before


async def test_page_of_parked_streams_ends_at_its_size(store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    await fold(writer, log_of_streams([Noted(key=f"k{n}", text="poison") for n in range(5)]))
    first, more = await writer.store.parked_page(0, 3, discarded=False)
    assert ([stream.first_position for stream in first], more) == ([1, 2, 3], True)
    second, more = await writer.store.parked_page(3, 3, discarded=False)
    assert ([stream.first_position for stream in second], more) == ([4, 5], False)


async def test_page_of_parked_streams_ends_at_its_bytes(store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    for event in log_of_streams([Noted(key=f"k{n}", text="x" * (600 << 10)) for n in range(3)]):
        await writer.store.write(Change(Checkpoint(event.position, event.event_id), park=failed(event)))
    page, more = await writer.store.parked_page(0, 10, discarded=False)
    assert (len(page), more) == (2, True)


# Generations.


def _roles(generations: Any) -> dict[int, str]:
    return {one.generation: "active" if one.active else one.stage or "kept" for one in generations}


class Generations:
    """Generations of the notes, folded and switched by hand."""

    def __init__(self, store: ReadStore, lease: Lease) -> None:
        self.store = store
        self.lease = lease
        self.log = log_of([Noted(key=f"k{n % 300}", text=str(n)) for n in range(700)])

    async def open(self, generation: int, through: int = 0) -> RowWriter:
        """Open a generation, and fold the log into it."""
        writer = RowWriter(await self.store.open_generation(self.lease, generation))
        if through:
            await commit(writer, self.log[writer.stored.position : through])
        return writer

    async def switch(self, old: RowWriter | None, new: RowWriter) -> None:
        """Make a generation active with the checkpoints as they are."""
        await self.store.switch(None if old is None else (old.store, old.stored), (new.store, new.stored))

    async def roles(self) -> dict[int, str]:
        """Return the role of each generation."""
        return _roles(await self.store.generations("notes"))


@pytest.fixture
async def generations(store: ReadStore) -> Generations:
    return Generations(store, await leased(store, Notes().projection))


async def test_first_generation_is_active_and_a_newer_version_is_filled_beside_it(store: ReadStore) -> None:
    lease = await leased(store, Notes().projection)
    assert (lease.active, lease.filling, lease.paused) == (1, 0, False)
    newer = await leased(store, Notes(version=2).projection)
    assert (newer.active, newer.filling) == (0, 2)
    assert _roles(await store.generations("notes")) == {1: "active", 2: "filling"}


async def test_switch_writes_both_checkpoints_and_keeps_the_replaced_generation(generations: Generations) -> None:
    old = await generations.open(1, through=3)
    new = await generations.open(await generations.store.begin(generations.lease), through=3)
    late = Checkpoint(9, "a-9")
    await generations.store.switch((old.store, late), (new.store, late))
    assert (old.stored, new.stored) == (late, late)
    assert await generations.roles() == {1: "kept", 2: "active"}
    assert [one.position for one in await generations.store.generations("notes")] == [9, 9]


async def test_switch_to_a_generation_that_is_behind_is_refused(backend: Backend, generations: Generations) -> None:
    old = await generations.open(1, through=5)
    new = await generations.open(await generations.store.begin(generations.lease), through=4)
    before = backend.contents()
    with pytest.raises(OvertakenError):
        await generations.switch(old, new)
    assert backend.contents() == before


async def test_superfluous_generation_is_dropped_in_steps(backend: Backend, generations: Generations) -> None:
    writers = [await generations.open(1, through=700)]
    for _ in range(2):
        number = await generations.store.begin(generations.lease)
        writers.append(await generations.open(number, through=700))
        await generations.switch(writers[-2], writers[-1])
    assert await generations.roles() == {2: "kept", 3: "active"}
    assert backend.rows("notes", 1)
    steps = 0
    while await generations.store.drop_some(generations.lease):
        steps += 1
    assert steps >= 2
    tables = set(backend.contents())
    assert "notes_g1" not in tables
    assert {"notes_g2", "notes_tags_g2", "notes_g3", "notes_tags_g3"} <= tables
    assert not await generations.store.drop_some(generations.lease)


async def test_cancelled_generation_is_dropped_and_a_cancelled_return_is_kept(generations: Generations) -> None:
    store, lease = generations.store, generations.lease
    first = await generations.open(1, through=5)
    await generations.switch(first, await generations.open(await store.begin(lease), through=5))
    assert not await store.begin_return(lease, 2), "active"
    assert not await store.begin_return(lease, 9), "unknown"
    assert await store.begin_return(lease, 1)
    assert not await store.begin_return(lease, 1), "returning already"
    assert await generations.roles() == {1: "returning", 2: "active"}
    await store.cancel(lease, 1)
    assert await generations.roles() == {1: "kept", 2: "active"}
    await store.cancel(lease, await store.begin(lease))
    assert await generations.roles() == {1: "kept", 2: "active"}


async def test_code_that_is_older_or_has_another_shape_is_refused(store: ReadStore) -> None:
    await leased(store, Notes(version=2).projection)
    with pytest.raises(StartError, match="older version 1"):
        await store.acquire(Notes().projection)
    with pytest.raises(StartError, match="raise the version"):
        await store.acquire(Notes(version=2, columns=False).projection)


# Leases and fences.


async def test_lease_has_one_holder_and_a_greater_fence_each_time(backend: Backend) -> None:
    notes = Notes().projection
    async with backend.open(Notes("others").projection, address="127.0.0.1:2") as standby:
        async with backend.open(notes, address="127.0.0.1:1") as leader:
            lease = await leased(leader, notes)
            holder = await standby.acquire(notes)
            assert isinstance(holder, LeaseHolder)
            assert holder.address == "127.0.0.1:1"
            with pytest.raises(StartError, match=r"in use by another process \(pid=\d+ address=127\.0\.0\.1:"):
                await backend.opened_once_more(notes)
        taken_over = await leased(standby, notes)
    assert taken_over.fence > lease.fence
    assert (taken_over.active, taken_over.filling) == (lease.active, lease.filling)


async def test_another_projector_becomes_primary_when_the_first_has_ended(backend: Backend) -> None:
    async with AsyncExitStack() as first:
        await first.enter_async_context(backend.open(Notes(version=2).projection, address="127.0.0.1:2"))
        async with backend.open(Notes().projection) as second:
            assert not second.become_primary()
            await first.aclose()
            assert not second.primary
            assert second.become_primary()
            assert second.primary


class Stale(NamedTuple):
    """A leader that lost its lease, with all that it may try to write."""

    store: ReadStore
    lease: Lease
    active: RowWriter
    filling: RowWriter


@pytest.fixture
async def stale(store: ReadStore) -> Stale:
    """Prepare each kind of generation, then acquire the lease again."""
    projection = Notes().projection
    lease = await leased(store, projection)
    first = RowWriter(await store.open_generation(lease, 1))
    await fold(first, POISONED)
    active = RowWriter(await store.open_generation(lease, await store.begin(lease)))
    await fold(active, POISONED)
    await store.switch((first.store, first.stored), (active.store, active.stored))  # The first one is kept now.
    dropped = await store.begin(lease)
    await store.cancel(lease, dropped)
    filling = RowWriter(await store.open_generation(lease, await store.begin(lease)))
    await commit(active, log_of_streams([Erased(key="b")] * 4)[3:])  # A tombstone.
    await active.store.raise_floor(100.0, 50.0)
    await commit(filling, log_of_streams([Noted(key="b")] * 4)[3:])
    await leased(store, projection)
    return Stale(store, lease, active, filling)


NEXT = log_of_streams([Noted(key="n", text="n")] * 5)[4:]
HELD = log_of_streams([Noted(key="a")] * 9)[8:]
POISON = log_of_streams([Noted(key="n", text="poison")] * 5)[4:]
STATEMENTS: dict[str, Callable[[Stale], Awaitable[Any]]] = {
    "rows": lambda stale: commit(stale.active, NEXT),
    "rows of a filling generation": lambda stale: commit(stale.filling, NEXT),
    "checkpoint": lambda stale: stale.active.write_checkpoint(Checkpoint(9, "a-9")),
    "identity": lambda stale: stale.active.write_identity(IDENTITY),
    "pause": lambda stale: stale.active.write_paused(True, Checkpoint(4, "a-4")),
    "hold": lambda stale: stale.active.store.write(Change(Checkpoint(9, "a-9"), hold=HELD)),
    "park": lambda stale: stale.active.store.write(Change(Checkpoint(5, "a-5"), park=failed(POISON[0]))),
    "fail again": lambda stale: stale.active.store.write(Change(fail_again=(A, failed(POISONED[0])))),
    "release": lambda stale: stale.active.store.write(Change(release=A, filling="another")),
    "discard": lambda stale: stale.active.discard(A),
    "refold": lambda stale: stale.active.refold(A, 1, POISONED[2:]),
    "floor": lambda stale: stale.active.store.raise_floor(200.0, 150.0),
    "remove tombstones": lambda stale: stale.active.store.remove_tombstones(4),
    "open": lambda stale: stale.store.open_generation(stale.lease, 2),
    "begin": lambda stale: stale.store.begin(stale.lease),
    "return": lambda stale: stale.store.begin_return(stale.lease, 1),
    "cancel": lambda stale: stale.store.cancel(stale.lease, stale.filling.generation),
    "switch": lambda stale: stale.store.switch(
        (stale.active.store, stale.active.stored), (stale.filling.store, stale.filling.stored)
    ),
    "switch without an active one": lambda stale: stale.store.switch(None, (stale.filling.store, stale.filling.stored)),
    "drop": lambda stale: stale.store.drop_some(stale.lease),
}


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_leader_with_an_old_fence_writes_nothing(backend: Backend, stale: Stale, statement: str) -> None:
    before, state = backend.contents(), _state(stale.active.store)
    with pytest.raises(LeaseLostError):
        await STATEMENTS[statement](stale)
    assert backend.contents() == before
    assert _state(stale.active.store) == state


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_leader_with_the_last_fence_writes(backend: Backend, stale: Stale, statement: str) -> None:
    """Each of those statements is one that succeeds but for the fence."""
    lease = await leased(stale.store, stale.lease.projection)
    fresh = stale._replace(
        lease=lease,
        active=RowWriter(await stale.store.open_generation(lease, stale.active.generation)),
        filling=RowWriter(await stale.store.open_generation(lease, stale.filling.generation)),
    )
    before = backend.contents()
    await STATEMENTS[statement](fresh)
    assert statement == "open" or backend.contents() != before


async def test_leader_whose_checkpoint_was_moved_writes_nothing(backend: Backend, store: ReadStore) -> None:
    lease = await leased(store, Notes().projection)
    one = RowWriter(await store.open_generation(lease, 1))
    other = RowWriter(await store.open_generation(lease, 1))
    await commit(other, NEXT)
    before = backend.contents()
    with pytest.raises(LeaseLostError, match="no longer 0"):
        await commit(one, NEXT)
    assert backend.contents() == before


# Tombstones.


async def test_floor_rises_over_expired_tombstones_before_they_are_removed(backend: Backend, store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    log = log_of([Noted(key="a", text="x"), Erased(key="a"), Noted(key="b", text="x"), Erased(key="b")])
    await commit(writer, log[:2])
    assert await writer.store.raise_floor(1000.0, 900.0) == 0, "nothing is older than the first mark"
    await commit(writer, log[2:])
    assert await writer.store.raise_floor(1100.0, 1000.0) == 2
    assert (backend.floor(), [row[0] for row in backend.rows("notes")]) == (2, ["a", "b"])
    assert await writer.store.remove_tombstones(2) == 1
    assert await writer.store.remove_tombstones(2) == 0
    assert [(row[0], row[2]) for row in backend.rows("notes")] == [("b", None)]
    assert await writer.store.raise_floor(1101.0, 1001.0) == 0
    assert backend.floor() == 2, "never lower"


async def test_tombstones_are_removed_by_500_at_most(store: ReadStore) -> None:
    writer = await opened_writer(store, Notes().projection)
    log = log_of([Noted(key=f"k{n}") for n in range(600)] + [Erased(key=f"k{n}") for n in range(600)])
    await commit(writer, log[:600])
    await commit(writer, log[600:])
    await writer.store.raise_floor(1000.0, 900.0)
    floor = await writer.store.raise_floor(1100.0, 1000.0)
    assert floor == 1200
    assert [await writer.store.remove_tombstones(floor) for _ in range(3)] == [500, 100, 0]
