"""The log's file on the disk, for backup, restore and check."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import func, select

from command_server.store import schema
from command_server.store.statements import EPOCHS, LAST_POSITION
from diptych.contract.token import Epoch, LogIdentity
from diptych.storage.sql import compile_sqlite

_LOG = compile_sqlite(select(schema.log.c.schema_version, schema.log.c.log_id, schema.log.c.epoch, schema.log.c.head))
_COUNT = compile_sqlite(select(func.count()).select_from(schema.events))


class LogFileError(Exception):
    """A file is no log, or a log cannot be used. The message is a sentence with the cause."""


class LogFile(NamedTuple):
    """Identity and head of a log."""

    identity: LogIdentity
    head: int


def read(connection: sqlite3.Connection, path: Path) -> LogFile:
    """Read identity and head of a file that may be no log.

    Raises:
        LogFileError: the file is no log, or of another schema version.
        sqlite3.Error: the file cannot be read.
    """
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise LogFileError(f"{path} is no SQLite file: {error}.") from error
    if not tables >= set(schema.metadata.tables) - schema.TABLES_SINCE_2 - schema.TABLES_SINCE_3:
        raise LogFileError(f"{path} is an SQLite file of something else, and no log.")
    return describe(connection, path)


def describe(connection: sqlite3.Connection, path: Path) -> LogFile:
    """Read identity and head of a file with the tables of a log. Raises as `read`."""
    row = connection.execute(_LOG.sql).fetchone()
    epochs = [Epoch(*each) for each in connection.execute(EPOCHS.sql)]
    if row is None or not epochs:
        raise LogFileError(
            f"The log {path} has no log id or no epoch: its creation did not finish. Delete it if it holds nothing, or "
            "restore a backup."
        )
    version, log_id, epoch, head = row
    if version not in (schema.SCHEMA_VERSION, *schema.OLDER_VERSIONS):
        raise LogFileError(
            f"The log {path} has schema version {version}, and this program has {schema.SCHEMA_VERSION}."
        )
    if epoch != epochs[-1].epoch:
        raise LogFileError(f"The log {path} says that it is in epoch {epoch}, and its history ends with {epochs[-1]}.")
    return LogFile(LogIdentity(log_id, epochs), head)


def check_complete(connection: sqlite3.Connection, path: Path, head: int) -> None:
    """Check that a log's pages are not damaged, and that it has every position up to its head.

    Raises:
        LogFileError: the log is damaged or has gaps.
        sqlite3.Error: the file cannot be read.
    """
    try:
        damages = [text for (text,) in connection.execute("PRAGMA integrity_check(3)")]
    except sqlite3.DatabaseError as error:
        damages = [str(error)]
    if damages != ["ok"]:
        raise LogFileError(f"The log {path} is damaged: {'; '.join(damages)}.")
    ((last,),) = connection.execute(LAST_POSITION.sql)
    if (last or 0) != head:
        raise LogFileError(f"The log {path} says that its head is {head}, and its last event is at {last or 0}.")
    ((count,),) = connection.execute(_COUNT.sql)
    if count != head:
        raise LogFileError(f"The log {path} has {count} events up to its head {head}: {head - count} are missing.")
