"""Errors of stores, the same for every database.

- `StoreError`: base of them all.
  - `DatabaseError`: a statement failed.
    - `DatabaseDamagedError`: the database's file is damaged.
    - `ReadStoreError`: the read store can't be read or written now; trying again may help.
  - `LeaseLostError`: another projector writes this generation; trying again doesn't help.
  - `OvertakenError`: a switch would lower the applied position.
  - `StreamNotParkedError`: a stream that is to be released or discarded is not parked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

_DAMAGED_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class StoreError(Exception):
    """Base of all errors of a store."""


class DatabaseError(StoreError):
    """A statement on a database failed. The message is the database's own."""


class DatabaseDamagedError(DatabaseError):
    """The file of a database is damaged."""


class ReadStoreError(DatabaseError):
    """The read store can't be read or written now: its disk is full, its file is locked, or a statement failed."""


class LeaseLostError(StoreError):
    """Another projector leads this generation now. Nothing was written."""


class OvertakenError(StoreError):
    """The generation to be replaced has applied more of the log than the new one."""


class StreamNotParkedError(StoreError):
    """The stream is not parked, or no longer. Nothing was written."""


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise `DatabaseError` or `DatabaseDamagedError` in place of an error of a driver or of SQLAlchemy."""
    try:
        yield
    except (sqlite3.DatabaseError, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        raise (DatabaseDamagedError if code in _DAMAGED_CODES else DatabaseError)(str(cause)) from error
