"""Generations in the read store, on a real file: how they begin, take over from each other, and go."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from diptych.server.errors import StartError
from diptych.storage.errors import LeaseLostError, OvertakenError
from diptych.storage.read_store import Lease
from diptych.storage.read_store_schema import Checkpoint
from projector.store.leases import Leases
from projector.store.row_writer import RowWriter
from projector.store.sqlite_read_store import SqliteReadStore
from tests.support.notes import Noted, Notes, log_of
from tests.support.read_stores import leased

LOG = log_of([Noted(key=f"k{n}", text=str(n)) for n in range(1300)])


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqliteReadStore]:
    file = SqliteReadStore(tmp_path / "read.db", "127.0.0.1:1")
    await file.open()
    yield file
    await file.close()


class Stored:
    """The generations of one projection, moved by hand."""

    def __init__(self, file: SqliteReadStore) -> None:
        self.file = file
        self.leases: dict[int, Lease] = {}
        """By version, the last lease that was acquired."""

    async def take_up(self, notes: Notes) -> tuple[int, int, bool]:
        """Acquire the lease; return the active and the filling generation, and the pause."""
        lease = await leased(self.file, notes.projection)
        self.leases[notes.projection.version] = lease
        return lease.active, lease.filling, lease.paused

    async def writer(self, notes: Notes, generation: int, upto: int = 0) -> RowWriter:
        """A writer of a generation, which has folded the log so far."""
        lease = self.leases[notes.projection.version]
        writer = RowWriter(await self.file.open_generation(lease, generation))
        if upto:
            await writer.commit(LOG[:upto], Checkpoint(upto, f"a-{upto}"))
        return writer

    async def begin(self, notes: Notes) -> int:
        return await self.file.begin(self.leases[notes.projection.version])

    async def switch(self, old: RowWriter | None, new: RowWriter) -> None:
        await self.file.switch(None if old is None else (old.store, old.stored), (new.store, new.stored))

    def all(self) -> dict[int, str]:
        """Every generation, and what it is for."""
        connection = sqlite3.connect(f"file:{self.file.path}?mode=ro", uri=True)
        try:
            found = connection.execute("SELECT generation, active, stage FROM diptych_generations").fetchall()
        finally:
            connection.close()
        return {generation: "active" if active else stage or "kept" for generation, active, stage in found}

    async def drop(self) -> int:
        """Drops what is not wanted; returns in how many steps."""
        steps = 1
        while await self.file.drop_some(self.leases[1]):
            steps += 1
        return steps

    def tables(self) -> set[str]:
        connection = sqlite3.connect(f"file:{self.file.path}?mode=ro", uri=True)
        try:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'notes%'")
            return {name for (name,) in found}
        finally:
            connection.close()


@pytest.fixture
def stored(file: SqliteReadStore) -> Stored:
    return Stored(file)


async def test_the_first_generation_ever_answers_at_once(stored: Stored) -> None:
    assert await stored.take_up(Notes()) == (1, 0, False)
    assert await stored.take_up(Notes()) == (1, 0, False)
    assert stored.all() == {1: "active"}


async def test_a_newer_version_is_filled_and_found_again(stored: Stored) -> None:
    await stored.take_up(Notes())
    assert await stored.take_up(Notes(version=2)) == (0, 2, False)
    assert await stored.take_up(Notes(version=2)) == (0, 2, False)
    assert await stored.take_up(Notes()) == (1, 0, False), "the older one goes on"
    assert stored.all() == {1: "active", 2: "filling"}


async def test_code_that_changed_while_its_generation_was_filled_begins_anew(stored: Stored) -> None:
    await stored.take_up(Notes())
    await stored.take_up(Notes(version=2))
    assert await stored.take_up(Notes(version=2, columns=False)) == (0, 3, False)
    assert stored.all() == {1: "active", 2: "dropped", 3: "filling"}


async def test_a_switch_is_one_transaction_that_writes_both_checkpoints(stored: Stored, file: SqliteReadStore) -> None:
    notes = Notes()
    await stored.take_up(notes)
    old = await stored.writer(notes, 1, upto=3)
    new = await stored.writer(notes, await stored.begin(notes), upto=3)
    late = Checkpoint(9, "a-9")
    await file.switch((old.store, late), (new.store, late))
    assert (old.stored, new.stored) == (late, late)
    assert stored.all() == {1: "kept", 2: "active"}
    assert [one.position for one in await file.generations("notes")] == [9, 9]


async def test_a_switch_to_what_is_behind_is_refused_and_changes_nothing(stored: Stored) -> None:
    notes = Notes()
    await stored.take_up(notes)
    old = await stored.writer(notes, 1, upto=5)
    new = await stored.writer(notes, await stored.begin(notes), upto=4)
    with pytest.raises(OvertakenError, match="generation 1 is at 5, beyond 4"):
        await stored.switch(old, new)
    assert stored.all() == {1: "active", 2: "filling"}


async def test_a_switch_by_a_writer_that_lost_its_lead_changes_nothing(stored: Stored) -> None:
    notes = Notes()
    await stored.take_up(notes)
    old = await stored.writer(notes, 1)
    new = await stored.writer(notes, await stored.begin(notes), upto=4)
    await stored.writer(notes, 1, upto=3)  # Another one's.
    with pytest.raises(LeaseLostError):
        await stored.switch(old, new)
    assert stored.all() == {1: "active", 2: "filling"}


async def test_exactly_one_is_kept_and_the_rest_is_dropped_in_steps(stored: Stored) -> None:
    notes = Notes()
    await stored.take_up(notes)
    writers = [await stored.writer(notes, 1, upto=1300)]
    for _ in range(2):
        writers.append(await stored.writer(notes, await stored.begin(notes), upto=1300))
        await stored.switch(writers[-2], writers[-1])
    assert stored.all() == {1: "dropped", 2: "kept", 3: "active"}
    assert await stored.drop() >= 3, "500 rows in a transaction, of 1,300"
    assert stored.all() == {2: "kept", 3: "active"}
    assert stored.tables() == {"notes_g2", "notes_tags_g2", "notes_g3", "notes_tags_g3"}
    assert await stored.begin(notes) == 4


async def test_a_kept_generation_returns_and_a_cancelled_one_stays_kept(stored: Stored, file: SqliteReadStore) -> None:
    notes = Notes()
    await stored.take_up(notes)
    first = await stored.writer(notes, 1, upto=5)
    second = await stored.writer(notes, await stored.begin(notes), upto=5)
    assert not await file.begin_return(stored.leases[1], 2), "that one is being filled"
    await stored.switch(first, second)
    other = stored.leases[1]._replace(projection=Notes(columns=False).projection)
    assert not await file.begin_return(other, 1), "of other code"
    assert await file.begin_return(stored.leases[1], 1)
    assert await stored.take_up(notes) == (2, 1, False), "it is found after a restart"
    await file.cancel(stored.leases[1], 1)
    assert stored.all() == {1: "kept", 2: "active"}
    await file.cancel(stored.leases[1], await stored.begin(notes))
    assert stored.all() == {1: "kept", 2: "active", 3: "dropped"}
    assert await file.begin_return(stored.leases[1], 1)
    await stored.switch(await stored.writer(notes, 2), await stored.writer(notes, 1))
    assert stored.all() == {1: "active", 2: "kept", 3: "dropped"}


async def test_another_shape_leaves_the_old_version_to_its_readers(stored: Stored) -> None:
    old, new = Notes(), Notes(version=2, columns=False)
    await stored.take_up(old)
    await stored.writer(old, 1, upto=9)
    await stored.take_up(new)
    second = await stored.writer(new, 2, upto=4)
    await stored.switch(None, second)
    assert stored.all() == {1: "active", 2: "active"}
    assert await stored.take_up(old) == (1, 0, False)
    third = await stored.writer(new, await stored.begin(new), upto=4)
    stored.file.leases.release()
    other = Leases(stored.file.path, "127.0.0.1:2")
    assert other.acquire(old.projection) is None
    await stored.switch(second, third)
    assert stored.all() == {1: "active", 2: "kept", 3: "active"}, "another projector folds version 1"
    other.release()
    await stored.switch(third, await stored.writer(new, await stored.begin(new), upto=4))
    assert stored.all() == {1: "dropped", 2: "dropped", 3: "kept", 4: "active"}


async def test_the_same_shape_takes_over_from_the_old_version(stored: Stored) -> None:
    old, new = Notes(), Notes(version=2)
    await stored.take_up(old)
    await stored.writer(old, 1, upto=5)
    await stored.take_up(new)
    behind = await stored.writer(new, 2, upto=4)
    with pytest.raises(OvertakenError):
        await stored.switch(None, behind)
    await stored.switch(None, await stored.writer(new, 2, upto=5))
    assert stored.all() == {1: "kept", 2: "active"}
    with pytest.raises(StartError, match="older version 1"):
        await stored.take_up(old)


def test_leads_are_by_version_and_the_first_one_names_itself(tmp_path: Path) -> None:
    def notes(version: int, name: str = "notes") -> Any:
        return Notes(name, version=version).projection

    path = tmp_path / "read.db"
    first, second, third = (Leases(path, f"127.0.0.1:{port}") for port in (1, 2, 3))
    first.acquire_free([notes(1), notes(1, "others")])
    with pytest.raises(StartError, match=r"read.db is in use by another process \(pid=\d+ address=127.0.0.1:1\)"):
        second.acquire_free([notes(1), notes(1, "others")])
    second.acquire_free([notes(2), notes(1, "others")])
    assert second.acquire(notes(2)) is None
    assert "127.0.0.1:1" in str(second.acquire(notes(1, "others")))
    assert second.led_elsewhere("notes", [1, 3]) == {1}
    assert not second.become_primary()
    first.release()
    assert second.acquire(notes(1, "others")) is None
    # The file's own lock is free now, and its versions are not.
    with pytest.raises(StartError, match=r"127\.0\.0\.1:2"):
        third.acquire_free([notes(2), notes(1, "others")])
    assert second.become_primary()
    assert "address=127.0.0.1:2" in path.with_name("read.db.lock").read_text()
    second.release()
