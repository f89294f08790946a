"""Connections to databases that others may be writing: one place that opens them read-only.

`ReadOnlyDatabase` serves statements off the hot path, written once with SQLAlchemy for every database.
`read_only_async_engine` and `scratch_async_engine` serve checks, which compare a copy with a scratch database.
`open_read_only` serves code that works on SQLite files themselves: hot paths, copies and checks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL, NullPool, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.sql.selectable import TypedReturnsRows

from diptych.server.dsn import sqlite_path
from diptych.storage.errors import own_errors

BUSY_SECONDS = 5.0
"""Longest wait for a lock that another connection holds."""

Row = tuple[Any, ...]


def open_read_only(path: Path, *, busy_seconds: float = BUSY_SECONDS, **options: Any) -> sqlite3.Connection:
    """Open an SQLite file read-only, in autocommit mode. Its path may have any characters.

    Args:
        path: The file, which must exist by the first statement.
        busy_seconds: Longest wait for a lock.
        options: More arguments for `sqlite3.connect`.

    Raises:
        sqlite3.Error: The file can't be opened.
    """
    connection: sqlite3.Connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=busy_seconds, isolation_level=None, **options
    )
    return connection


def read_only_async_engine(dsn: str) -> AsyncEngine:
    """Return an asyncio engine that only reads, in autocommit mode. The caller disposes it.

    An SQLite file must exist by the first query.
    """
    url = make_url(dsn)
    if url.get_backend_name() != "sqlite":
        return create_async_engine(url, isolation_level="AUTOCOMMIT", pool_size=2)
    read_only = URL.create(
        "sqlite+aiosqlite", database=sqlite_path(dsn).absolute().as_uri(), query={"mode": "ro", "uri": "true"}
    )
    return create_async_engine(
        read_only, isolation_level="AUTOCOMMIT", pool_size=2, connect_args={"timeout": BUSY_SECONDS}
    )


def scratch_async_engine(path: Path) -> AsyncEngine:
    """Return an engine on a new SQLite file that a crash may destroy. The caller disposes it and removes the file."""
    engine = create_async_engine(URL.create("sqlite+aiosqlite", database=str(path)), poolclass=NullPool)

    @event.listens_for(engine.sync_engine, "connect")
    def trade_safety_for_speed(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-65536"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


class ReadOnlyDatabase:
    """Runs queries through SQLAlchemy's asyncio engine. Every query is a transaction of its own."""

    def __init__(self, dsn: str) -> None:
        """Prepare an engine, which connects with the first query.

        Args:
            dsn: DSN of the database.
        """
        self._engine = read_only_async_engine(dsn)

    async def fetch_all(self, query: TypedReturnsRows[Any], **values: Any) -> Sequence[Row]:
        """Run a query and return all its rows.

        Args:
            query: The query.
            values: Values of its bound parameters.

        Raises:
            DatabaseError: The database can't be read now.
        """
        with own_errors():
            async with self._engine.connect() as connection:
                rows: Sequence[Row] = (await connection.execute(query, values)).all()
                return rows

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()
