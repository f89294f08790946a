"""The reader of rows: what the read store holds, with the checkpoint that it is true at.

Connections are read-only and each has a thread of its own. Requests for keys of one view that arrive while a select
is under way form the next batch, which waits a moment for a crowd: one select for all of them. No read transaction
outlives its statement.

Nothing is assumed to stay: the store may not exist yet, generations come and go, and the file may be replaced.
"""

from __future__ import annotations

import asyncio
import copy
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import and_, bindparam, select

from diptych.contract.identity_codec import identity_from_columns
from diptych.contract.reasons import Overloaded, ReadModelNotReady
from diptych.domain.projection import Projection, View
from diptych.domain.query import Find
from diptych.domain.refusal import Refusal
from diptych.storage.batch_window import BatchWindow
from diptych.storage.connections import open_read_only
from diptych.storage.read_store_schema import generations, parked, parked_events, shape
from diptych.storage.sql import compile_sqlite
from query_server.rows.row_source import PageRead, RowRead, RowSource, StoredEvent, StoredGeneration
from query_server.rows.statements import Statements, find_values, unpack_keyed, unpack_page

READS_MAX = 10_000
"""Reads waiting for a connection, or keys for the next select; more are refused."""

_ATTEMPTS = 4
"""How often a read looks for the generation that answers, which may just have changed, and once more."""

RECHECK_SECONDS = 0.1
"""For how long an answer that a projection is not there is repeated without looking again."""

_USUAL = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CANTOPEN)  # There is no such table, or no such file.

_log = structlog.get_logger(__name__)
T = TypeVar("T")

_resolve = compile_sqlite(
    select(generations.c.generation).where(
        generations.c.projection == bindparam("projection"),
        generations.c.active,
        generations.c.shape == bindparam("shape"),
    )
)
_list_generations = compile_sqlite(
    select(
        generations.c.projection,
        generations.c.generation,
        generations.c.version,
        generations.c.shape,
        generations.c.position,
        generations.c.log_id,
        generations.c.epochs,
        generations.c.paused,
        generations.c.parked_streams,
        generations.c.left_out_events,
        generations.c.left_out_position,
    ).where(generations.c.active)
)
_event = compile_sqlite(
    select(generations.c.generation, generations.c.position, parked.c.error)
    .select_from(
        generations.outerjoin(
            parked_events,
            and_(
                parked_events.c.projection == generations.c.projection,
                parked_events.c.generation == generations.c.generation,
                parked_events.c.position == bindparam("position"),
            ),
        ).outerjoin(
            parked,
            and_(
                parked.c.projection == parked_events.c.projection,
                parked.c.generation == parked_events.c.generation,
                parked.c.first_position == parked_events.c.first_position,
            ),
        )
    )
    .where(
        generations.c.projection == bindparam("projection"),
        generations.c.active,
        generations.c.shape == bindparam("shape"),
    )
)


