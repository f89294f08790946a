"""Generations in the read store: which exist, how they begin and return, and how dropped ones are deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.notes import Notes
from tests.support.read_stores import StoredGenerations, opened_store


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
