"""The log's file as it lies on the disk, for who backs it up, restores it or checks it: no server runs here."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import func, select

from command_server.store import schema
from diptych.contract.token import Epoch, LogIdentity
from diptych.storage.sql import compile_sqlite


class LogFileError(Exception):
    """A file that is no log, or a log that cannot be used; the message says why, in a sentence."""


class LogFile(NamedTuple):
    """What a log says about itself."""

    identity: LogIdentity
    head: int


_LOG = compile_sqlite(select(schema.log.c.schema_version, schema.log.c.log_id, schema.log.c.epoch, schema.log.c.head))
_EPOCHS = compile_sqlite(select(schema.epochs.c.epoch, schema.epochs.c.first_position).order_by(schema.epochs.c.epoch))
_LAST = compile_sqlite(select(func.max(schema.events.c.position)))
_COUNT = compile_sqlite(select(func.count()).select_from(schema.events))


def read(connection: sqlite3.Connection, path: Path) -> LogFile:
    """Reads what a log says about itself; raises `LogFileError`, `sqlite3.Error`."""
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise LogFileError(f"{path} is no SQLite file: {error}.") from error
    if not tables >= set(schema.metadata.tables) - schema.TABLES_SINCE_2:
        raise LogFileError(f"{path} is an SQLite file of something else, and no log.")
    return describe(connection, path)


def describe(connection: sqlite3.Connection, path: Path) -> LogFile:
    """Reads the same of tables that are known to be there; raises `LogFileError`, `sqlite3.Error`."""
    found = connection.execute(_LOG.sql).fetchone()
    epochs = [Epoch(*row) for row in connection.execute(_EPOCHS.sql)]
    if found is None or not epochs:
        raise LogFileError(f"{path} is a log that does not say which: it was never complete.")
    version, log_id, epoch, head = found
    if version not in (schema.SCHEMA_VERSION, *schema.OLDER_VERSIONS):
        raise LogFileError(
            f"The log {path} has schema version {version}, and this program has {schema.SCHEMA_VERSION}."
        )
    if epoch != epochs[-1].epoch:
        raise LogFileError(f"The log {path} says that it is in epoch {epoch}, and its history ends with {epochs[-1]}.")
    return LogFile(LogIdentity(log_id, epochs), head)


def check_whole(connection: sqlite3.Connection, path: Path, head: int) -> None:
    """Refuses a log whose pages are damaged, or that does not hold every position up to its head."""
    try:
        damages = [text for (text,) in connection.execute("PRAGMA integrity_check(3)")]
    except sqlite3.DatabaseError as error:
        damages = [str(error)]
    if damages != ["ok"]:
        raise LogFileError(f"The log {path} is damaged: {'; '.join(damages)}.")
    ((last,),) = connection.execute(_LAST.sql)
    if (last or 0) != head:
        raise LogFileError(f"The log {path} says that its head is {head}, and its last event is at {last or 0}.")
    ((count,),) = connection.execute(_COUNT.sql)
    if count != head:
        raise LogFileError(f"The log {path} has {count} events up to its head {head}: {head - count} are missing.")
