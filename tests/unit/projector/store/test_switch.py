"""Switch: which generations are replaced, kept, dropped and left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from diptych.server.errors import StartError
from diptych.storage.errors import LeaseLostError, OvertakenError
from diptych.storage.read_store_schema import Checkpoint
from projector.store.leases import Leases
from tests.support.notes import Notes
from tests.support.read_stores import StoredGenerations, opened_store


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[StoredGenerations]:
    async with opened_store(tmp_path / "read.db") as store:
        yield StoredGenerations(store)


async def test_switch_writes_both_checkpoints(stored: StoredGenerations) -> None:
    notes = Notes()
    await stored.take_up(notes)
    old = await stored.writer(notes, 1, upto=3)
    new = await stored.writer(notes, await stored.begin(notes), upto=3)
    late = Checkpoint(9, "a-9")
    await stored.store.switch((old.store, late), (new.store, late))
    assert (old.stored, new.stored) == (late, late)
    assert stored.all() == {1: "kept", 2: "active"}
    assert [one.position for one in await stored.store.generations("notes")] == [9, 9]


async def test_switch_is_refused_when_the_new_generation_is_behind(stored: StoredGenerations) -> None:
    notes = Notes()
    await stored.take_up(notes)
    old = await stored.writer(notes, 1, upto=5)
    new = await stored.writer(notes, await stored.begin(notes), upto=4)
    with pytest.raises(OvertakenError, match="generation 1 is at 5, beyond 4"):
        await stored.switch(old, new)
    assert stored.all() == {1: "active", 2: "filling"}


async def test_switch_is_refused_when_another_leader_moved_the_checkpoint(stored: StoredGenerations) -> None:
    notes = Notes()
    await stored.take_up(notes)
    old = await stored.writer(notes, 1)
    new = await stored.writer(notes, await stored.begin(notes), upto=4)
    await stored.writer(notes, 1, upto=3)  # Another one's.
    with pytest.raises(LeaseLostError):
        await stored.switch(old, new)
    assert stored.all() == {1: "active", 2: "filling"}


async def test_switch_leaves_the_older_version_active_when_the_shape_differs(stored: StoredGenerations) -> None:
    old, new = Notes(), Notes(version=2, columns=False)
    await stored.take_up(old)
    await stored.writer(old, 1, upto=9)
    await stored.take_up(new)
    second = await stored.writer(new, 2, upto=4)
    await stored.switch(None, second)
    assert stored.all() == {1: "active", 2: "active"}
    assert await stored.take_up(old) == (1, 0, False)
    third = await stored.writer(new, await stored.begin(new), upto=4)
    stored.store.leases.release()
    other = Leases(stored.store.path, "127.0.0.1:2")
    assert other.acquire(old.projection) is None
    await stored.switch(second, third)
    assert stored.all() == {1: "active", 2: "kept", 3: "active"}, "another projector folds version 1"
    other.release()
    await stored.switch(third, await stored.writer(new, await stored.begin(new), upto=4))
    assert stored.all() == {1: "dropped", 2: "dropped", 3: "kept", 4: "active"}


async def test_switch_replaces_the_older_version_when_the_shape_is_the_same(stored: StoredGenerations) -> None:
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
