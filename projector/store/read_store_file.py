"""The read store's file as a projector has it: its leads, a connection, and a thread of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable, Table

from diptych.domain.projection import Projection
from diptych.server.errors import StartError
from diptych.storage.database_thread import DatabaseThread
from diptych.storage.errors import ReadStoreError
from diptych.storage.read_store_schema import generations, marks, parked, parked_events
from diptych.storage.wal_checkpoints import AUTOCHECKPOINT_PAGES, WalCheckpoints
from projector.store.leases import Leads

_CHECKPOINT_PAGES = 8000
"""Catching up touches the same pages again and again, so they are not copied back at once."""

A = ParamSpec("A")
T = TypeVar("T")


class ReadStoreFile:
    """One SQLite file, opened for writing. All that touches the connection runs on one thread, by `run`."""

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self.leads = Leads(path, owner)
        self._thread = DatabaseThread("read-store")
        self._checkpoints = WalCheckpoints(path, "read-store-checkpoints", _CHECKPOINT_PAGES)
        self.connection: sqlite3.Connection
        """Only for functions that `run` runs."""

    async def open(self, projections: Iterable[Projection] = ()) -> None:
        """Takes the lead of projections and opens the file, making it if there is none; raises `StartError`.

        Without any projections it must be the only one on the file.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.leads.take(projections)
        except OSError as error:
            raise StartError(f"The read store {self.path} cannot be opened: {error}.") from error
        try:
            await self.run(self._connect)
        except ReadStoreError as error:
            self.leads.release()
            raise StartError(f"The read store {self.path} cannot be opened: {error}.") from error

    async def run(self, function: Callable[A, T], /, *args: A.args, **kwargs: A.kwargs) -> T:
        """Run a function on the database's thread; raise `ReadStoreError` in place of the driver's errors."""

        def call() -> T:
            try:
                result = function(*args, **kwargs)
            except sqlite3.Error as error:
                raise ReadStoreError(str(error)) from error
            self._checkpoints.written(self.connection)
            return result

        return await self._thread.run(call)

    async def close(self) -> None:
        """Closes the file when the thread has done what it was given, then gives the lock back."""
        await asyncio.to_thread(self._checkpoints.close)
        await self._thread.run(self._disconnect)
        await self._thread.close()
        self.leads.release()

    def create(self, table: Table) -> None:
        """Makes a table and its indexes, as far as they are missing. Runs on the database's thread."""
        dialect = sqlite.dialect()
        self.connection.execute(str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)))
        for index in table.indexes:
            self.connection.execute(str(CreateIndex(index, if_not_exists=True).compile(dialect=dialect)))

    def _connect(self) -> None:
        self.connection = sqlite3.connect(self.path, isolation_level=None, cached_statements=512)
        for pragma in (
            "busy_timeout = 5000",
            "journal_mode = WAL",
            # What a power cut takes is folded again from the log.
            "synchronous = NORMAL",
            "cache_size = -65536",
            f"wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}",
            "journal_size_limit = 67108864",
            "temp_store = MEMORY",
        ):
            self.connection.execute(f"PRAGMA {pragma}")
        self.create(generations)
        self._add_columns(generations)
        for table in (marks, parked, parked_events):
            self.create(table)

    def _add_columns(self, table: Table) -> None:
        """Adds what has come to a table since the file was made."""
        there = {row[1] for row in self.connection.execute(f"PRAGMA table_info({table.name})")}
        dialect = sqlite.dialect()
        for column in table.columns:
            if column.name not in there:
                definition = CreateColumn(column).compile(dialect=dialect)
                self.connection.execute(f"ALTER TABLE {table.name} ADD COLUMN {definition}")

    def _disconnect(self) -> None:
        self.connection.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that holds the write lock from its first statement on."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # Some errors roll back by themselves.
            connection.execute("ROLLBACK")
        raise


@contextmanager
def durably(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction of what nothing could tell again, as the log does with rows: it must outlive a power cut."""
    connection.execute("PRAGMA synchronous = FULL")
    try:
        with transaction(connection):
            yield
    finally:
        connection.execute("PRAGMA synchronous = NORMAL")
