"""The log's SQLite file: its connections, each with a thread of its own, and its transactions.

WAL with `synchronous=FULL`: a commit that returned is on the disk, in a file that still has its name. A lock beside
the file excludes a second server.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from command_server.store import statements
from command_server.store.event_store import CommitNotKnown, StoreUnavailable
from command_server.store.upgrades import create_or_upgrade
from diptych.contract.token import Epoch, LogIdentity
from diptych.storage.database_thread import DatabaseThread
from diptych.storage.file_lock import FileLock
from diptych.storage.files import make_file, make_folder, resolve_database
from diptych.storage.open_files import OpenFiles
from diptych.storage.sql import Compiled
from diptych.storage.wal_checkpoints import AUTOCHECKPOINT_PAGES, JOURNAL_BYTES_MAX, WalCheckpoints

P = ParamSpec("P")
T = TypeVar("T")

_NOT_SYNCED = ("SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC")
"""Errors of a commit that has been written, and that may or may not outlive a crash."""

_CHECKPOINT_PAGES = 1000
"""Pages to a checkpoint. Commits wait while its pages are synced to the disk: 40 ms for 4,000 pages."""


class SqliteDatabase:
    """Connections to the log's file: one writes, one reads events, and one reads the head.

    Reads never wait for the writer, and a read of the head never waits for a read of many events.
    """

    def __init__(self, path: Path, owner: str, *, exclusive: bool) -> None:
        self._path = path.resolve()
        # By the file's one path: a symbolic link must not let a second server in.
        self._lock = FileLock(self._path.with_name(self._path.name + ".lock"), owner) if exclusive else None
        self._threads = {name: DatabaseThread(f"log-{name}") for name in ("writer", "reader", "head")}
        self._writer_thread, self._reader_thread, self._head_thread = self._threads.values()
        self._files = OpenFiles(path)
        self._checkpoints = WalCheckpoints(self._path, "log-checkpoints", _CHECKPOINT_PAGES)
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._head_reader: sqlite3.Connection | None = None

    async def open(self) -> LogIdentity:
        """Open all connections, create or upgrade the tables, and return the log's identity.

        Raises:
            StoreUnavailable: the file cannot be opened.
            StartError: the file is in use, no log, or of another schema version.
        """
        try:
            make_folder(self._path.parent)
            resolve_database(self._path)
            if self._lock is not None:
                self._lock.acquire()
        except OSError as error:
            raise StoreUnavailable(str(error)) from error
        try:
            await asyncio.to_thread(make_file, self._path)
            self._writer = await _on(self._writer_thread, _open_for_writing, self._path)
            self._reader = await _on(self._reader_thread, _open_for_reading, self._path)
            self._head_reader = await _on(self._head_thread, _open_for_reading, self._path)
            identity = await self.read(read_identity)
            self._files.remember()
            return identity
        except BaseException as error:
            if self._lock is not None:
                self._lock.release()
            if isinstance(error, OSError):
                raise StoreUnavailable(str(error)) from error
            raise

    async def close(self) -> None:
        """Close all connections and release the lock. A second call does nothing."""
        await asyncio.to_thread(self._checkpoints.close)
        connections = (self._writer, self._reader, self._head_reader)
        for thread, connection in reversed(list(zip(self._threads.values(), connections, strict=True))):
            if connection is not None:
                await thread.run(connection.close)
            await thread.close()
        self._writer = self._reader = self._head_reader = None
        if self._lock is not None:
            self._lock.release()

    async def write(self, call: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **_: P.kwargs) -> T:
        """Run a function of the writing connection in a transaction, and commit it.

        Raises:
            CommitNotKnown: the disk failed while it synced the commit.
            StoreUnavailable: nothing was written.
        """
        return await self.on_writer_thread(self.in_transaction, call, *args)

    async def on_writer_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        """Run a function that calls `in_transaction` on the writer's thread. Raises as `write`."""
        return await _on(self._writer_thread, call, *arguments)

    async def write_rows(self, statement: Compiled, rows: Collection[Any]) -> None:
        """Run a statement for each row, in one transaction. Raises as `write`."""
        await self.write(_execute_many, statement, list(rows))

    async def read(self, call: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **_: P.kwargs) -> T:
        """Run a function of the reading connection. Raises `StoreUnavailable`."""
        return await _on(self._reader_thread, call, self._reader, *args)

    async def read_head(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function of the connection that reads the head. Raises `StoreUnavailable`."""
        return await _on(self._head_thread, call, self._head_reader)

    async def rows(self, statement: Compiled, **values: Any) -> list[Any]:
        """Run a statement and return all its rows. Raises `StoreUnavailable`."""
        return await self.read(_fetch_all, statement, statement.bind(**values))

    def in_transaction(self, call: Callable[..., T], *arguments: Any) -> T:
        """Run a function of the writing connection in a transaction, and commit it. On the writer's thread only.

        Nothing is committed into a file that has lost its name. If it lost its name during the commit, the outcome is
        not known.
        """
        assert self._writer is not None
        connection = self._writer
        if connection.in_transaction:  # A failing disk may fail the rollback, too.
            connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = call(connection, *arguments)
            self.check_files()
            _commit(connection)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if fault := self._files.fault():
            raise CommitNotKnown(fault)
        self._checkpoints.written(connection)
        return result

    def check_files(self) -> None:
        """Raise `StoreUnavailable` if a file of the log was removed or replaced since it was opened."""
        if fault := self._files.fault():
            raise StoreUnavailable(fault)


async def _on(thread: DatabaseThread, call: Callable[..., T], *arguments: Any) -> T:
    try:
        return await thread.run(call, *arguments)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{getattr(error, 'sqlite_errorname', 'SQLITE_ERROR')}: {error}") from error


def _commit(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        # Everything is written, and the disk may have lost a part: undone here, but perhaps there after a crash.
        if getattr(error, "sqlite_errorname", "") in _NOT_SYNCED:
            raise CommitNotKnown(f"{error.sqlite_errorname}: {error}") from error
        raise


def _execute_many(connection: sqlite3.Connection, statement: Compiled, rows: list[Any]) -> None:
    connection.executemany(statement.sql, rows)


def _fetch_all(connection: sqlite3.Connection, statement: Compiled, values: tuple[Any, ...]) -> list[Any]:
    return connection.execute(statement.sql, values).fetchall()


def read_identity(connection: sqlite3.Connection) -> LogIdentity:
    """Read the log's id and epochs."""
    _, log_id = connection.execute(statements.IDENTITY.sql).fetchone()
    return LogIdentity(log_id, [Epoch(*row) for row in connection.execute(statements.EPOCHS.sql)])


def _open_for_reading(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=64)
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA busy_timeout=5000")
    return connection


def _open_for_writing(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-32768")
    connection.execute(f"PRAGMA wal_autocheckpoint={AUTOCHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit={JOURNAL_BYTES_MAX}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        create_or_upgrade(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection
