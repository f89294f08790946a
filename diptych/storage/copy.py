"""Copies of SQLite files that are in use: consistent, and without blocking the writer.

A copy shows one moment, that of its first step. It holds a read transaction for as long as it copies: a copy that
ended it between two steps would start again with every commit, and never end under load. The writer goes on; its
writes stay in the write-ahead log until the copy is done.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from diptych.storage.connections import open_read_only
from diptych.storage.files import make_file, sync

STEP_PAGES = 256
"""Pages, usually of 4 KiB, that are copied between two reports of progress."""

Progress = Callable[[int, int], None]
"""Takes the work that is done and the whole work, in the same unit."""


def copy(source: Path, target: Path, progress: Progress) -> None:
    """Copy a file, as it is now, into a new file that is complete without a write-ahead log.

    Args:
        source: The file, which others may be writing.
        target: The new file. If the copy fails, the caller removes the incomplete file.
        progress: Called after every step with the number of pages.

    Raises:
        sqlite3.Error: The source can't be read, or the target can't be written.
        OSError: The target can't be created.
    """

    def report(status: int, remaining: int, total: int) -> None:
        progress(total - remaining, total)

    make_file(target)
    with closing(open_read_only(source)) as reading, closing(sqlite3.connect(target, isolation_level=None)) as writing:
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_master").fetchone()  # The first read begins the transaction.
        reading.backup(writing, pages=STEP_PAGES, progress=report)
        reading.execute("COMMIT")
        # The copy has the source's journal mode, which would need a write-ahead log beside it.
        writing.execute("PRAGMA journal_mode=DELETE")


def replace_durably(made: Path, path: Path) -> None:
    """Rename a finished file to its name. After a crash the old file or the new one is there, and complete."""
    sync(made)
    made.replace(path)
    sync(path.parent)


def remove(path: Path) -> None:
    """Remove an SQLite file and its journals, if they exist."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()
