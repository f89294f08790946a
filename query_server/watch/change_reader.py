"""The reader for watches: rows as they go on the wire, with the position that last changed them.

Every page is one short read transaction, which also says what was read and what the page is true at. There are two
connections, each with a thread of its own: one for what is live, one for those who catch up, so that no snapshot
delays what is new. Queries have others.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import structlog
from sqlalchemy import BindParameter, bindparam, func, select

from diptych.contract.identity_codec import identity_from_columns
from diptych.contract.reasons import ReadModelNotReady
from diptych.contract.wire import delimited, integer
from diptych.domain.projection import Projection, View
from diptych.storage.connections import open_read_only
from diptych.storage.database_thread import DatabaseThread
from diptych.storage.read_store_schema import generations, shape, view_table
from diptych.storage.sql import Compiled, compile_sqlite
from query_server.watch.resume_token import ResumeToken, Source

PAGE_BYTES_MAX = 1 << 20
"""A page ends with the row that reaches this."""

_DELETED = delimited(4, b"")
_CHANGE_BYTES = 200  # What a change takes beside its content, about.

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class Change:
    """A row as of the position that last changed it."""

    __slots__ = ("content", "key", "position", "size")

    def __init__(self, key: str, position: int, content: bytes) -> None:
        self.key = key
        self.position = position
        self.content = content
        """A `Row`, as a field of a `RowBatch`."""
        self.size = len(content) + len(key) + _CHANGE_BYTES


class Place(NamedTuple):
    """A place in the order of changes: everything before a position is behind it, and of that position itself the
    keys up to `key`; None: all of them."""

    position: int
    key: str | None = None


class Page:
    """Rows, and what they are true at."""

    __slots__ = ("changes", "floor", "identity", "more", "position", "source")

    def __init__(self, source: Source, position: int, floor: int, log: tuple[str, str]) -> None:
        self.source = source
        self.position = position
        """The checkpoint."""
        self.floor = floor
        """Of rows that were deleted after this position the tombstones are there."""
        self.identity = identity_from_columns(*log)
        self.changes: list[Change] = []
        self.more = False
        """Whether there is more than fits into a page."""

    @property
    def epoch(self) -> int:
        """The log's epoch."""
        return self.identity.epoch if self.identity is not None else 0

    def reaches_back_to(self, place: Place) -> bool:
        """Whether the tombstones of all that was deleted after a place are still there."""
        return self.floor < place.position or (self.floor == place.position and place.key is None)

    def continues(self, told: ResumeToken) -> bool:
        """Whether these rows are later states of those that were told: of one filling, and of a log that did not
        lose what was told."""
        if told.source != self.source:
            return False
        lives = self.identity.epochs if self.identity is not None else ()
        return not any(epoch > told.epoch and first <= told.position for epoch, first in lives)


class WatchReader:
    """Reads views for watches. To be used on one event loop."""

    def __init__(self, path: Path, projections: Iterable[Projection], page_rows_max: int) -> None:
        self._path = path
        self._shapes = {projection.name: shape(projection) for projection in projections}
        self._rows_max = page_rows_max
        self._statements: dict[str, tuple[int, _Statements]] = {}
        self.reads = 0
        """Pages that were read."""
        self.under_way = 0
        """Pages that are being read, or wait for it."""
        self._live = _Thread(path, "watch-live")
        self._catch_up = _Thread(path, "watch-catch-up")

    async def close(self) -> None:
        """Ends the threads and closes their connections."""
        await asyncio.gather(self._live.close(), self._catch_up.close())

    async def changes(self, view: View[Any], after: Place, *, live: bool = False) -> Page:
        """Rows and tombstones after a place, in their order. Raises `ReadModelNotReady`, as all of these do."""

        def rows(connection: sqlite3.Connection, statements: _Statements) -> Iterator[Any]:
            values = {"position": after.position, "limit": self._rows_max}
            if after.key is None:
                return _run(connection, statements.after_position, **values)
            return _run(connection, statements.after_key, key=after.key, **values)

        return await self._page(self._live if live else self._catch_up, view, rows, self._rows_max)

    async def by_key(self, view: View[Any], after: str | None) -> Page:
        """The rows there are, by key, after a key."""

        def rows(connection: sqlite3.Connection, statements: _Statements) -> Iterator[Any]:
            if after is None:
                return _run(connection, statements.first_rows, limit=self._rows_max)
            return _run(connection, statements.next_rows, key=after, limit=self._rows_max)

        return await self._page(self._catch_up, view, rows, self._rows_max)

    async def of_keys(self, view: View[Any], keys: Sequence[str], *, deleted: bool) -> Page:
        """The rows of some keys: those that are there by key, or with tombstones, by their position."""

        def rows(connection: sqlite3.Connection, statements: _Statements) -> Iterator[Any]:
            wanted = statements.of_keys if deleted else statements.rows_of_keys
            return _run(connection, wanted, keys=_json(keys))

        return await self._page(self._catch_up, view, rows)

    async def changed_keys(self, view: View[Any], keys: Sequence[str], after: int) -> tuple[Page, list[str]]:
        """Those of some keys whose rows have changed after a position, in the order of the changes."""
        found: list[str] = []

        def rows(connection: sqlite3.Connection, statements: _Statements) -> Iterator[Any]:
            found.extend(key for (key,) in _run(connection, statements.changed_keys, keys=_json(keys), position=after))
            return iter(())

        return await self._page(self._catch_up, view, rows), found

    async def _page(
        self,
        thread: _Thread,
        view: View[Any],
        rows: Callable[[sqlite3.Connection, _Statements], Iterator[Any]],
        rows_max: int | None = None,
    ) -> Page:
        projection = view.projection.name
        self.reads += 1

        def read(connection: sqlite3.Connection) -> Page:
            found = next(_run(connection, _ACTIVE, projection=projection, shape=self._shapes[projection]), None)
            if found is None or not found[2]:
                raise ReadModelNotReady(projection=projection)
            generation, version, filling, position, floor, *log = found
            page = Page(Source(version, generation, filling), position, floor, (log[0], log[1]))
            _fill(page, view, rows(connection, self._of(view, generation)), rows_max)
            return page

        self.under_way += 1
        try:
            return await thread.run(read)
        except sqlite3.DatabaseError as error:
            # There is no file yet, or it has just been replaced; anything else is as bad.
            _log.debug("a read failed", view=view.name, error=str(error))
            raise ReadModelNotReady(projection=projection) from error
        finally:
            self.under_way -= 1

    def _of(self, view: View[Any], generation: int) -> _Statements:
        known = self._statements.get(view.name)
        if known is None or known[0] != generation:
            known = self._statements[view.name] = generation, _Statements(view, generation)
        return known[1]


