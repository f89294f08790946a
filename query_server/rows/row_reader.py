"""Row reader: the `RowSource` of an SQLite read store.

Connections are read-only, and each belongs to a thread. Reads by key are batched (see `key_batches`). Nothing is
assumed to last: the store may not exist yet, generations are switched and dropped, and the file may be replaced.

A read of a projection:

1. Take the generation that is remembered as active, or look it up.
2. Run the statement. It returns one row if that generation is still active, else none.
3. On none, forget the generation and repeat, up to four times.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog

from diptych.contract.identity_codec import identity_from_columns
from diptych.contract.reasons import ReadModelNotReady
from diptych.domain.projection import Projection, View
from diptych.domain.query import Find
from diptych.storage.errors import ReadStoreError
from diptych.storage.read_connection import (
    VALUE_BYTES_MAX,
    InterruptedReadError,
    ReadConnection,
    ResultTooLargeError,
    StatementError,
    StoreMissingError,
    file_id,
)
from diptych.storage.read_store_schema import shape
from query_server.rows import generation_statements
from query_server.rows.key_batches import KeyBatches
from query_server.rows.reader_threads import ReaderThreads
from query_server.rows.row_source import PAGE_BYTES_MAX, PageRead, RowRead, RowSource, StoredEvent, StoredGeneration
from query_server.rows.statements import Statements, find_values, unpack_keyed, unpack_page
from query_server.rows.time_limit import TimeLimit

_ATTEMPTS = 4
"""Reads of one call, each after a look-up of the active generation, which may have just changed."""

KEYS_BYTES_MAX = 4 << 20
"""Size of the rows of one select by key, about; the keys of more are read in several."""

_SMALLER_PAGE = 8
"""A page that has too many bytes is read again with this part of its rows."""

_PACKED_BYTES_SPARE = 16 << 20
"""Bytes of packed rows beyond the size of a page. SQLite has the same limit for parameters, such as keys."""

RECHECK_SECONDS = 0.1
"""Time for which a missing projection is reported missing without another look-up."""

_log = structlog.get_logger(__name__)
T = TypeVar("T")


def _packed_bytes_max(bytes_max: int) -> int:
    """Return the size of the value in which SQLite packs rows, as hexadecimal text, that are cut to `bytes_max`."""
    return 2 * bytes_max + _PACKED_BYTES_SPARE


def _fitting(rows: Sequence[bytes], bytes_max: int) -> int:
    """Return the number of rows, at least the first, that together have at most `bytes_max` bytes."""
    if sum(map(len, rows)) <= bytes_max:
        return len(rows)
    size = 0
    for index, row in enumerate(rows):
        size += len(row)
        if size > bytes_max:
            return max(index, 1)
    return len(rows)


class RowReader(RowSource):
    """Reads rows of the views of some projections. Belongs to one event loop."""

    def __init__(self, path: Path, projections: Sequence[Projection], readers: int = 2) -> None:
        """Start the threads.

        Args:
            path: The read store's file, which may not exist yet.
            projections: The projections to read.
            readers: Number of connections.
        """
        self.shows_commits = True  # It reads the projector's own file.
        self.store_changes = 0
        self._path = path
        self._file = file_id(path)
        self._shapes = {projection.name: shape(projection) for projection in projections}
        self._views = {p.name: [view.name for view in p.views] for p in projections}
        self._statements = Statements()
        self._generations: dict[str, int] = {}
        """Active generations, as last looked up."""
        self._absent_until: dict[str, float] = {}
        self._batches: dict[str, KeyBatches] = {}
        self._threads = ReaderThreads(path, readers)

    async def close(self) -> None:
        """End the threads and close their connections."""
        await self._threads.close()

    @property
    def selects(self) -> int:
        """Number of selects of rows by key."""
        return sum(batches.selects for batches in self._batches.values())

    @property
    def keys_read(self) -> int:
        """Number of keys in those selects."""
        return sum(batches.keys for batches in self._batches.values())

    # Reads, on the event loop.

    def get(self, view: View[Any], key: str) -> asyncio.Future[RowRead]:
        """Read one row by its key."""
        if "\0" in key:  # SQLite's JSON ends there: such a key cannot share a select.
            return asyncio.ensure_future(
                self._threads.submit(lambda connection: self._get_alone(connection, view, key))
            )
        batches = self._batches.get(view.name)
        if batches is None:
            batches = self._batches[view.name] = KeyBatches(view, self._threads, self._read_keys)
        return batches.get(key)

    async def find(
        self,
        view: View[Any],
        find: Find,
        *,
        limit: int,
        after: Sequence[Any] | None = None,
        total: bool = False,
        bytes_max: int = PAGE_BYTES_MAX,
        time_limit: TimeLimit | None = None,
    ) -> PageRead:
        """Read rows that match, in order."""

        def read(connection: ReadConnection) -> PageRead:
            values = find_values(find, after, limit)

            def statement(generation: int) -> tuple[str, tuple[Any, ...]]:
                values["projection"] = view.projection.name
                values["generation"] = generation
                compiled = self._statements.find(view, generation, find, after=after is not None, total=total)
                return compiled.sql, compiled.bind(**values)

            projection, rows_max = view.projection.name, limit
            generation, row = 0, None
            while row is None:
                values["limit"] = rows_max
                # One row alone may have any size: its reader names it.
                value_bytes_max = _packed_bytes_max(bytes_max) if rows_max > 1 else VALUE_BYTES_MAX
                try:
                    generation, row = self._read(connection, projection, statement, value_bytes_max)
                except ResultTooLargeError:
                    if rows_max == 1:
                        raise
                    rows_max = max(rows_max // _SMALLER_PAGE, 1)
            position, packed, keys, count = row
            page, page_keys = unpack_page(packed, keys)
            fitting = _fitting(page, bytes_max)
            cut = fitting < len(page) or len(page) == rows_max < limit
            return PageRead(page[:fitting], page_keys[:fitting], count, generation, position, cut)

        return await self._threads.submit(read, time_limit)

    async def event(self, projection: str, position: int) -> StoredEvent:
        """Look up the result of the event at a position."""

        def read(connection: ReadConnection) -> StoredEvent:
            compiled = generation_statements.EVENT
            bound = compiled.bind(projection=projection, position=position, shape=self._shapes[projection])
            try:
                row = connection.one(self.store_changes, compiled.sql, bound)
            except ReadStoreError as error:
                raise self._not_ready(projection) from error
            if row is None:
                raise self._not_ready(projection)
            return StoredEvent(*row)

        return await self._threads.submit_control(read)

    async def run(self, work: Callable[[], T]) -> T:
        """Run some work on rows off the event loop."""
        return await self._threads.submit(lambda _: work())

    async def generations(self) -> list[StoredGeneration]:
        """List the readable active generations, and notice a replaced file."""
        return await self._threads.submit_control(self._list_generations)

    # Reads, on a thread.

    def _list_generations(self, connection: ReadConnection) -> list[StoredGeneration]:
        file = file_id(self._path)
        if file != self._file:
            self._file = file
            self.store_changes += 1  # Every thread opens it again.
            self._generations.clear()
        try:
            rows = connection.all(self.store_changes, generation_statements.LIST.sql, ())
        except ReadStoreError:
            self._generations.clear()
            return []
        listed = []
        for name, generation, version, its_shape, position, log_id, epochs, paused, *left_out in rows:
            if self._shapes.get(name) == its_shape:
                identity = identity_from_columns(log_id, epochs)
                listed.append(StoredGeneration(name, generation, version, position, identity, bool(paused), *left_out))
                if self._generations.get(name, generation) != generation:
                    self._statements.drop(self._views[name], self._generations[name])
                self._generations[name] = generation
                self._absent_until.pop(name, None)
        return listed

    def _get_alone(self, connection: ReadConnection, view: View[Any], key: str) -> RowRead:
        generation, position, rows = self._read_keys(connection, view, [key])
        return RowRead(rows.get(0), generation, position)

    def _read_keys(
        self, connection: ReadConnection, view: View[Any], keys: list[str]
    ) -> tuple[int, int, dict[int, bytes]]:
        """Return the generation, its checkpoint, and the rows by the index of their key."""
        projection = view.projection.name
        text = json.dumps(keys) if len(keys) > 1 else ""

        def statement(generation: int) -> tuple[str, tuple[Any, ...]]:
            one, many = self._statements.by_key(view, generation)
            if text:
                return many.sql, many.bind(keys=text, projection=projection, generation=generation)
            return one.sql, one.bind(key=keys[0], projection=projection, generation=generation)

        try:
            value_bytes_max = _packed_bytes_max(KEYS_BYTES_MAX) if text else VALUE_BYTES_MAX
            generation, row = self._read(connection, projection, statement, value_bytes_max)
        except ResultTooLargeError:
            if not text:
                raise
            return self._read_halves(connection, view, keys)
        position, packed = row
        if text:
            return generation, position, unpack_keyed(packed)
        return generation, position, {} if packed is None else {0: packed}

    def _read_halves(
        self, connection: ReadConnection, view: View[Any], keys: list[str]
    ) -> tuple[int, int, dict[int, bytes]]:
        """Read rows by key in two selects, of the same generation."""
        half = len(keys) // 2
        for _ in range(_ATTEMPTS):
            generation, position, rows = self._read_keys(connection, view, keys[:half])
            again, later, others = self._read_keys(connection, view, keys[half:])
            if generation == again:
                rows |= {half + index: row for index, row in others.items()}
                return generation, min(position, later), rows
        raise self._not_ready(view.projection.name)

    def _read(
        self,
        connection: ReadConnection,
        projection: str,
        statement: Callable[[int], tuple[str, tuple[Any, ...]]],
        value_bytes_max: int = VALUE_BYTES_MAX,
    ) -> tuple[int, tuple[Any, ...]]:
        """Run a statement on the active generation of a projection; return that generation and the one row.

        Raise `ResultTooLargeError` if a value is larger than allowed.
        """
        for attempt in range(_ATTEMPTS):
            generation = 0
            row: tuple[Any, ...] | None = None
            try:
                # A remembered generation may be out of date, even if it was looked up a moment ago.
                generation = self._generation(connection, projection, remembered=attempt == 0)
                row = connection.one(self.store_changes, *statement(generation), value_bytes_max)
            except (StatementError, ResultTooLargeError, InterruptedReadError):
                raise
            except StoreMissingError:
                pass
            except ReadStoreError as error:
                _log.warning("read failed", projection=projection, cause=str(error))
            if row is not None:
                return generation, row
            self._generations.pop(projection, None)
        raise self._not_ready(projection)

    def _generation(self, connection: ReadConnection, projection: str, *, remembered: bool) -> int:
        active = self._generations.get(projection)
        if active is not None and remembered:
            return active
        if time.monotonic() < self._absent_until.get(projection, 0.0):
            raise ReadModelNotReady(projection=projection)
        compiled = generation_statements.ACTIVE
        bound = compiled.bind(projection=projection, shape=self._shapes[projection])
        row = connection.one(self.store_changes, compiled.sql, bound)
        if row is None:
            raise self._not_ready(projection)
        generation: int = row[0]
        self._generations[projection] = generation
        return generation

    def _not_ready(self, projection: str) -> ReadModelNotReady:
        self._absent_until[projection] = time.monotonic() + RECHECK_SECONDS
        return ReadModelNotReady(projection=projection)
