"""Read stores for tests, opened as a projector opens them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from diptych.domain.projection import Projection
from diptych.storage.read_store import Lease, ReadStore
from diptych.storage.read_store_schema import Checkpoint
from projector.store.row_writer import RowWriter
from projector.store.sqlite_read_store import SqliteReadStore
from tests.support.notes import Noted, Notes, log_of


@asynccontextmanager
async def opened_store(path: Path) -> AsyncIterator[SqliteReadStore]:
    """Open a read store, and close it in the end."""
    store = SqliteReadStore(path, "127.0.0.1:1")
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def leased(store: ReadStore, projection: Projection) -> Lease:
    """Acquire a lease, which must be free or this projector's own."""
    lease = await store.acquire(projection)
    assert isinstance(lease, Lease)
    return lease


async def opened_writer(store: ReadStore, projection: Projection, generation: int = 0) -> RowWriter:
    """Acquire a lease and open a generation for writing; 0: the active one, or else the one that is being filled."""
    lease = await leased(store, projection)
    return RowWriter(await store.open_generation(lease, generation or lease.active or lease.filling))


def read_file(path: Path, sql: str) -> list[Any]:
    """Return what another process reads from the file of a store."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


NOTES_LOG = log_of([Noted(key=f"k{n}", text=str(n)) for n in range(1300)])


class StoredGenerations:
    """Generations of the notes, moved by hand."""

    def __init__(self, store: SqliteReadStore) -> None:
        self.store = store
        self.leases: dict[int, Lease] = {}
        """By version, the last lease that was acquired."""

    async def take_up(self, notes: Notes) -> tuple[int, int, bool]:
        """Acquire the lease; return the active and the filling generation, and the pause."""
        lease = await leased(self.store, notes.projection)
        self.leases[notes.projection.version] = lease
        return lease.active, lease.filling, lease.paused

    async def writer(self, notes: Notes, generation: int, upto: int = 0) -> RowWriter:
        """Open a generation, and fold the log into it up to a position."""
        lease = self.leases[notes.projection.version]
        writer = RowWriter(await self.store.open_generation(lease, generation))
        if upto:
            await writer.commit(NOTES_LOG[:upto], Checkpoint(upto, f"a-{upto}"))
        return writer

    async def begin(self, notes: Notes) -> int:
        """Create a generation to be filled; return its number."""
        return await self.store.begin(self.leases[notes.projection.version])

    async def switch(self, old: RowWriter | None, new: RowWriter) -> None:
        """Make a generation active with the checkpoints as they are."""
        await self.store.switch(None if old is None else (old.store, old.stored), (new.store, new.stored))

    def all(self) -> dict[int, str]:
        """Return the role of every generation: active, kept, or its stage."""
        found = read_file(self.store.path, "SELECT generation, active, stage FROM diptych_generations")
        return {generation: "active" if active else stage or "kept" for generation, active, stage in found}

    async def drop(self) -> int:
        """Delete dropped generations; return the number of steps."""
        steps = 1
        while await self.store.drop_some(self.leases[1]):
            steps += 1
        return steps

    def tables(self) -> set[str]:
        """Return the names of the tables of views."""
        found = read_file(self.store.path, "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'notes%'")
        return {name for (name,) in found}
