"""Backup and restore of the log.

A backup is a consistent and complete log, copied while the server runs. A restore begins a new *epoch*: events that
were recorded after the backup are lost. Tokens of lost events are refused with a reason of their own, and projections
that have applied lost events report it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import bindparam, insert, update

from command_server.maintenance.log_file import LogFile, LogFileError, check_complete, read
from command_server.store import schema
from diptych.server.errors import StartError
from diptych.storage import copy as sqlite_copy
from diptych.storage.connections import open_read_only
from diptych.storage.copy import Progress
from diptych.storage.file_lock import FileLock
from diptych.storage.files import make_folder, resolve_database
from diptych.storage.sql import compile_sqlite

_BEGIN_EPOCH = compile_sqlite(insert(schema.epochs))
_ENTER_EPOCH = compile_sqlite(update(schema.log).values(epoch=bindparam("new_epoch")))
_EPOCH_MAX = (1 << 32) - 1
"""Greatest epoch; a token has four bytes for it."""


class BackedUp(NamedTuple):
    """Result of a backup."""

    log: LogFile
    size_bytes: int


class Restored(NamedTuple):
    """Result of a restore."""

    log: LogFile
    lost: int | None
    """Positions of the replaced log that the restored one does not have; None: no log was replaced, or it could not
    be read."""
    unreadable: str
    """Reason why the replaced log could not be read; empty: it was read, or there was none."""


def back_up(log: Path, to: Path, progress: Progress, *, force: bool = False) -> BackedUp:
    """Copy a log to a file; a server may be writing the log.

    Args:
        log: the log.
        to: the backup.
        progress: called with pages copied and pages in all.
        force: replace an existing backup, once the new one is complete.

    Raises:
        LogFileError: the log cannot be read, or the backup cannot be written.
    """
    if not log.exists():
        raise LogFileError(f"There is no log {log}.")
    if to.exists() and not force:
        raise LogFileError(f"{to} exists. Choose another name, or replace it with --force.")
    if to.exists() and to.samefile(log):
        raise LogFileError(f"{to} is the log itself.")
    to = to.resolve()
    made = to.with_name(to.name + ".part")
    try:
        make_folder(to.parent)
        sqlite_copy.remove(made)
        sqlite_copy.copy(log, made, progress)
        with closing(open_read_only(made)) as connection:
            copied = read(connection, log)
        size = made.stat().st_size
        sqlite_copy.replace_durably(made, to)
    except sqlite3.Error as error:
        raise LogFileError(f"The log {log} cannot be copied to {to}: {error}.") from error
    except OSError as error:
        raise LogFileError(f"{to} cannot be written: {error}.") from error
    finally:
        sqlite_copy.remove(made)
    return BackedUp(copied, size)


def restore(backup: Path, log: Path, progress: Progress, *, force: bool = False, after_epoch: int = 0) -> Restored:
    """Make a backup the log, in a new epoch.

    The epoch is one more than the greatest of the backup's epoch, the replaced log's epoch and `after_epoch`.

    Args:
        backup: the backup.
        log: the log; no server may have it open.
        progress: called with pages copied and pages in all.
        force: replace an existing log.
        after_epoch: least epoch that the restored log must be after.

    Raises:
        LogFileError: the backup or the log cannot be used. Nothing has changed then.
    """
    if not backup.exists():
        raise LogFileError(f"There is no backup {backup}.")
    log = log.resolve()
    made = log.with_name(log.name + ".restoring")
    lock = FileLock(log.with_name(log.name + ".lock"), "restore")
    try:
        make_folder(log.parent)
        resolve_database(log)
        lock.acquire()
    except OSError as error:
        raise LogFileError(f"The log {log} cannot be replaced: {error}.") from error
    except StartError as error:
        raise LogFileError(f"{error} Stop the server before restoring its log.") from error
    try:
        if log.exists() and not force:
            raise LogFileError(f"The log {log} exists. Restore beside it, or replace it with --force.")
        if log.exists() and log.samefile(backup):
            raise LogFileError(f"{backup} is the log itself.")
        sqlite_copy.remove(made)
        sqlite_copy.copy(backup, made, progress)
        with closing(sqlite3.connect(made, isolation_level=None)) as connection:
            source = read(connection, backup)
            check_complete(connection, backup, source.head)
            replaced, unreadable = _read_replaced(log)
            epoch = 1 + max(source.identity.epoch, after_epoch, replaced.identity.epoch if replaced else 0)
            if epoch > _EPOCH_MAX:
                raise LogFileError(f"Epoch {epoch} is more than a token can name.")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_BEGIN_EPOCH.sql, _BEGIN_EPOCH.bind(epoch=epoch, first_position=source.head + 1))
            connection.execute(_ENTER_EPOCH.sql, _ENTER_EPOCH.bind(new_epoch=epoch))
            connection.execute("COMMIT")
            restored = read(connection, backup)
        _join_journals(log, readable=replaced is not None)
        if log.exists():
            made.chmod(log.stat().st_mode & 0o777)
        sqlite_copy.replace_durably(made, log)
    except sqlite3.Error as error:
        raise LogFileError(f"{backup} cannot be restored: {error}.") from error
    except OSError as error:
        raise LogFileError(f"The log {log} cannot be replaced: {error}.") from error
    finally:
        sqlite_copy.remove(made)
        lock.release()
    lost = max(0, replaced.head - restored.head) if replaced else None
    return Restored(restored, lost, unreadable)


def _read_replaced(log: Path) -> tuple[LogFile | None, str]:
    """Read the log to be replaced; return None and the reason if it cannot be read."""
    if not log.exists():
        return None, ""
    try:
        with closing(open_read_only(log)) as connection:
            return read(connection, log), ""
    except (sqlite3.Error, LogFileError) as error:
        return None, str(error).rstrip(".")


def _join_journals(log: Path, *, readable: bool) -> None:
    """Leave the log to be replaced in one file: SQLite would apply its write-ahead log to the new file.

    Until the new file has its name, the old log is complete.
    """
    if readable:
        with closing(sqlite3.connect(log, isolation_level=None)) as connection:
            try:
                connection.execute("PRAGMA journal_mode=DELETE")
            except sqlite3.OperationalError as error:
                raise LogFileError(f"The log {log} is being read, by a backup or a check: {error}.") from error
    for suffix in ("-wal", "-shm", "-journal"):
        log.with_name(log.name + suffix).unlink(missing_ok=True)
