"""Generations in the read store, on a real file: how they begin, take over from each other, and go."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from diptych.server.errors import StartError
from diptych.storage.errors import LeaseLostError, OvertakenError
from diptych.storage.read_store_schema import Checkpoint
from projector.store import generations
from projector.store.generations import TakenUp
from projector.store.leases import Leads
from projector.store.read_store_file import ReadStoreFile
from projector.store.row_writer import RowWriter
from tests.support.notes import Noted, Notes, log_of

LOG = log_of([Noted(key=f"k{n}", text=str(n)) for n in range(1300)])


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[ReadStoreFile]:
    file = ReadStoreFile(tmp_path / "read.db", "127.0.0.1:1")
    await file.open()
    yield file
    await file.close()


class Stored:
    """The generations of one projection, moved by hand."""

    def __init__(self, file: ReadStoreFile) -> None:
        self.file = file
        self.writers: dict[int, RowWriter] = {}

    async def take_up(self, notes: Notes) -> TakenUp:
        return await self.file.run(generations.take_up, self.file, notes.projection)

    async def writer(self, notes: Notes, generation: int, upto: int = 0) -> RowWriter:
        """A writer of a generation, which has folded the log so far."""
        writer = RowWriter(self.file, notes.projection)
        await self.file.run(writer.open, generation)
        if upto:
            await self.file.run(writer.commit, LOG[:upto], Checkpoint(upto, f"a-{upto}"))
        return writer

    async def begin(self, notes: Notes) -> int:
        return await self.file.run(generations.begin_filling, self.file, notes.projection)

    async def switch(self, old: RowWriter | None, new: RowWriter, elsewhere: Sequence[int] = ()) -> None:
        place = None if old is None else (old, old.stored)
        await self.file.run(generations.switch, self.file, place, (new, new.stored), elsewhere)

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
        while await self.file.run(generations.drop_some, self.file, Notes().projection):
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
def stored(file: ReadStoreFile) -> Stored:
    return Stored(file)


async def test_the_first_generation_ever_answers_at_once(stored: Stored) -> None:
    assert await stored.take_up(Notes()) == TakenUp(1, 0, False)
    assert await stored.take_up(Notes()) == TakenUp(1, 0, False)
    assert stored.all() == {1: "active"}


async def test_a_newer_version_is_filled_and_found_again(stored: Stored) -> None:
    await stored.take_up(Notes())
    assert await stored.take_up(Notes(version=2)) == TakenUp(0, 2, False)
    assert await stored.take_up(Notes(version=2)) == TakenUp(0, 2, False)
    assert await stored.take_up(Notes()) == TakenUp(1, 0, False), "the older one goes on"
    assert stored.all() == {1: "active", 2: "filling"}


async def test_code_that_changed_while_its_generation_was_filled_begins_anew(stored: Stored) -> None:
    await stored.take_up(Notes())
    await stored.take_up(Notes(version=2))
    assert await stored.take_up(Notes(version=2, columns=False)) == TakenUp(0, 3, False)
    assert stored.all() == {1: "active", 2: "dropped", 3: "filling"}


async def test_a_switch_is_one_transaction_that_writes_both_checkpoints(stored: Stored, file: ReadStoreFile) -> None:
    notes = Notes()
    await stored.take_up(notes)
    old = await stored.writer(notes, 1, upto=3)
    new = await stored.writer(notes, await stored.begin(notes), upto=3)
    late = Checkpoint(9, "a-9")
    await file.run(generations.switch, file, (old, late), (new, late), ())
    assert (old.stored, new.stored) == (late, late)
    assert stored.all() == {1: "kept", 2: "active"}
    assert [one.position for one in await file.run(generations.listed, file, "notes")] == [9, 9]


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


async def test_a_kept_generation_returns_and_a_cancelled_one_stays_kept(stored: Stored, file: ReadStoreFile) -> None:
    notes = Notes()
    await stored.take_up(notes)
    first = await stored.writer(notes, 1, upto=5)
    second = await stored.writer(notes, await stored.begin(notes), upto=5)
    assert not await file.run(generations.begin_return, file, notes.projection, 2), "that one is being filled"
    await stored.switch(first, second)
    assert not await file.run(generations.begin_return, file, Notes(version=2).projection, 1), "of other code"
    assert await file.run(generations.begin_return, file, notes.projection, 1)
    assert await stored.take_up(notes) == TakenUp(2, 1, False), "it is found after a restart"
    await file.run(generations.cancel, file, "notes", 1)
    assert stored.all() == {1: "kept", 2: "active"}
    await file.run(generations.cancel, file, "notes", await stored.begin(notes))
    assert stored.all() == {1: "kept", 2: "active", 3: "dropped"}
    assert await file.run(generations.begin_return, file, notes.projection, 1)
    await stored.switch(second, await stored.writer(notes, 1))
    assert stored.all() == {1: "active", 2: "kept", 3: "dropped"}


async def test_another_shape_leaves_the_old_version_to_its_readers(stored: Stored) -> None:
    old, new = Notes(), Notes(version=2, columns=False)
    await stored.take_up(old)
    await stored.writer(old, 1, upto=9)
    await stored.take_up(new)
    second = await stored.writer(new, 2, upto=4)
    await stored.switch(None, second)
    assert stored.all() == {1: "active", 2: "active"}
    assert await stored.take_up(old) == TakenUp(1, 0, False)
    third = await stored.writer(new, await stored.begin(new), upto=4)
    await stored.switch(second, third, elsewhere=[1])
    assert stored.all() == {1: "active", 2: "kept", 3: "active"}, "somebody folds version 1"
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
    first, second, third = (Leads(path, f"127.0.0.1:{port}") for port in (1, 2, 3))
    first.take([notes(1), notes(1, "others")])
    with pytest.raises(StartError, match=r"read.db is in use by another process \(pid=\d+ address=127.0.0.1:1\)"):
        second.take([notes(1), notes(1, "others")])
    second.take([notes(2), notes(1, "others")])
    assert second.attempt(notes(2)) is None
    assert "127.0.0.1:1" in str(second.attempt(notes(1, "others")))
    assert second.led_elsewhere("notes", [1, 3]) == {1}
    assert not second.come_first()
    first.release()
    assert second.attempt(notes(1, "others")) is None
    # The file's own lock is free now, and its versions are not.
    with pytest.raises(StartError, match=r"127\.0\.0\.1:2"):
        third.take([notes(2), notes(1, "others")])
    assert second.come_first()
    assert "address=127.0.0.1:2" in path.with_name("read.db.lock").read_text()
    second.release()
