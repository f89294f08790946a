"""Connections to databases that others may be writing: one place that opens them read-only.

`ReadOnlyDatabase` serves statements off the hot path, written once with SQLAlchemy for every database.
`read_only_engine` and `scratch_engine` serve checks, which compare a copy with a scratch database.
`open_read_only` serves code that works on SQLite files themselves: hot paths, copies and checks.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, NullPool, create_engine, event
from sqlalchemy.sql.elements import ClauseElement

from diptych.storage.database_thread import DatabaseThread
from diptych.storage.errors import DatabaseError
from diptych.storage.sql import Compiled, compile_sqlite

BUSY_SECONDS = 5.0
"""Longest wait for a lock that another connection holds."""

Row = tuple[Any, ...]


def open_read_only(path: Path, *, busy_seconds: float = BUSY_SECONDS, **options: Any) -> sqlite3.Connection:
    """Open an SQLite file read-only, in autocommit mode, whatever characters its path has.

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


def read_only_engine(path: Path) -> Engine:
    """Return an engine that reads a database file in autocommit mode. The caller disposes it."""
    return create_engine("sqlite://", creator=lambda: open_read_only(path), poolclass=NullPool)


def scratch_engine(path: Path) -> Engine:
    """Return an engine on a new file that needn't survive a crash. The caller disposes it and removes the file."""
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def trade_safety_for_speed(connection: sqlite3.Connection, _: object) -> None:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-65536"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


class ReadOnlyDatabase:
    """Runs queries on a connection and a thread of its own. Every query is a transaction of its own."""

    def __init__(self, path: Path, name: str) -> None:
        """Prepare a connection, which the first query opens.

        Args:
            path: The SQLite file.
            name: Name of the thread.
        """
        self._path = path
        self._thread = DatabaseThread(name)
        self._connection: sqlite3.Connection | None = None
        self._compiled: dict[ClauseElement, Compiled] = {}

    async def fetch_all(self, query: ClauseElement, **values: Any) -> list[Row]:
        """Run a query and return all its rows.

        Args:
            query: The query, a constant of the program, since its compiled text stays in memory.
            values: Values of its bound parameters.

        Raises:
            DatabaseError: The database can't be read now.
        """
        return await self._thread.run(self._fetch_all, query, values)

    async def close(self) -> None:
        """Close the connection when the queries that were begun have ended."""
        await self._thread.run(self._close)
        await self._thread.close()

    def _fetch_all(self, query: ClauseElement, values: dict[str, Any]) -> list[Row]:
        compiled = self._compiled.get(query)
        if compiled is None:
            compiled = self._compiled[query] = compile_sqlite(query)
        try:
            if self._connection is None:
                self._connection = open_read_only(self._path)
            return self._connection.execute(compiled.sql, compiled.bind(**values)).fetchall()
        except sqlite3.Error as error:
            raise DatabaseError(str(error)) from error

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
