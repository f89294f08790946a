"""Checkpoints of SQLite's write-ahead log beside the writer, so that commits need not wait for them.

A commit appends the changed pages to the write-ahead log. A checkpoint copies them to their place in the file, and
syncs the file. By itself SQLite does this within a commit after 1,000 pages, and the next commands wait.

1. A thread with its own connection copies the written pages while commits go on. With 64 callers on a log of a million
   events with random ids, the server records 4 to 5 % more commands per second.
2. The write-ahead log restarts when nothing is left to copy. That is the writer's part, by `wal_autocheckpoint` and
   `AUTOCHECKPOINT_PAGES`, in an occasional commit that finds little left.
3. The same setting bounds the write-ahead log if the thread can't work.

Source: https://www.sqlite.org/wal.html, sections 3 and 6.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import structlog

from diptych.storage.adaptive_batch import AdaptiveBatchSize

AUTOCHECKPOINT_PAGES = 16_000
"""Value for `wal_autocheckpoint`: after 16,000 pages, 64 MiB, the writer copies the rest and the log restarts."""

_ROWS_FIRST, _ROWS_MIN, _ROWS_MAX = 500, 100, 50_000

_log = structlog.get_logger(__name__)


class WalCheckpoints:
    """Copies the pages that one connection writes, after about the same number of pages each time, until `close`.

    Only a checkpoint tells the length of the write-ahead log. Between checkpoints changed rows are counted, and the
    number of rows that come to the wanted number of pages is fitted.
    """

    def __init__(self, path: Path, name: str, pages: int) -> None:
        """Prepare the thread.

        Args:
            path: The SQLite file.
            name: Name of the thread.
            pages: Pages between two checkpoints.
        """
        self._path = path
        self._rows = AdaptiveBatchSize(pages, first=_ROWS_FIRST, minimum=_ROWS_MIN, maximum=_ROWS_MAX)
        self._rows_before = 0
        self._due = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def written(self, connection: sqlite3.Connection) -> None:
        """Count the rows of commits. Runs on the thread of the connection that writes."""
        rows = connection.total_changes
        if rows - self._rows_before >= self._rows.count:
            self._rows_before = rows
            if self._thread.ident is None:
                self._thread.start()
            self._due.set()

    def close(self) -> None:
        """Wait for a checkpoint that has begun, and end the thread."""
        self._closing = True
        self._due.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        copied = 0
        try:
            # The file exists. Under a name that was removed meanwhile, no new file must be created.
            uri = f"{self._path.absolute().as_uri()}?mode=rw"
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous=FULL")
                while not self._closing:
                    busy, _, pages = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    if not busy:  # The writer made no checkpoint at the same time.
                        # Fewer pages than before: the log has restarted.
                        self._rows.observe(self._rows.count, pages - copied if pages > copied else pages)
                        copied = pages
                    self._due.wait()
                    self._due.clear()
        except sqlite3.Error as error:
            _log.warning("checkpoint thread failed, writer makes checkpoints", file=self._path.name, error=str(error))
