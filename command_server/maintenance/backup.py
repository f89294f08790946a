"""Backup and restore of the log.

A backup is a file that is a log itself: consistent, whole, and taken while the server runs. A restore begins a new
*epoch*, since what was recorded after the backup is lost: tokens that stand for it are refused by name, and
projections that folded it say so.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import bindparam, insert, update

from command_server.maintenance.log_file import LogFile, LogFileError, check_whole, read
from command_server.store import schema
from diptych.server.errors import StartError
from diptych.storage import copy as sqlite_copy
from diptych.storage.connections import open_read_only
from diptych.storage.copy import Progress
from diptych.storage.file_lock import FileLock
from diptych.storage.sql import compile_sqlite

_BEGIN_EPOCH = compile_sqlite(insert(schema.epochs))
_ENTER_EPOCH = compile_sqlite(update(schema.log).values(epoch=bindparam("new_epoch")))
_EPOCH_MAX = (1 << 32) - 1
"""A token has four bytes for it."""


class BackedUp(NamedTuple):
    """A backup that was taken."""

    log: LogFile
    size_bytes: int


class Restored(NamedTuple):
    """A log that was restored."""

    log: LogFile
    lost: int | None
    """Positions of the log that was replaced which this one does not have; None: none was replaced, or it could not
    be read."""
    unreadable: str
    """Why the log that was replaced could not be read; empty: it could, or there was none."""


def back_up(log: Path, to: Path, progress: Progress, *, force: bool = False) -> BackedUp:
    """Copies a log, which a server may be writing, to a file; raises `LogFileError`.

    With `force` a file that is there is replaced, once the new one is whole.
    """
    if not log.exists():
        raise LogFileError(f"There is no log {log}.")
    if to.exists() and not force:
        raise LogFileError(f"{to} exists. Choose another name, or replace it with --force.")
    if to.exists() and to.samefile(log):
        raise LogFileError(f"{to} is the log itself.")
    made = to.with_name(to.name + ".part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        sqlite_copy.remove(made)
        sqlite_copy.copy(log, made, progress)
        with closing(open_read_only(made)) as connection:
            found = read(connection, log)
        size = made.stat().st_size
        sqlite_copy.replace_durably(made, to)
    except sqlite3.Error as error:
        raise LogFileError(f"The log {log} cannot be copied to {to}: {error}.") from error
    except OSError as error:
        raise LogFileError(f"{to} cannot be written: {error}.") from error
    finally:
        sqlite_copy.remove(made)
    return BackedUp(found, size)


def restore(backup: Path, log: Path, progress: Progress, *, force: bool = False, after_epoch: int = 0) -> Restored:
    """Makes a backup the log, in a new epoch; raises `LogFileError`, and has changed nothing then.

    The epoch is one more than the greatest of the backup's, that of the log which is replaced, and `after_epoch`.
    """
    if not backup.exists():
        raise LogFileError(f"There is no backup {backup}.")
    made = log.with_name(log.name + ".restoring")
    lock = FileLock(log.with_name(log.name + ".lock"), "restore")
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
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
            found = read(connection, backup)
            check_whole(connection, backup, found.head)
            replaced, unreadable = _last_words(log)
            epoch = 1 + max(found.identity.epoch, after_epoch, replaced.identity.epoch if replaced else 0)
            if epoch > _EPOCH_MAX:
                raise LogFileError(f"Epoch {epoch} is more than a token can name.")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_BEGIN_EPOCH.sql, _BEGIN_EPOCH.bind(epoch=epoch, first_position=found.head + 1))
            connection.execute(_ENTER_EPOCH.sql, _ENTER_EPOCH.bind(new_epoch=epoch))
            connection.execute("COMMIT")
            restored = read(connection, backup)
        _put_to_rest(log, whole=replaced is not None)
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


def _last_words(log: Path) -> tuple[LogFile | None, str]:
    """What the log that is to be replaced says about itself, and why it does not, if it is there."""
    if not log.exists():
        return None, ""
    try:
        with closing(open_read_only(log)) as connection:
            return read(connection, log), ""
    except (sqlite3.Error, LogFileError) as error:
        return None, str(error).rstrip(".")


def _put_to_rest(log: Path, *, whole: bool) -> None:
    """Leaves the log that is replaced in one file: a write-ahead log that outlived it would be taken for the new one's.

    Until the new file has the name, the old one is as it was.
    """
    if whole:
        with closing(sqlite3.connect(log, isolation_level=None)) as connection:
            try:
                connection.execute("PRAGMA journal_mode=DELETE")
            except sqlite3.OperationalError as error:
                raise LogFileError(f"The log {log} is being read, by a backup or a check: {error}.") from error
    for suffix in ("-wal", "-shm", "-journal"):
        log.with_name(log.name + suffix).unlink(missing_ok=True)
