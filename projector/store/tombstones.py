"""Tombstones: what deleted rows leave, so that watches can be resumed, and how they go when they are old.

How old a tombstone is, its position tells: now and then the time is noted at which the checkpoint was passed. Those
that lie behind a note older than the limit go, a few at a time, so that folding is not held up. Before the first of
them does, the generation's floor is raised: whoever would resume from before it is told that it is too late.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from diptych.storage.read_store_schema import Compiled, compile_sqlite, generations, marks, view_table
from projector.store.read_store_file import ReadStoreFile, transaction
from projector.store.row_writer import RowWriter

_ROWS_MAX = 500
"""Tombstones that go in one transaction."""

_PAUSE_SECONDS = 0.05
"""What folding has between two of them, at least."""

_MARKS = 100
"""Notes that are kept: a tombstone stays at most so much of the limit, and an interval, longer than it must."""

_INTERVAL_SECONDS = (1.0, 600.0)

_log = structlog.get_logger(__name__)


def steady_clock() -> Callable[[], float]:
    """A clock that begins with the wall clock's time and goes on evenly: setting that one makes nothing old at once."""
    ahead = time.time() - time.monotonic()
    return lambda: ahead + time.monotonic()


class Tombstones:
    """Notes times and removes old tombstones of one generation."""

    def __init__(
        self,
        file: ReadStoreFile,
        writer: RowWriter,
        *,
        keep_seconds: float,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._file = file
        self._writer = writer
        self._keep_seconds = keep_seconds
        self._clock = clock or steady_clock()
        self._interval = min(max(keep_seconds / _MARKS, _INTERVAL_SECONDS[0]), _INTERVAL_SECONDS[1])
        self._log = _log.bind(projection=writer.projection.name)

    async def run(self) -> None:
        """Does so for ever."""
        while True:
            try:
                await self.purge()
            except sqlite3.Error as error:
                self._log.warning("old tombstones are not removed", error=str(error))
            await asyncio.sleep(self._interval)

    async def purge(self) -> int:
        """Notes the time, and removes what is too old; returns how much."""
        statements = _Statements(self._writer)
        removed = 0
        floor = await self._file.run(self._raise_floor, statements)
        for statement in statements.remove if floor else ():
            while gone := await self._file.run(self._remove, statement, floor):
                removed += gone
                await asyncio.sleep(_PAUSE_SECONDS)
        if removed:
            self._log.info("old tombstones are removed", removed=removed, oldest_position=floor)
        return removed

    def _raise_floor(self, statements: _Statements) -> int:
        """On the database's thread: notes the time, and raises the floor to the last tombstone that is too old."""
        now = self._clock()
        connection = self._file.connection
        with transaction(self._file.connection):
            _run(connection, statements.note, position=self._writer.stored.position, time=_microseconds(now))
            ((passed,),) = _run(connection, statements.passed, time=_microseconds(now - self._keep_seconds))
            if passed is None:
                return 0
            last = [_run(connection, statement, position=passed).fetchone()[0] or 0 for statement in statements.last]
            floor = max(last, default=0)
            if floor:
                _run(connection, statements.raise_floor, floor=floor, position=floor)
            _run(connection, statements.forget, position=passed)
            return floor

    def _remove(self, statement: Compiled, floor: int) -> int:
        """On the database's thread."""
        with transaction(self._file.connection):
            return _run(self._file.connection, statement, position=floor).rowcount


class _Statements:
    """The statements on one generation."""

    def __init__(self, writer: RowWriter) -> None:
        name, generation = writer.projection.name, writer.generation
        noted = (marks.c.projection == name) & (marks.c.generation == generation)
        note = insert(marks).values(
            projection=name, generation=generation, position=bindparam("position"), time=bindparam("time")
        )
        self.note = compile_sqlite(note.on_conflict_do_nothing())
        self.passed = compile_sqlite(select(func.max(marks.c.position)).where(noted, marks.c.time <= bindparam("time")))
        self.forget = compile_sqlite(delete(marks).where(noted, marks.c.position < bindparam("position")))
        self.raise_floor = compile_sqlite(
            update(generations)
            .where(
                generations.c.projection == name,
                generations.c.generation == generation,
                generations.c.tombstone_floor < bindparam("position"),
            )
            .values(tombstone_floor=bindparam("floor"))
        )
        self.last: list[Compiled] = []
        self.remove: list[Compiled] = []
        for view in writer.projection.views:
            table = view_table(view, generation)
            old = table.c.row.is_(None) & (table.c.position <= bindparam("position"))
            self.last.append(compile_sqlite(select(func.max(table.c.position)).where(old)))
            some = select(table.c.key).where(old).limit(_ROWS_MAX)
            self.remove.append(compile_sqlite(delete(table).where(table.c.key.in_(some))))


def _run(connection: sqlite3.Connection, statement: Compiled, **values: Any) -> sqlite3.Cursor:
    return connection.execute(statement.sql, statement.bind(**values))


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
