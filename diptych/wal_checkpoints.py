"""Checkpoints of SQLite's write-ahead log beside the writer, so that commits need not wait for them.

A commit appends the pages that it changed to the write-ahead log; a checkpoint copies them back to where they belong,
all over the file, and syncs that. SQLite does it within a commit, after 1,000 pages: a command in a log of millions of
events waits some 0.05 ms for its share of it, and now and then a commit for all. Here a thread with a connection of its
own copies what was written so far, while commits go on. The log begins anew once nothing is left to copy; that stays
the writer's, by `wal_autocheckpoint` and `PAGES`, in a commit now and then that finds little left. It is also what
bounds the log if this thread cannot do its work.

Source: https://www.sqlite.org/wal.html, sections 3 and 6.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import structlog

PAGES = 16_000
"""For `wal_autocheckpoint`: after so many pages, 64 MiB, the writer copies what is left, and the log begins anew."""

_ROWS_FIRST, _ROWS_LEAST = 500, 100

_log = structlog.get_logger(__name__)


class WalCheckpoints:
    """Copies back what one connection writes to a file, whenever that is so many pages, about, until `close`.

    How long the log is only a checkpoint tells; between them, changed rows are counted, and how many pages they come
    to is learnt.
    """

    def __init__(self, path: Path, name: str, pages: int) -> None:
        self._path = path
        self._pages = pages
        self._rows = _ROWS_FIRST
        self._seen = 0
        self._due = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def written(self, connection: sqlite3.Connection) -> None:
        """Takes note of commits; called on the thread of the connection that writes."""
        rows = connection.total_changes
        if rows - self._seen >= self._rows:
            self._seen = rows
            if self._thread.ident is None:
                self._thread.start()
            self._due.set()

    def close(self) -> None:
        """Ends the thread; waits for a checkpoint that is under way."""
        self._closing = True
        self._due.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        copied = 0
        try:
            with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous=FULL")
                while not self._closing:
                    before = copied
                    _, _, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    self._learn(copied - before if copied > before else copied)  # It may have begun anew.
                    self._due.wait()
                    self._due.clear()
        except sqlite3.Error as error:
            _log.warning("the writer makes its checkpoints itself from now on", file=self._path.name, error=str(error))

    def _learn(self, pages: int) -> None:
        fitting = self._rows * self._pages // max(pages, 1)
        self._rows = max(min(fitting, 2 * self._rows), self._rows // 2, _ROWS_LEAST)