class RowReader(RowSource):
    """Reads rows of the views of some projections. To be used on one event loop."""

    def __init__(self, path: Path, projections: Sequence[Projection], readers: int = 2) -> None:
        self._path = path
        self._shapes = {projection.name: shape(projection) for projection in projections}
        self._views = {p.name: [view.name for view in p.views] for p in projections}
        self._statements = Statements()
        self._generations: dict[str, int] = {}
        self._absent: dict[str, float] = {}
        self._keys: dict[str, _KeyReads] = {}
        self._file = _file_id(path)
        self.shows_commits = True  # It reads the projector's own file.
        self.store_changes = 0
        """How often the file was seen to be another one."""
        self.selects = 0
        """Selects of rows by key."""
        self.keys_read = 0
        """Keys in those selects."""
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        # With several connections one is for keys alone, so that no long list delays them.
        self._by_key: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._others = self._by_key if readers == 1 else queue.SimpleQueue[_Job | None]()
        queues = [self._by_key, *[self._others] * (readers - 1)]
        self._threads = [
            threading.Thread(target=self._work, args=(jobs,), name=f"reader-{index}", daemon=True)
            for index, jobs in enumerate(queues)
        ]
        self._queues = queues
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """Ends the threads and closes their connections."""
        for jobs in self._queues:
            jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def get(self, view: View[Any], key: str) -> asyncio.Future[RowRead]:
        """One row by its key. Raises `ReadModelNotReady`, `Overloaded`."""
        if "\0" in key:  # Where JSON ends for SQLite: such a key cannot share a select.
            return asyncio.ensure_future(self._submit(lambda store: self._get_alone(store, view, key)))
        reads = self._keys.get(view.name)
        if reads is None:
            reads = self._keys[view.name] = _KeyReads(view)
        future = self._loop.create_future()
        waiting = reads.waiting
        if len(waiting) >= READS_MAX:
            raise Overloaded(what="reads", limit=READS_MAX).with_details(retry_seconds=1)
        waiting.append((key, future))
        if not reads.under_way and (reads.sending is None or len(waiting) == reads.crowd):
            if reads.sending is not None:
                reads.sending.cancel()
            # What is handled in the same turn of the loop comes along.
            reads.sending = self._loop.call_soon(self._send, reads)
        return future

    async def find(
        self, view: View[Any], find: Find, *, limit: int, after: Sequence[Any] | None = None, total: bool = False
    ) -> PageRead:
        """Rows that match, in order, at most `limit`, after those with the values `after`: the order's and the key.

        Raises `ReadModelNotReady`, `Overloaded`.
        """

        def read(store: _Store) -> PageRead:
            values = find_values(find, after, limit)

            def statement(generation: int) -> tuple[str, tuple[Any, ...]]:
                values["projection"] = view.projection.name
                values["generation"] = generation
                compiled = self._statements.find(view, generation, find, after=after is not None, total=total)
                return compiled.sql, compiled.bind(**values)

            generation, (position, packed, keys, count) = self._read(store, view.projection.name, statement)
            return PageRead(*unpack_page(packed, keys), count, generation, position)

        return await self._submit(read)

    async def event(self, projection: str, position: int) -> StoredEvent:
        """What the active generation of a projection did with the event at a position. Raises `ReadModelNotReady`."""

        def read(store: _Store) -> StoredEvent:
            bound = _event.bind(projection=projection, position=position, shape=self._shapes[projection])
            try:
                row = store.one(self.store_changes, _event.sql, bound)
            except sqlite3.DatabaseError as error:
                store.close()
                raise self._not_ready(projection) from error
            if row is None:
                raise self._not_ready(projection)
            return StoredEvent(*row)

        return await self._submit(read)

    async def run(self, work: Callable[[], T]) -> T:
        """Runs some work on rows, off the event loop."""
        return await self._submit(lambda _: work())

    async def generations(self) -> list[StoredGeneration]:
        """The active generations that can be read; none while there is no store. Notices a replaced file."""
        return await self._submit(self._list)

    # What follows runs on the threads, but for `_send`, `_answer` and `_submit`.

    def _list(self, store: _Store) -> list[StoredGeneration]:
        file = _file_id(self._path)
        if file != self._file:
            self._file = file
            self.store_changes += 1  # Every thread opens it anew.
            self._generations.clear()
        try:
            rows = store.all(self.store_changes, _list_generations.sql, ())
        except sqlite3.DatabaseError:
            store.close()
            self._generations.clear()
            return []
        found = []
        for name, generation, version, its_shape, position, log_id, epochs, paused, *left_out in rows:
            if self._shapes.get(name) == its_shape:
                identity = identity_from_columns(log_id, epochs)
                found.append(StoredGeneration(name, generation, version, position, identity, bool(paused), *left_out))
                if self._generations.get(name, generation) != generation:
                    self._statements.forget(self._views[name], self._generations[name])
                self._generations[name] = generation
                self._absent.pop(name, None)
        return found

    def _send(self, reads: _KeyReads) -> None:
        batch = [(key, future) for key, future in reads.waiting if not future.done()]
        reads.waiting = []
        reads.sending = None
        if not batch:
            return
        reads.under_way = True
        self.selects += 1
        self.keys_read += len(batch)
        self._by_key.put(_KeyJob(reads, batch))

    def _get_alone(self, store: _Store, view: View[Any], key: str) -> RowRead:
        generation, position, rows = self.read_keys(store, view, [key])
        return RowRead(rows.get(0), generation, position)

    def read_keys(self, store: _Store, view: View[Any], keys: list[str]) -> tuple[int, int, dict[int, bytes]]:
        """Generation, position, and the rows by the index of their key."""
        projection = view.projection.name
        text = json.dumps(keys) if len(keys) > 1 else ""

        def statement(generation: int) -> tuple[str, tuple[Any, ...]]:
            one, many = self._statements.by_key(view, generation)
            if text:
                return many.sql, many.bind(keys=text, projection=projection, generation=generation)
            return one.sql, one.bind(key=keys[0], projection=projection, generation=generation)

        generation, (position, packed) = self._read(store, projection, statement)
        if text:
            return generation, position, unpack_keyed(packed)
        return generation, position, {} if packed is None else {0: packed}

    def _read(
        self, store: _Store, projection: str, statement: Callable[[int], tuple[str, tuple[Any, ...]]]
    ) -> tuple[int, tuple[Any, ...]]:
        """Runs what reads a projection on its active generation, and again if that has changed."""
        for attempt in range(_ATTEMPTS):
            generation = 0
            row: tuple[Any, ...] | None = None
            try:
                # What is remembered may be out of date, and be so again: a look at the store may have been overtaken.
                generation = self._generation(store, projection, remembered=attempt == 0)
                row = store.one(self.store_changes, *statement(generation))
            except sqlite3.DatabaseError as error:
                code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
                if code == sqlite3.SQLITE_ERROR and "no such table" not in str(error):
                    raise  # A defect of ours.
                store.close()
                if code not in _USUAL:
                    _log.warning("a read failed", projection=projection, error=str(error))
            if row is not None:
                return generation, row
            self._generations.pop(projection, None)
        raise self._not_ready(projection)

    def _generation(self, store: _Store, projection: str, *, remembered: bool) -> int:
        known = self._generations.get(projection)
        if known is not None and remembered:
            return known
        if time.monotonic() < self._absent.get(projection, 0.0):
            raise ReadModelNotReady(projection=projection)
        row = store.one(
            self.store_changes, _resolve.sql, _resolve.bind(projection=projection, shape=self._shapes[projection])
        )
        if row is None:
            raise self._not_ready(projection)
        generation: int = row[0]
        self._generations[projection] = generation
        return generation

    def _not_ready(self, projection: str) -> ReadModelNotReady:
        self._absent[projection] = time.monotonic() + RECHECK_SECONDS
        return ReadModelNotReady(projection=projection)

    async def _submit(self, work: Callable[[_Store], T]) -> T:
        if self._waiting >= READS_MAX:
            raise Overloaded(what="reads", limit=READS_MAX).with_details(retry_seconds=1)
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting += 1
        try:
            self._others.put(_OtherJob(future, work))
            return await future
        finally:
            self._waiting -= 1

    def answer_keys(self, job: _KeyJob) -> None:
        """On the loop: answers a batch, and sends the next one when its crowd is there."""
        reads = job.reads
        reads.under_way = False
        reads.crowd, seconds = BatchWindow.after(len(job.batch) + len(reads.waiting))
        if len(reads.waiting) >= reads.crowd:
            self._send(reads)
        elif reads.crowd > 1:
            reads.sending = self._loop.call_later(seconds, self._send, reads)
        error = job.error
        if error is not None:
            for _, future in job.batch:
                if not future.done():  # Each caller gets a refusal of its own, to which it adds its token.
                    future.set_exception(copy.copy(error) if isinstance(error, Refusal) else error)
            return
        rows, generation, position = job.rows, job.generation, job.position
        for index, (_, future) in enumerate(job.batch):
            if not future.done():
                future.set_result(RowRead(rows.get(index), generation, position))

    def deliver(self, callback: Callable[..., object], *arguments: Any) -> None:
        """On a thread: calls back on the loop, which may be gone."""
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            _log.debug("a read ended after its event loop")

    def _work(self, jobs: queue.SimpleQueue[_Job | None]) -> None:
        store = _Store(self._path)
        while (job := jobs.get()) is not None:
            job.run(self, store)
        store.close()