def _fill(page: Page, view: View[Any], rows: Iterator[Any], rows_max: int | None) -> None:
    """Puts rows into a page, encoded, until it is full."""
    type_url = delimited(1, f"type.googleapis.com/{view.row.DESCRIPTOR.full_name}".encode())
    size = 0
    for key, position, row in rows:
        content = _DELETED if row is None else delimited(3, type_url + delimited(2, row) if row else type_url)
        change = Change(key, position, delimited(1, delimited(1, key.encode()) + integer(2, position) + content))
        page.changes.append(change)
        size += len(change.content)
        if size >= PAGE_BYTES_MAX or len(page.changes) == rows_max:
            page.more = True
            break


def _json(keys: Sequence[str]) -> str:
    return json.dumps([key for key in keys if "\0" not in key])  # No row has such a key, and SQLite's JSON ends there.


def _run(connection: sqlite3.Connection, statement: Compiled, **values: Any) -> Iterator[Any]:
    return connection.execute(statement.sql, statement.bind(**values))


_C = generations.c
_ACTIVE = compile_sqlite(
    select(_C.generation, _C.version, _C.filling, _C.position, _C.tombstone_floor, _C.log_id, _C.epochs).where(
        _C.projection == bindparam("projection"), _C.active, _C.shape == bindparam("shape")
    )
)


class _Statements:
    """The statements on one view's table."""

    def __init__(self, view: View[Any], generation: int) -> None:
        table = view_table(view, generation)
        key, position, row = table.c.key, table.c.position, table.c.row
        rows = select(key, position, row)
        limit: BindParameter[int] = bindparam("limit")
        wanted = key.in_(select(func.json_each(bindparam("keys")).table_valued("value").c.value))
        changes = rows.order_by(position, key).limit(limit)
        at: BindParameter[int] = bindparam("position")
        self.after_position = compile_sqlite(changes.where(position > at))
        self.after_key = compile_sqlite(changes.where(position >= at, (position > at) | (key > bindparam("key"))))
        there = rows.where(row.is_not(None)).order_by(key)
        self.first_rows = compile_sqlite(there.limit(limit))
        self.next_rows = compile_sqlite(there.where(key > bindparam("key")).limit(limit))
        self.rows_of_keys = compile_sqlite(there.where(wanted))
        self.of_keys = compile_sqlite(rows.where(wanted).order_by(position, key))
        self.changed_keys = compile_sqlite(select(key).where(wanted, position > at).order_by(position, key))


class _Thread:
    """A thread with a read-only connection, which is opened anew when the file is another one."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        self._thread = DatabaseThread(name)
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    async def run(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a function within a read transaction."""
        return await self._thread.run(self._read, read)

    async def close(self) -> None:
        """Ends the thread when it has done what it was given."""
        await self._thread.run(self._disconnect)
        await self._thread.close()

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection = self._open()
            connection.execute("BEGIN")
            result = read(connection)
            connection.execute("COMMIT")
        except Exception:
            self._disconnect()
            raise
        return result

    def _open(self) -> sqlite3.Connection:
        try:
            status = os.stat(self._path)  # noqa: PTH116 - once for every read; a Path takes thrice as long.
            file = status.st_dev, status.st_ino
        except OSError:
            file = None
        if self._connection is None or file != self._file:
            self._disconnect()
            self._file = file
            self._connection = open_read_only(
                self._path,
                busy_seconds=1.0,
                check_same_thread=False,
                cached_statements=512,
            )
            self._connection.execute("PRAGMA query_only = 1")
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
