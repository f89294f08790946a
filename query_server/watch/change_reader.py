"""Change reader: pages of rows as they go on the wire, with the position that last changed each row.

Every page is one short read transaction. It also returns the generation, and the position that the page is true at.
There are two connections, each with a thread of its own: one for live changes, one for watches that are behind. So
no snapshot delays live changes. Queries have other connections.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from diptych.contract.identity_codec import identity_from_columns
from diptych.contract.reasons import ReadModelNotReady
from diptych.contract.wire import delimited, integer
from diptych.domain.projection import Projection, View
from diptych.storage.database_thread import DatabaseThread
from diptych.storage.errors import ReadStoreError
from diptych.storage.read_connection import Execute, ReadConnection
from diptych.storage.read_store_schema import shape
from diptych.storage.sql import Compiled
from query_server.watch.change_statements import ACTIVE, ChangeStatements
from query_server.watch.resume_token import ResumeToken, Source

PAGE_BYTES_MAX = 1 << 20
"""A page ends before the row that would make it larger than this, or a smaller size that its reader asks for."""

_DELETED = delimited(4, b"")
_CHANGE_BYTES = 200  # Bytes that a change takes besides its content, estimated.

_log = structlog.get_logger(__name__)


class Change:
    """A row as of the position that last changed it."""

    __slots__ = ("content", "holders", "key", "position", "size")

    def __init__(self, key: str, position: int, content: bytes) -> None:
        self.key = key
        self.position = position
        self.content = content
        """A `Row`, as a field of a `RowBatch`."""
        self.size = len(content) + len(key) + _CHANGE_BYTES
        self.holders = 0
        """Number of buffers that have it."""


class Cursor(NamedTuple):
    """Point in the order of changes: behind it are all changes before `position`, and those at it up to `key`.

    With `key` None all changes at the position are behind it.
    """

    position: int
    key: str | None = None


class Page:
    """Rows, and the state of the store that they are true for."""

    __slots__ = ("changes", "floor", "identity", "more", "position", "source")

    def __init__(self, source: Source, position: int, floor: int, log: tuple[str, str]) -> None:
        self.source = source
        self.position = position
        """The checkpoint."""
        self.floor = floor
        """Position after which every deleted row has its tombstone."""
        self.identity = identity_from_columns(*log)
        self.changes: list[Change] = []
        self.more = False
        """True if there are more rows than a page takes."""

    @property
    def size(self) -> int:
        """Bytes of its rows in memory."""
        return sum(change.size for change in self.changes)

    @property
    def epoch(self) -> int:
        """The log's epoch."""
        return self.identity.epoch if self.identity is not None else 0

    def reaches_back_to(self, cursor: Cursor) -> bool:
        """Return True if the tombstones of everything deleted after a cursor are still there."""
        return self.floor < cursor.position or (self.floor == cursor.position and cursor.key is None)

    def continues(self, cut: ResumeToken) -> bool:
        """Return True if these rows are later states of a cut's rows.

        They must be of the same filling, and of a log that did not lose events of the cut. Rows of an earlier epoch
        than the cut's come from before it, and may have events that the log has lost.
        """
        if cut.source != self.source or cut.epoch > self.epoch:
            return False
        epochs = self.identity.epochs if self.identity is not None else ()
        return not any(epoch > cut.epoch and first <= cut.position for epoch, first in epochs)


