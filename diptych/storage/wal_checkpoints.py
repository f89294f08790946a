"""Checkpoints of SQLite's write-ahead log beside the writer, so that commits need not wait for them.

A commit appends the changed pages to the write-ahead log. A checkpoint copies them to their place in the file, and
syncs the file. By itself SQLite does this within a commit after 1,000 pages, and the next commands wait.

1. A thread with its own connection copies the written pages while commits go on. With 64 callers on a log of a million
   events with random ids, the server records 4 to 5 % more commands per second.
2. The write-ahead log restarts when nothing is left to copy. That is the writer's part, by `wal_autocheckpoint` and
   `AUTOCHECKPOINT_PAGES`, in an occasional commit that finds little left.
3. The same setting bounds the write-ahead log if the thread can't work.
4. A long read keeps the write-ahead log from restarting, and the file grows. When the writer is idle for a moment, the
   thread truncates a large file. A busy writer truncates it to `JOURNAL_BYTES_MAX` when the log restarts.

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

JOURNAL_BYTES_MAX = 64 << 20
"""Value for `journal_size_limit`: bytes that the file keeps when the log restarts."""

_IDLE_SECONDS = 1.0
"""Time without a due checkpoint after which a large file is truncated; also the interval of further tries."""
_IDLE_BYTES = 16 << 20
"""Size of a file that stays, since a file that grows again costs time."""

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
            # It waits for no lock: a checkpoint that finds the writer or a reader in its way comes later.
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0)) as connection:
                connection.execute("PRAGMA synchronous=FULL")
                while not self._closing:
                    busy, _, pages = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    if not busy:  # The writer made no checkpoint at the same time.
                        # Fewer pages than before: the log has restarted.
                        self._rows.observe(self._rows.count, pages - copied if pages > copied else pages)
                        copied = pages
                    self._wait(connection)
        except (sqlite3.Error, OSError) as error:
            _log.warning("checkpoint thread failed, writer makes checkpoints", file=self._path.name, error=str(error))

    def _wait(self, connection: sqlite3.Connection) -> None:
        """Wait until a checkpoint is due. Meanwhile truncate a large file as soon as no reader needs it."""
        file = self._path.with_name(self._path.name + "-wal")
        while not self._due.wait(_IDLE_SECONDS if _size(file) > _IDLE_BYTES else None):
            # The first copies nearly all while the writer goes on, and the writer waits for the second.
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise
        self._due.clear()


def _size(file: Path) -> int:
    """Return the size of a file; 0 without one."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
