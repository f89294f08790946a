"""The scratch database of the log check, with the log attached to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from command_server.maintenance import check_statements as statements
from command_server.maintenance import log_file
from command_server.maintenance.log_file import LogFile
from diptych.storage.connections import open_read_only
from diptych.storage.sql import Compiled

PAGE_EVENTS = 2000
"""Rows that are examined together."""


class CheckDatabase:
    """A scratch file with the log attached to it, as of one moment.

    A server may be writing the log. All its tables but the events, which only grow, are copied into the scratch file
    in one short transaction. Events are read up to the head of that moment, a page at a time: no transaction stays
    open, and memory does not grow with the log.

    Args:
        path: the log.
        scratch: the scratch file; it must not exist.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(scratch.absolute().as_uri(), uri=True, isolation_level=None)
        self.log: LogFile
        """Identity and head of the log at that moment."""
        self.last_position = 0
        """Position of the last event at that moment."""
        self.forgotten_before = 0
        """Time before which request ids of clients may be missing, in microseconds since 1970, UTC."""

    def open(self) -> None:
        """Attach the log and copy its tables.

        Raises:
            LogFileError: the file is no log.
            sqlite3.Error: a file cannot be read or written.
        """
        with closing(open_read_only(self._path)) as connection:
            log_file.read(connection, self._path)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536", "busy_timeout=5000"):
            self._connection.execute(f"PRAGMA {pragma}")
        for table in (*statements.COPIED, statements.WALKED, statements.CLAIMED):
            self._connection.execute(str(CreateTable(table).compile(dialect=sqlite.dialect())))
        self._connection.execute("ATTACH ? AS source", (f"{self._path.absolute().as_uri()}?mode=ro",))
        self._connection.execute("BEGIN")
        self.log = log_file.describe(self._connection, self._path)
        for statement in statements.COPY:
            self._connection.execute(statement.sql)
        if self._connection.execute(statements.SWEEPS).fetchone():
            self.forgotten_before = max([0, *(time for (time,) in self.rows(statements.FORGOTTEN_BEFORE))])
        ((last,),) = self.rows(statements.LAST)
        self._connection.execute("COMMIT")
        self.last_position = last or 0

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def rows(self, statement: Compiled, **values: Any) -> list[Any]:
        """Return all rows of a statement."""
        return self._connection.execute(statement.sql, statement.bind(**values)).fetchall()

    def cursor(self, statement: Compiled) -> Iterator[Any]:
        """Yield the rows of a statement without parameters."""
        return iter(self._connection.execute(statement.sql, statement.bind()))

    def write(self, statement: Compiled, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each row, in one transaction."""
        self._connection.execute("BEGIN")
        self._connection.executemany(statement.sql, rows)
        self._connection.execute("COMMIT")

    def create_indexes(self) -> None:
        """Create the indexes of the derived tables, once they are filled."""
        for table in (statements.WALKED, statements.CLAIMED):
            for index in table.indexes:
                self._connection.execute(str(CreateIndex(index).compile(dialect=sqlite.dialect())))
