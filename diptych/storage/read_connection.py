"""Read-only connections to an SQLite read store, for query servers, with its errors as errors of ours.

A connection is opened when it is first needed, and again after the file was replaced. No read transaction outlives
the call that needs it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from diptych.storage.connections import open_read_only
from diptych.storage.errors import ReadStoreError

_BUSY_SECONDS = 1.0
_STATEMENTS_MAX = 512  # Statements that SQLite keeps prepared for a connection.

VALUE_BYTES_MAX = 1_000_000_000
"""Greatest size of a value in SQLite."""

T = TypeVar("T")
Execute = Callable[[str, tuple[Any, ...]], Iterator[Any]]
"""Runs a statement with its parameters and returns its rows."""


class StoreMissingError(ReadStoreError):
    """The store has no such file or no such table: it does not exist yet, or a generation was just dropped."""


class StatementError(ReadStoreError):
    """A statement is wrong: a defect in this server's code, or a store of another version."""


class InterruptedReadError(ReadStoreError):
    """The statement was interrupted. The connection stays open."""


class ResultTooLargeError(ReadStoreError):
    """A statement's result would be larger than its reader allows. The connection stays open."""


def file_id(path: Path) -> tuple[int, int] | None:
    """Return the identity of the file at a path, which changes when it is replaced; None without a file."""
    try:
        status = os.stat(path)  # noqa: PTH116 - once for every watch's read; a Path takes three times as long.
    except OSError:
        return None
    return status.st_dev, status.st_ino


class ReadConnection:
    """One read-only connection, used by one thread.

    Every method that reads raises `StoreMissingError`, `StatementError`, or `ReadStoreError` for any other failure,
    and closes the connection then.
    """

    def __init__(self, path: Path, *, cache_kibibytes: int = 0) -> None:
        """Prepare a connection.

        Args:
            path: The store's file.
            cache_kibibytes: Size of SQLite's page cache; 0: its default.
        """
        self._path = path
        self._cache_kibibytes = cache_kibibytes
        self._connection: sqlite3.Connection | None = None
        self._store_changes = 0
        self._value_bytes_max = VALUE_BYTES_MAX
        self._file: tuple[int, int] | None = None

    def one(
        self, store_changes: int, sql: str, parameters: tuple[Any, ...], value_bytes_max: int = VALUE_BYTES_MAX
    ) -> tuple[Any, ...] | None:
        """Return the one row of a statement; None without one.

        Args:
            store_changes: Number of replacements of the store observed so far. A new number opens the file again.
            sql: The statement.
            parameters: Its parameters.
            value_bytes_max: Greatest size of one value of the result. SQLite ends the statement at this size.

        Raises:
            ResultTooLargeError: A value is larger.
        """
        try:
            connection = self._open(store_changes)
            if value_bytes_max != self._value_bytes_max:
                self._value_bytes_max = value_bytes_max
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, value_bytes_max)
            cursor = connection.execute(sql, parameters)
            row: tuple[Any, ...] | None = cursor.fetchone()
            cursor.close()
        except sqlite3.DatabaseError as error:
            raise self._failed(error) from error
        return row

    def all(self, store_changes: int, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        """Return all rows of a statement."""
        try:
            return self._open(store_changes).execute(sql, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._failed(error) from error

    def transaction(self, read: Callable[[Execute], T]) -> T:
        """Run some statements in one read transaction, on the file that is there now; return the result."""
        try:
            file = file_id(self._path)
            if file != self._file:
                self.close()
                self._file = file
            connection = self._open(0)
            connection.execute("BEGIN")
            result = read(connection.execute)
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise self._failed(error) from error
        except Exception:
            self.close()
            raise
        return result

    def interrupt(self) -> None:
        """End the statement that runs now, if any, from another thread: it raises `InterruptedReadError`."""
        connection = self._connection
        if connection is not None:
            with suppress(sqlite3.ProgrammingError):  # Its thread has just closed it.
                connection.interrupt()

    def close(self) -> None:
        """Close the connection. The next statement opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self, store_changes: int) -> sqlite3.Connection:
        if self._connection is None or store_changes != self._store_changes:
            self.close()
            self._store_changes = store_changes
            self._value_bytes_max = VALUE_BYTES_MAX
            self._connection = open_read_only(
                self._path,
                busy_seconds=_BUSY_SECONDS,
                check_same_thread=False,  # Only closing may come from another thread.
                cached_statements=_STATEMENTS_MAX,
            )
            self._connection.execute("PRAGMA query_only = 1")
            if self._cache_kibibytes:
                self._connection.execute(f"PRAGMA cache_size = -{self._cache_kibibytes}")
        return self._connection

    def _failed(self, error: sqlite3.DatabaseError) -> ReadStoreError:
        """Close the connection, and return our error for SQLite's."""
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_TOOBIG:
            return ResultTooLargeError(str(error))
        if code == sqlite3.SQLITE_INTERRUPT:
            return InterruptedReadError(str(error))
        self.close()
        text = str(error)
        if code == sqlite3.SQLITE_CANTOPEN or (code == sqlite3.SQLITE_ERROR and "no such table" in text):
            return StoreMissingError(text)
        return StatementError(text) if code == sqlite3.SQLITE_ERROR else ReadStoreError(text)
