"""Checkpoints of SQLite's write-ahead log beside the writer, so that commits need not wait for them.

A commit appends the pages that it changed to the write-ahead log; a checkpoint copies them back to where they belong,
all over the file, and syncs that. SQLite does it within a commit, after 1,000 pages, which the next commands wait for.
Here a thread with a connection of its own copies what was written so far, while commits go on: 64 callers get 4 to 5 %
more commands into a log of a million events with random ids. The log begins anew once nothing is left to copy; that
stays the writer's, by `wal_autocheckpoint` and `AUTOCHECKPOINT_PAGES`, in a commit now and then that finds little left.
It is also what bounds the log if this thread cannot do its work.

Source: https://www.sqlite.org/wal.html, sections 3 and 6.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import structlog

from diptych.storage.adaptive_batch import LearntSize

AUTOCHECKPOINT_PAGES = 16_000
"""For `wal_autocheckpoint`: after so many pages, 64 MiB, the writer copies what is left, and the log begins anew."""

_ROWS_FIRST, _ROWS_LEAST, _ROWS_MOST = 500, 100, 50_000

_log = structlog.get_logger(__name__)


class WalCheckpoints:
    """Copies back what one connection writes to a file, whenever that is so many pages, about, until `close`.

    How long the log is only a checkpoint tells; between them, changed rows are counted, and how many pages they come
    to is learnt.
    """

    def __init__(self, path: Path, name: str, pages: int) -> None:
        self._path = path
        self._rows = LearntSize(pages, first=_ROWS_FIRST, least=_ROWS_LEAST, most=_ROWS_MOST)
        self._seen = 0
        self._due = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def written(self, connection: sqlite3.Connection) -> None:
        """Takes note of commits; called on the thread of the connection that writes."""
        rows = connection.total_changes
        if rows - self._seen >= self._rows.count:
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
                    busy, _, now = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    if not busy:  # The writer was not making one just then.
                        # The log may have begun anew.
                        self._rows.note(self._rows.count, now - copied if now > copied else now)
                        copied = now
                    self._due.wait()
                    self._due.clear()
        except sqlite3.Error as error:
            _log.warning("the writer makes its checkpoints itself from now on", file=self._path.name, error=str(error))