class ChangeReader:
    """Reads views for watches. Belongs to one event loop.

    Every read raises `ReadModelNotReady` while the projection has no readable generation or the store cannot be
    read. Cancelling a read drops its page.
    """

    def __init__(self, path: Path, projections: Iterable[Projection], page_rows_max: int) -> None:
        """Start the threads.

        Args:
            path: The read store's file, which may not exist yet.
            projections: The projections to read.
            page_rows_max: Greatest number of rows in a page.
        """
        self._shapes = {projection.name: shape(projection) for projection in projections}
        self._rows_max = page_rows_max
        self._statements: dict[str, tuple[int, ChangeStatements]] = {}
        self.reads = 0
        """Number of pages read."""
        self.under_way = 0
        """Number of pages that are being read, or wait for it."""
        self._live = _ReadThread(path, "watch-live")
        self._catch_up = _ReadThread(path, "watch-catch-up")

    async def close(self) -> None:
        """End the threads and close their connections."""
        await asyncio.gather(self._live.close(), self._catch_up.close())

    async def changes(
        self, view: View[Any], after: Cursor, bytes_max: int = PAGE_BYTES_MAX, *, live: bool = False
    ) -> Page:
        """Read rows and tombstones after a cursor, in the order of their changes.

        Args:
            view: The view.
            after: The cursor.
            bytes_max: Size that the page ends at.
            live: Use the connection for live changes.
        """

        def rows(execute: Execute, statements: ChangeStatements) -> Iterator[Any]:
            values = {"position": after.position, "limit": self._rows_max}
            if after.key is None:
                return _run(execute, statements.after_position, **values)
            return _run(execute, statements.after_key, key=after.key, **values)

        return await self._page(self._live if live else self._catch_up, view, rows, self._rows_max, bytes_max)

    async def by_key(self, view: View[Any], after: str | None, bytes_max: int = PAGE_BYTES_MAX) -> Page:
        """Read the rows that exist, by key, after a key; None: from the first."""

        def rows(execute: Execute, statements: ChangeStatements) -> Iterator[Any]:
            if after is None:
                return _run(execute, statements.first_rows, limit=self._rows_max)
            return _run(execute, statements.next_rows, key=after, limit=self._rows_max)

        return await self._page(self._catch_up, view, rows, self._rows_max, bytes_max)

    async def of_keys(
        self, view: View[Any], keys: Sequence[str], bytes_max: int = PAGE_BYTES_MAX, *, deleted: bool
    ) -> Page:
        """Read the rows of some keys: those that exist, by key; or with tombstones, by position."""

        def rows(execute: Execute, statements: ChangeStatements) -> Iterator[Any]:
            chosen = statements.of_keys if deleted else statements.rows_of_keys
            return _run(execute, chosen, keys=_json(keys))

        return await self._page(self._catch_up, view, rows, None, bytes_max)

    async def changed_keys(self, view: View[Any], keys: Sequence[str], after: int) -> tuple[Page, list[str]]:
        """Return those of some keys whose rows changed after a position, in the order of the changes.

        The page has no rows.
        """
        changed: list[str] = []

        def rows(execute: Execute, statements: ChangeStatements) -> Iterator[Any]:
            changed.extend(key for (key,) in _run(execute, statements.changed_keys, keys=_json(keys), position=after))
            return iter(())

        return await self._page(self._catch_up, view, rows), changed

    async def _page(
        self,
        thread: _ReadThread,
        view: View[Any],
        rows: Callable[[Execute, ChangeStatements], Iterator[Any]],
        rows_max: int | None = None,
        bytes_max: int = PAGE_BYTES_MAX,
    ) -> Page:
        projection = view.projection.name
        self.reads += 1

        def read(execute: Execute) -> Page:
            active = next(_run(execute, ACTIVE, projection=projection, shape=self._shapes[projection]), None)
            if active is None or not active[2]:
                raise ReadModelNotReady(projection=projection)
            generation, version, filling, position, floor, *log = active
            page = Page(Source(version, generation, filling), position, floor, (log[0], log[1]))
            _fill(page, view, rows(execute, self._statements_of(view, generation)), rows_max, bytes_max)
            return page

        self.under_way += 1
        try:
            return await thread.run(read)
        except ReadStoreError as error:
            # There is no file yet, or it has just been replaced; anything else is as bad.
            _log.debug("read failed", view=view.name, cause=str(error))
            raise ReadModelNotReady(projection=projection) from error
        finally:
            self.under_way -= 1

    def _statements_of(self, view: View[Any], generation: int) -> ChangeStatements:
        entry = self._statements.get(view.name)
        if entry is None or entry[0] != generation:
            entry = self._statements[view.name] = generation, ChangeStatements(view, generation)
        return entry[1]


def _fill(page: Page, view: View[Any], rows: Iterator[Any], rows_max: int | None, bytes_max: int) -> None:
    """Put rows into a page, encoded, until it is full."""
    type_url = delimited(1, f"type.googleapis.com/{view.row.DESCRIPTOR.full_name}".encode())
    size = 0
    for key, position, row in rows:
        content = _DELETED if row is None else delimited(3, type_url + delimited(2, row) if row else type_url)
        change = Change(key, position, delimited(1, delimited(1, key.encode()) + integer(2, position) + content))
        if size and size + len(change.content) > bytes_max:
            page.more = True
            break
        page.changes.append(change)
        size += len(change.content)
        if size >= bytes_max or len(page.changes) == rows_max:
            page.more = True
            break


def _json(keys: Sequence[str]) -> str:
    return json.dumps([key for key in keys if "\0" not in key])  # No row has such a key, and SQLite's JSON ends there.


def _run(execute: Execute, statement: Compiled, **values: Any) -> Iterator[Any]:
    return execute(statement.sql, statement.bind(**values))


class _ReadThread:
    """A thread with a read-only connection."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._thread = DatabaseThread(name)
        self._connection = ReadConnection(path)

    async def run(self, read: Callable[[Execute], Page]) -> Page:
        """Read a page in one transaction."""
        return await self._thread.run(self._connection.transaction, read)

    async def close(self) -> None:
        """End the thread after the reads that it has."""
        await self._thread.run(self._connection.close)
        await self._thread.close()
