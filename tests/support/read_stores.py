"""Read stores for tests, opened as a projector opens them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from diptych.domain.projection import Projection
from diptych.storage.read_store import Lease, ReadStore
from projector.store.row_writer import RowWriter
from projector.store.sqlite_read_store import SqliteReadStore


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
