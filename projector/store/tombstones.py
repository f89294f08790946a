"""Tombstones: records of deleted rows, by which watches resume, and their removal when they have expired.

A tombstone has the position of its deletion, and marks say when the checkpoint passed a position. So:

1. Now and then a mark records the time and the checkpoint.
2. The last mark older than the limit gives the position through which tombstones have expired.
3. The generation's floor is raised to the last expired tombstone. A watch that would resume below it is refused.
4. The expired tombstones are deleted a few at a time, so that folding does not wait long.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable

import structlog
from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from diptych.domain.projection import Projection
from diptych.storage.errors import LeaseLostError, ReadStoreError
from diptych.storage.read_store import GenerationStore
from diptych.storage.read_store_schema import generations, marks, view_table
from diptych.storage.sql import Compiled, compile_sqlite
from projector.store.sqlite_connection import execute

REMOVE_ROWS_MAX = 500
"""Tombstones that one transaction deletes."""

_PAUSE_SECONDS = 0.05
"""Least pause between two of these transactions, for folding."""

_MARKS_MAX = 100
"""Marks within the limit. A tombstone stays too long by 1/100 of the limit and one interval at most."""

_INTERVAL_SECONDS = (1.0, 600.0)
"""Least and greatest interval between two marks."""

_log = structlog.get_logger(__name__)


def steady_clock() -> Callable[[], float]:
    """Return a clock that starts at the wall clock's time and runs evenly: setting the wall clock expires nothing."""
    ahead = time.time() - time.monotonic()
    return lambda: ahead + time.monotonic()


class Tombstones:
    """Removes expired tombstones of one generation, on any database."""

    def __init__(
        self, store: GenerationStore, *, keep_seconds: float, clock: Callable[[], float] | None = None
    ) -> None:
        """Prepare the removal.

        Args:
            store: The generation.
            keep_seconds: Time from a row's deletion until its tombstone expires.
            clock: Seconds since 1970; None: a clock that runs evenly.
        """
        self._store = store
        self._keep_seconds = keep_seconds
        self._clock = clock or steady_clock()
        self._interval = min(max(keep_seconds / _MARKS_MAX, _INTERVAL_SECONDS[0]), _INTERVAL_SECONDS[1])
        self._log = _log.bind(projection=store.projection.name)

    async def run(self) -> None:
        """Remove expired tombstones until cancelled, or until another projector has taken over."""
        while True:
            try:
                await self.purge()
            except ReadStoreError as error:
                self._log.warning("tombstones not removed, retrying", error=str(error))
            except LeaseLostError as error:
                self._log.warning("tombstones not removed", error=str(error))
                return
            await asyncio.sleep(self._interval)

    async def purge(self) -> int:
        """Record a mark and remove the expired tombstones; return their number.

        Raises:
            LeaseLostError: Another leader has taken over.
            ReadStoreError: The store can't be written now.
        """
        now = self._clock()
        removed = 0
        floor = await self._store.raise_floor(now, now - self._keep_seconds)
        while floor and (count := await self._store.remove_tombstones(floor)):
            removed += count
            await asyncio.sleep(_PAUSE_SECONDS)
        if removed:
            self._log.info("tombstones removed", removed=removed, floor=floor)
        return removed


class TombstoneStatements:
    """Statements on the tombstones of one generation, on SQLite. For the database's thread, in a transaction."""

    def __init__(self, projection: Projection, generation: int) -> None:
        name = projection.name
        of_generation = (marks.c.projection == name) & (marks.c.generation == generation)
        mark = insert(marks).values(
            projection=name, generation=generation, position=bindparam("position"), time=bindparam("time")
        )
        self._mark = compile_sqlite(mark.on_conflict_do_nothing())
        self._passed = compile_sqlite(
            select(func.max(marks.c.position)).where(of_generation, marks.c.time <= bindparam("time"))
        )
        self._delete_marks = compile_sqlite(
            delete(marks).where(of_generation, marks.c.position < bindparam("position"))
        )
        self._raise_floor = compile_sqlite(
            update(generations)
            .where(
                generations.c.projection == name,
                generations.c.generation == generation,
                generations.c.tombstone_floor < bindparam("position"),
            )
            .values(tombstone_floor=bindparam("floor"))
        )
        self._last: list[Compiled] = []
        self._remove: list[Compiled] = []
        for view in projection.views:
            table = view_table(view, generation)
            expired = table.c.row.is_(None) & (table.c.position <= bindparam("position"))
            self._last.append(compile_sqlite(select(func.max(table.c.position)).where(expired)))
            some = select(table.c.key).where(expired).limit(REMOVE_ROWS_MAX)
            self._remove.append(compile_sqlite(delete(table).where(table.c.key.in_(some))))

    def raise_floor(self, connection: sqlite3.Connection, position: int, now: float, expired: float) -> int:
        """Record a mark and raise the floor; return it, or 0 if no tombstone has expired.

        Args:
            connection: Connection with an open transaction.
            position: The stored checkpoint.
            now: Seconds since 1970.
            expired: Seconds since 1970 up to which deleted rows have expired tombstones.
        """
        execute(connection, self._mark, position=position, time=_microseconds(now))
        ((passed,),) = execute(connection, self._passed, time=_microseconds(expired))
        if passed is None:
            return 0
        floor = max(
            (execute(connection, statement, position=passed).fetchone()[0] or 0 for statement in self._last), default=0
        )
        if floor:
            execute(connection, self._raise_floor, floor=floor, position=floor)
        execute(connection, self._delete_marks, position=passed)
        return floor

    def remove(self, connection: sqlite3.Connection, floor: int) -> int:
        """Delete some tombstones of one view at or below the floor; return their number, 0 if none is left."""
        for statement in self._remove:
            removed = execute(connection, statement, position=floor).rowcount
            if removed:
                return removed
        return 0


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
