"""Connection that writes the read store on SQLite: opening, tables and transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable, Table

from diptych.storage.read_store_schema import generations, marks, parked, parked_events
from diptych.storage.sql import Compiled
from diptych.storage.wal_checkpoints import AUTOCHECKPOINT_PAGES, JOURNAL_BYTES_MAX

A = ParamSpec("A")
T = TypeVar("T")


class WriterThread(Protocol):
    """Thread that has the connection which writes."""

    connection: sqlite3.Connection
    """For functions that `run` runs."""

    async def run(self, function: Callable[A, T], /, *args: A.args, **kwargs: A.kwargs) -> T:
        """Run a function on the thread. Raise `ReadStoreError` in place of an error of the driver."""
        ...


def connect(path: Path) -> sqlite3.Connection:
    """Open the file for writing, create it and its tables if they don't exist, and add new columns.

    Raises:
        sqlite3.Error: The file can't be opened, or is no database.
    """
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=512)
    for pragma in (
        "busy_timeout = 5000",
        "journal_mode = WAL",
        # Rows that a power cut takes are folded again from the log.
        "synchronous = NORMAL",
        "cache_size = -65536",
        f"wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}",
        f"journal_size_limit = {JOURNAL_BYTES_MAX}",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")
    create_table(connection, generations)
    _add_columns(connection, generations)
    for table in (marks, parked, parked_events):
        create_table(connection, table)
    return connection


def create_table(connection: sqlite3.Connection, table: Table) -> None:
    """Create a table and its indexes unless they exist."""
    dialect = sqlite.dialect()
    connection.execute(str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)))
    for index in table.indexes:
        connection.execute(str(CreateIndex(index, if_not_exists=True).compile(dialect=dialect)))


def execute(connection: sqlite3.Connection, statement: Compiled, **values: Any) -> sqlite3.Cursor:
    """Run a compiled statement with its parameters by name."""
    return connection.execute(statement.sql, statement.bind(**values))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold a transaction, with the write lock from its first statement on."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # Some errors roll back by themselves.
            connection.execute("ROLLBACK")
        raise


@contextmanager
def durable_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold a transaction that survives a power cut.

    For decisions of operators, which the log can't restore as it restores rows.
    """
    connection.execute("PRAGMA synchronous = FULL")
    try:
        with transaction(connection):
            yield
    finally:
        connection.execute("PRAGMA synchronous = NORMAL")


def _add_columns(connection: sqlite3.Connection, table: Table) -> None:
    """Add the columns that the table did not have when the file was created."""
    existing = {row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")}
    dialect = sqlite.dialect()
    for column in table.columns:
        if column.name not in existing:
            definition = CreateColumn(column).compile(dialect=dialect)
            connection.execute(f"ALTER TABLE {table.name} ADD COLUMN {definition}")
