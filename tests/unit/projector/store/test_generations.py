"""Generations in the read store: which exist, how they begin and return, and how dropped ones are deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from diptych.domain.code_digest import code_digest
from diptych.server.errors import StartError
from diptych.storage.errors import OvertakenError
from projector.store.sqlite_read_store import SqliteReadStore
from tests.support.notes import Notes
from tests.support.read_stores import StoredGenerations, opened_store, opened_writer, read_file


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[StoredGenerations]:
    async with opened_store(tmp_path / "read.db") as store:
        yield StoredGenerations(store)


async def test_first_generation_is_active_at_once(stored: StoredGenerations) -> None:
    assert await stored.take_up(Notes()) == (1, 0, False)
    assert await stored.take_up(Notes()) == (1, 0, False)
    assert stored.all() == {1: "active"}


async def test_generation_of_a_newer_version_is_filled_and_reopened(stored: StoredGenerations) -> None:
    await stored.take_up(Notes())
    assert await stored.take_up(Notes(version=2)) == (0, 2, False)
    assert await stored.take_up(Notes(version=2)) == (0, 2, False)
    assert await stored.take_up(Notes()) == (1, 0, False), "the older one goes on"
    assert stored.all() == {1: "active", 2: "filling"}


async def test_filling_generation_is_replaced_when_the_code_has_another_shape(stored: StoredGenerations) -> None:
    await stored.take_up(Notes())
    await stored.take_up(Notes(version=2))
    assert await stored.take_up(Notes(version=2, columns=False)) == (0, 3, False)
    assert stored.all() == {1: "active", 2: "dropped", 3: "filling"}


async def test_one_generation_is_kept_and_the_others_are_dropped_in_steps(stored: StoredGenerations) -> None:
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


async def test_kept_generation_returns_and_is_kept_when_its_return_is_cancelled(
    stored: StoredGenerations,
) -> None:
    notes = Notes()
    await stored.take_up(notes)
    first = await stored.writer(notes, 1, upto=5)
    second = await stored.writer(notes, await stored.begin(notes), upto=5)
    assert not await stored.store.begin_return(stored.leases[1], 2), "that one is being filled"
    await stored.switch(first, second)
    other = stored.leases[1]._replace(projection=Notes(columns=False).projection)
    assert not await stored.store.begin_return(other, 1), "of other code"
    assert await stored.store.begin_return(stored.leases[1], 1)
    assert await stored.take_up(notes) == (2, 1, False), "it is found after a restart"
    await stored.store.cancel(stored.leases[1], 1)
    assert stored.all() == {1: "kept", 2: "active"}
    await stored.store.cancel(stored.leases[1], await stored.begin(notes))
    assert stored.all() == {1: "kept", 2: "active", 3: "dropped"}
    assert await stored.store.begin_return(stored.leases[1], 1)
    await stored.switch(await stored.writer(notes, 2), await stored.writer(notes, 1))
    assert stored.all() == {1: "active", 2: "kept", 3: "dropped"}


async def test_older_code_returns_to_its_kept_generation_with_roll_back(tmp_path: Path) -> None:
    old, new = Notes(), Notes(version=2)
    async with opened_store(tmp_path / "read.db") as store:
        stored = StoredGenerations(store)
        await stored.take_up(old)
        await stored.writer(old, 1, upto=5)
        await stored.take_up(new)
        await stored.switch(None, await stored.writer(new, 2, upto=9))
        assert stored.all() == {1: "kept", 2: "active"}
        with pytest.raises(StartError, match="return to this version with --roll-back"):
            await stored.take_up(old)
    rolling_back = SqliteReadStore(tmp_path / "read.db", "127.0.0.1:1", roll_back=True)
    await rolling_back.open()
    stored = StoredGenerations(rolling_back)
    assert await stored.take_up(old) == (0, 1, False)
    assert await stored.take_up(old) == (0, 1, False), "it goes on after a restart"
    with pytest.raises(OvertakenError):
        await stored.switch(None, await stored.writer(old, 1))
    await stored.switch(None, await stored.writer(old, 1, upto=9))
    assert stored.all() == {1: "active", 2: "kept"}
    assert await stored.take_up(new) == (0, 3, False), "a second deployment fills a new generation"
    await rolling_back.close()
    async with opened_store(tmp_path / "read.db") as store:
        assert await StoredGenerations(store).take_up(old) == (1, 0, False), "without the flag from then on"


async def test_roll_back_without_a_kept_generation_fills_one(tmp_path: Path) -> None:
    old, new = Notes(), Notes(version=2)
    store = SqliteReadStore(tmp_path / "read.db", "127.0.0.1:1", roll_back=True)
    await store.open()
    stored = StoredGenerations(store)
    assert await stored.take_up(new) == (1, 0, False), "the flag changes nothing for the newest version"
    assert await stored.take_up(old) == (0, 2, False)
    assert stored.all() == {1: "active", 2: "filling"}
    await store.close()


async def test_bug_fold_changed_without_a_new_version_was_not_noticed(tmp_path: Path) -> None:
    changed = Notes()
    handler = changed.notes.handlers["notes.v1.Noted"]
    changed.notes.handlers["notes.v1.Noted"] = handler._replace(fold=lambda row, event, at: row)
    for notes, expected in ((Notes(), False), (Notes(poison="other"), False), (changed, True), (Notes(), False)):
        async with opened_store(tmp_path / "read.db") as store:
            writer = await opened_writer(store, notes.projection)
            assert writer.code_changed is expected
    async with opened_store(tmp_path / "read.db") as store:
        stored = StoredGenerations(store)
        await stored.take_up(changed)
        rebuilt = await stored.begin(changed)
        assert (await stored.writer(changed, 1)).code_changed
        assert not (await stored.writer(changed, rebuilt)).code_changed


async def test_generation_without_a_comparable_digest_takes_that_of_the_code(tmp_path: Path) -> None:
    path = tmp_path / "read.db"
    for code in ("", "2.7:0123456789abcdef"):
        async with opened_store(path) as store:
            await opened_writer(store, Notes().projection)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE diptych_generations SET code = ?", (code,))
            connection.commit()
        async with opened_store(path) as store:
            assert not (await opened_writer(store, Notes().projection)).code_changed
        ((stored,),) = read_file(path, "SELECT code FROM diptych_generations")
        assert stored == code_digest(Notes().projection)