class _KeyReads:
    """The keys of one view that wait for the next select."""

    __slots__ = ("crowd", "sending", "under_way", "view", "waiting")

    def __init__(self, view: View[Any]) -> None:
        self.view = view
        self.waiting: list[tuple[str, asyncio.Future[RowRead]]] = []
        self.under_way = False
        self.crowd = 1
        self.sending: asyncio.Handle | None = None


class _KeyJob:
    __slots__ = ("batch", "error", "generation", "position", "reader", "reads", "rows")

    def __init__(self, reads: _KeyReads, batch: list[tuple[str, asyncio.Future[RowRead]]]) -> None:
        self.reads = reads
        self.batch = batch
        self.error: Exception | None = None
        self.rows: dict[int, bytes] = {}
        self.generation = 0
        self.position = 0

    def run(self, reader: RowReader, store: _Store) -> None:
        try:
            self.generation, self.position, self.rows = reader.read_keys(
                store, self.reads.view, [key for key, _ in self.batch]
            )
        except Exception as error:
            self.error = error
        reader.deliver(reader.answer_keys, self)


class _OtherJob:
    __slots__ = ("future", "work")

    def __init__(self, future: asyncio.Future[Any], work: Callable[[_Store], Any]) -> None:
        self.future = future
        self.work = work

    def run(self, reader: RowReader, store: _Store) -> None:
        if self.future.cancelled():
            return
        try:
            reader.deliver(self._succeed, self.work(store))
        except Exception as error:
            reader.deliver(self._fail, error)

    def _succeed(self, result: Any) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


_Job = _KeyJob | _OtherJob


class _Store:
    """One read-only connection, opened when it is first needed. Raises what `sqlite3` raises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self.store_changes = 0

    def one(self, file_changes: int, sql: str, parameters: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The one row that a statement gives."""
        cursor = self._open(file_changes).execute(sql, parameters)
        row: tuple[Any, ...] | None = cursor.fetchone()
        cursor.close()
        return row

    def all(self, file_changes: int, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        """All rows that a statement gives."""
        return self._open(file_changes).execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Closes the connection; the next statement opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self, file_changes: int) -> sqlite3.Connection:
        if self._connection is None or file_changes != self.store_changes:
            self.close()
            self.store_changes = file_changes
            self._connection = open_read_only(
                self._path,
                busy_seconds=1.0,
                check_same_thread=False,  # A thread keeps to itself; only closing may come from elsewhere.
                cached_statements=512,
            )
            self._connection.execute("PRAGMA query_only = 1")
            self._connection.execute("PRAGMA cache_size = -16384")
        return self._connection


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
