"""Key batches: one select for all keys of a view that arrive while another select is under way.

1. A key that arrives while nothing is under way is sent at the end of this turn of the event loop.
2. Keys that arrive while a select is under way form the next batch.
3. After an answer the next batch waits for as many callers as the last one had, within the batch window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from diptych.contract.reasons import Overloaded
from diptych.domain.projection import View
from diptych.domain.refusal import Refusal
from diptych.storage.batch_window import BatchWindows
from diptych.storage.read_connection import ReadConnection
from query_server.rows.reader_threads import READS_MAX, ReaderThreads
from query_server.rows.row_source import RowRead

ReadKeys = Callable[[ReadConnection, View[Any], list[str]], tuple[int, int, dict[int, bytes]]]
"""Reads rows by key, on a thread: generation, checkpoint, and the rows by the index of their key."""


class KeyBatches:
    """The keys of one view that wait for the next select. Belongs to one event loop."""

    __slots__ = (
        "_batch_size",
        "_in_window",
        "_is_under_way",
        "_loop",
        "_read_keys",
        "_sending",
        "_threads",
        "_view",
        "_waiting",
        "_windows",
        "keys",
        "selects",
    )

    def __init__(self, view: View[Any], threads: ReaderThreads, read_keys: ReadKeys) -> None:
        self.selects = 0
        """Number of selects."""
        self.keys = 0
        """Number of keys in those selects."""
        self._view = view
        self._threads = threads
        self._read_keys = read_keys
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[str, asyncio.Future[RowRead]]] = []
        self._is_under_way = False
        self._batch_size = 1
        """Number of keys that the next batch waits for."""
        self._sending: asyncio.Handle | None = None
        self._windows = BatchWindows()
        self._in_window = False
        """True while the next batch waits for its callers."""

    def get(self, key: str) -> asyncio.Future[RowRead]:
        """Read one row with the next select.

        Raises:
            Overloaded: Too many keys wait.
        """
        future: asyncio.Future[RowRead] = self._loop.create_future()
        waiting = self._waiting
        if len(waiting) >= READS_MAX:
            raise Overloaded(what="reads", limit=READS_MAX).with_details(retry_seconds=1)
        waiting.append((key, future))
        if not self._is_under_way and (self._sending is None or len(waiting) == self._batch_size):
            if self._sending is not None:
                self._sending.cancel()
                self._end_window(filled=True)
            # Keys of the same turn of the loop come along.
            self._sending = self._loop.call_soon(self._send)
        return future

    def on_answered(self, batch: _KeyBatch) -> None:
        """Answer the callers of a batch, and send the next one when its callers are there."""
        self._is_under_way = False
        self._batch_size, seconds = self._windows.after(len(batch.keys) + len(self._waiting))
        if len(self._waiting) >= self._batch_size:
            self._send()
        elif self._batch_size > 1:
            self._in_window = True
            self._sending = self._loop.call_later(seconds, self._send_late)
        error = batch.error
        if error is not None:
            for _, future in batch.keys:
                if not future.done():  # Each caller gets a copy: its traceback is its own.
                    future.set_exception(error.with_details() if isinstance(error, Refusal) else error)
            return
        rows, generation, position = batch.rows, batch.generation, batch.position
        for index, (_, future) in enumerate(batch.keys):
            if not future.done():
                future.set_result(RowRead(rows.get(index), generation, position))

    def _send_late(self) -> None:
        """Send the keys that came within the window, which were too few."""
        if self._waiting:
            self._end_window(filled=False)
        self._in_window = False
        self._send()

    def _end_window(self, *, filled: bool) -> None:
        if self._in_window:
            self._in_window = False
            self._windows.observe(filled)

    def _send(self) -> None:
        keys = [(key, future) for key, future in self._waiting if not future.done()]
        self._waiting = []
        self._sending = None
        if not keys:
            return
        self._is_under_way = True
        self.selects += 1
        self.keys += len(keys)
        self._threads.submit_keys(_KeyBatch(self, keys))

    def read(self, connection: ReadConnection, keys: list[str]) -> tuple[int, int, dict[int, bytes]]:
        """Read rows by key, on a thread."""
        return self._read_keys(connection, self._view, keys)


class _KeyBatch:
    """Keys of one select, with its result."""

    __slots__ = ("batches", "error", "generation", "keys", "position", "rows")

    def __init__(self, batches: KeyBatches, keys: list[tuple[str, asyncio.Future[RowRead]]]) -> None:
        self.batches = batches
        self.keys = keys
        self.error: Exception | None = None
        self.rows: dict[int, bytes] = {}
        self.generation = 0
        self.position = 0

    def run(self, threads: ReaderThreads, connection: ReadConnection) -> None:
        try:
            self.generation, self.position, self.rows = self.batches.read(connection, [key for key, _ in self.keys])
        except Exception as error:
            self.error = error
        threads.deliver(self.batches.on_answered, self)
