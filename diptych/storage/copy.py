"""Copies of SQLite files that are in use: consistent, in steps, without standing in a writer's way.

A copy is of one moment, that of its first step. It holds a read transaction for as long as it copies, since a copy
that let go of it between two steps would begin anew with every commit, and under load never end. Writers go on
meanwhile; what they write stays in the write-ahead log until the copy is done.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

STEP_PAGES = 256
"""Pages, of 4 KiB as a rule, between two words of progress."""

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""


def open_read_only(path: Path) -> sqlite3.Connection:
    """Opens an SQLite file that others may be writing; raises `sqlite3.Error` if it is not there."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.execute("PRAGMA busy_timeout=5000")
    return connection


def copy(source: Path, target: Path, progress: Progress) -> None:
    """Copies a file, as it is now, into a new file of its own, complete without any other beside it.

    Raises `sqlite3.Error`. What it leaves then is to be removed by whoever called.
    """

    def told(status: int, remaining: int, total: int) -> None:
        progress(total - remaining, total)

    with closing(open_read_only(source)) as reading, closing(sqlite3.connect(target, isolation_level=None)) as writing:
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_master").fetchone()  # Only now has the transaction begun.
        reading.backup(writing, pages=STEP_PAGES, progress=told)
        reading.execute("COMMIT")
        # The copy is marked as the source is, and would need a write-ahead log beside it.
        writing.execute("PRAGMA journal_mode=DELETE")


def put_in_place(made: Path, path: Path) -> None:
    """Gives a finished file its name, so that after a crash there is the old file or the new one, and whole."""
    _sync(made)
    made.replace(path)
    _sync(path.parent)


def remove(path: Path) -> None:
    """Removes an SQLite file and what lies beside it, as far as they are there."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
