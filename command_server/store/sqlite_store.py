"""The event store on SQLite: one file, one writer.

The connection that writes has a thread of its own, on which a whole batch is one function; another reads, so that
a subscriber that is behind never stands in the writer's way. WAL with `synchronous=FULL`: a commit that returned
is on the disk. A lock beside the file keeps a second command server out.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from sqlalchemy import bindparam, func, insert, select, tuple_, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.schema import CreateIndex, CreateTable

from command_server.store import schema
from command_server.store.event_store import (
    CommitNotKnown,
    Committed,
    Decided,
    EventStore,
    History,
    Loaded,
    Page,
    ParkedInput,
    Reads,
    Request,
    Snapshot,
    StoreUnavailable,
    StreamHead,
    Work,
    WorkKey,
    WorkKind,
)
from diptych.contract.frames import frame
from diptych.contract.token import Epoch, LogIdentity
from diptych.server import failpoints
from diptych.server.errors import StartError
from diptych.storage.database_thread import DatabaseThread
from diptych.storage.file_lock import FileLock
from diptych.storage.read_store_schema import Compiled, Rows, compile_sqlite
from diptych.storage.wal_checkpoints import AUTOCHECKPOINT_PAGES, WalCheckpoints

T = TypeVar("T")

_NOT_SYNCED = ("SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC")
"""Errors of a commit that has been written and may outlive a crash, or not."""

_CHECKPOINT_PAGES = 1000
"""Commits wait for the disk while it syncs what was copied back: 40 ms where that is 4,000 pages."""

_SCAN_EVENTS_MAX = 20_000
"""How many events a filtered read looks at before it gives an answer, however little matched."""


def _names(parameter: str) -> Any:
    """A list of strings as one JSON parameter, so that the statement's text does not depend on its length."""
    return select(func.json_each(bindparam(parameter)).table_valued("value").c.value)


class _ByName(NamedTuple):
    """What reads the rows of one name, or of a list of names, which takes twice as long for one."""

    one: Compiled
    many: Compiled

    @classmethod
    def of(cls, name: Any, *columns: Any) -> Self:
        rows = select(name, *columns)
        return cls(
            compile_sqlite(rows.where(name == bindparam("name"))), compile_sqlite(rows.where(name.in_(_names("names"))))
        )

    def read(self, connection: sqlite3.Connection, names: Collection[str]) -> list[Any]:
        """The rows, each with its name first."""
        if len(names) > 1:
            return connection.execute(self.many.sql, (json.dumps(list(names)),)).fetchall()
        return [row for name in names for row in connection.execute(self.one.sql, (name,))]


def _upsert(table: Any, *key: str) -> Compiled:
    statement = upsert(table)
    changed = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in key}
    return compile_sqlite(statement.on_conflict_do_update(index_elements=key, set_=changed))


def _delete(table: Any, *key: str) -> Compiled:
    return compile_sqlite(table.delete().where(*(table.c[name] == bindparam(f"old_{name}") for name in key)))


class _Statements:
    """Every statement, compiled once."""

    def __init__(self) -> None:
        log, events, streams = schema.log.c, schema.events.c, schema.streams.c
        requests, uniques, snapshots = schema.requests.c, schema.unique_values.c, schema.snapshots.c
        self.advance = compile_sqlite(
            update(schema.log)
            .where(log.epoch == bindparam("old_epoch"))
            .values(head=log.head + bindparam("count"))
            .returning(log.head)
        )
        self.streams = _ByName.of(streams.name, streams.stream, streams.version, streams.position)
        self.requests = _ByName.of(requests.key, requests.digest, requests.stream, requests.version, requests.position)
        self.holders = _ByName.of(uniques.key, uniques.holder)
        self.snapshot = compile_sqlite(
            select(snapshots.version, snapshots.shape, snapshots.state).where(snapshots.stream == bindparam("stream"))
        )
        self.history = compile_sqlite(
            select(events.frame)
            .where(events.stream == bindparam("stream"), events.version > bindparam("after"))
            .order_by(events.version)
        )
        self.insert_events = Rows(compile_sqlite(insert(schema.events)))
        self.put_streams = Rows(_upsert(schema.streams, "name"))
        self.put_requests = Rows(compile_sqlite(insert(schema.requests)))
        self.put_uniques = Rows(_upsert(schema.unique_values, "key"))
        self.delete_unique = compile_sqlite(schema.unique_values.delete().where(uniques.key == bindparam("old_key")))
        self.put_snapshot = _upsert(schema.snapshots, "stream")
        after = events.position > bindparam("after")
        self.read_log = compile_sqlite(
            select(events.position, events.frame).where(after).order_by(events.position).limit(bindparam("count"))
        )
        self.read_log_types = compile_sqlite(
            select(events.position, events.frame)
            .where(after, events.position <= bindparam("until"), events.type.in_(_names("types")))
            .order_by(events.position)
            .limit(bindparam("count"))
        )
        self.frame_at = compile_sqlite(select(events.frame).where(events.position == bindparam("at")))
        self.last_position = compile_sqlite(select(func.max(events.position)))
        of_stream = events.stream == select(streams.stream).where(streams.name == bindparam("name")).scalar_subquery()
        self.read_stream = compile_sqlite(
            select(events.frame)
            .where(of_stream, events.version >= bindparam("first"))
            .order_by(events.version)
            .limit(bindparam("count"))
        )
        self.position_of = compile_sqlite(
            select(events.position).where(of_stream, events.version == bindparam("version"))
        )
        work, marks, parked = schema.process_work, schema.process_marks, schema.parked_inputs
        self.open_work = compile_sqlite(insert(work))
        self.settle_work = _delete(work, "position", "ordinal")
        key = tuple_(work.c.position, work.c.ordinal)
        self.read_work = compile_sqlite(
            select(work)
            .where(key > tuple_(bindparam("position"), bindparam("ordinal")))
            .order_by(work.c.position, work.c.ordinal)
            .limit(bindparam("count"))
        )
        self.marks = compile_sqlite(select(marks))
        self.put_mark = _upsert(marks, "process")
        of_parked = ("process", "instance", "position", "ordinal")
        self.parked = compile_sqlite(select(parked).order_by(*(parked.c[name] for name in of_parked)))
        self.put_parked = _upsert(parked, *of_parked)
        self.delete_parked = _delete(parked, *of_parked)


class SqliteEventStore(EventStore):
    """The log in one SQLite file. `owner` is what the lock file says of this server."""

    def __init__(self, path: Path, owner: str = "") -> None:
        self._path = path
        self._lock = FileLock(path.with_name(path.name + ".lock"), owner)
        self._writer = DatabaseThread("log-writer")
        self._reader = DatabaseThread("log-reader")
        self._checkpoints = WalCheckpoints(path, "log-checkpoints", _CHECKPOINT_PAGES)
        self._sql = _Statements()
        self._write: sqlite3.Connection | None = None
        self._read: sqlite3.Connection | None = None

    async def open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except OSError as error:
            raise StoreUnavailable(str(error)) from error
        try:
            self._write = await self._on(self._writer, self._open_for_writing)
            self._read = await self._on(self._reader, self._open_for_reading)
        except BaseException:
            self._lock.release()
            raise

    async def close(self) -> None:
        await asyncio.to_thread(self._checkpoints.close)
        for thread, connection in ((self._reader, self._read), (self._writer, self._write)):
            if connection is not None:
                await thread.run(connection.close)
            await thread.close()
        self._read = self._write = None
        self._lock.release()

    async def commit(self, reads: Reads, decide: Callable[[Loaded], Decided]) -> Committed:
        committed = await self._on(self._writer, self._commit, reads, decide)
        self.head = committed.first_position + len(committed.frames) - 1
        return committed

    async def read_log(self, after: int, *, types: Collection[str] = (), events_max: int, bytes_max: int) -> Page:
        return await self._on(self._reader, self._read_log, after, types, events_max, bytes_max)

    async def read_stream(
        self, stream: str, from_version: int, events_max: int, bytes_max: int = 1 << 20
    ) -> Sequence[bytes]:
        return await self._on(self._reader, self._read_stream, stream, from_version, events_max, bytes_max)

    async def position_of(self, stream: str, version: int) -> int | None:
        rows = await self._rows(self._sql.position_of, name=stream, version=version)
        return rows[0][0] if rows else None

    async def frame_at(self, position: int) -> bytes | None:
        rows = await self._rows(self._sql.frame_at, at=position)
        return rows[0][0] if rows else None

    async def read_work(self, after: WorkKey, count: int) -> Sequence[Work]:
        position, ordinal = after
        rows = await self._rows(self._sql.read_work, position=position, ordinal=ordinal, count=count)
        return [Work(at, nth, process, id, WorkKind(kind), due) for at, nth, process, id, kind, due in rows]

    async def process_marks(self) -> Mapping[str, int]:
        return dict(await self._rows(self._sql.marks))

    async def put_process_marks(self, marks: Mapping[str, int]) -> None:
        await self._on(self._writer, self._write_rows, self._sql.put_mark, list(marks.items()))

    async def parked_inputs(self) -> Sequence[ParkedInput]:
        return [ParkedInput(*row) for row in await self._rows(self._sql.parked)]

    async def put_parked(self, inputs: Sequence[ParkedInput]) -> None:
        await self._on(self._writer, self._write_rows, self._sql.put_parked, list(inputs))

    async def delete_parked(self, inputs: Sequence[ParkedInput]) -> None:
        await self._on(self._writer, self._write_rows, self._sql.delete_parked, [one[:4] for one in inputs])

    async def _on(self, thread: DatabaseThread, call: Callable[..., T], *arguments: Any) -> T:
        try:
            return await thread.run(call, *arguments)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{getattr(error, 'sqlite_errorname', 'SQLITE_ERROR')}: {error}") from error

    async def _rows(self, statement: Compiled, **values: Any) -> list[Any]:
        def call() -> list[Any]:
            assert self._read is not None
            return self._read.execute(statement.sql, statement.bind(**values)).fetchall()

        return await self._on(self._reader, call)

    def _open_for_writing(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, cached_statements=256)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-32768")
        connection.execute(f"PRAGMA wal_autocheckpoint={AUTOCHECKPOINT_PAGES}")
        connection.execute("BEGIN IMMEDIATE")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            self._create(connection)
        elif not tables >= set(schema.metadata.tables) - schema.TABLES_SINCE_2:
            raise StartError(f"{self._path} is an SQLite file of something else, and no log.")
        elif not tables & schema.TABLES_SINCE_2:
            self._create_tables(connection, schema.TABLES_SINCE_2)
            connection.execute("UPDATE log SET schema_version = 2 WHERE schema_version = 1")
        connection.execute("COMMIT")
        version, log_id, head = connection.execute("SELECT schema_version, log_id, head FROM log").fetchone()
        if version != schema.SCHEMA_VERSION:
            raise StartError(
                f"The log {self._path} has schema version {version}, and this program has {schema.SCHEMA_VERSION}."
            )
        rows = connection.execute("SELECT epoch, first_position FROM epochs ORDER BY epoch").fetchall()
        self.identity = LogIdentity(log_id, [Epoch(*row) for row in rows])
        self.head = head
        return connection

    @staticmethod
    def _create_tables(connection: sqlite3.Connection, names: Collection[str]) -> None:
        dialect = sqlite.dialect()
        for name in names:
            table = schema.metadata.tables[name]
            connection.execute(str(CreateTable(table).compile(dialect=dialect)))
            for index in table.indexes:
                connection.execute(str(CreateIndex(index).compile(dialect=dialect)))

    def _create(self, connection: sqlite3.Connection) -> None:
        self._create_tables(connection, schema.metadata.tables)
        identity = LogIdentity.new()
        connection.execute(
            "INSERT INTO log (singleton, schema_version, log_id, epoch, head) VALUES (1, ?, ?, ?, 0)",
            (schema.SCHEMA_VERSION, identity.log_id, identity.epoch),
        )
        connection.executemany("INSERT INTO epochs (epoch, first_position) VALUES (?, ?)", identity.epochs)

    def _open_for_reading(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, cached_statements=64)
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA busy_timeout=5000")
        return connection

    def _commit(self, reads: Reads, decide: Callable[[Loaded], Decided]) -> Committed:
        def write(connection: sqlite3.Connection) -> Committed:
            written = self._commit_in_transaction(connection, reads, decide)
            failpoints.hit("commit.recorded")
            return written

        committed = self._in_transaction(write)
        failpoints.hit("commit.committed")
        return committed

    def _write_rows(self, statement: Compiled, rows: Sequence[Sequence[Any]]) -> None:
        self._in_transaction(lambda connection: connection.executemany(statement.sql, rows))

    def _in_transaction(self, write: Callable[[sqlite3.Connection], T]) -> T:
        assert self._write is not None
        connection = self._write
        if connection.in_transaction:  # A failing disk may fail the rollback, too.
            connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        try:
            written = write(connection)
            self._end(connection)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._checkpoints.written(connection)
        return written

    @staticmethod
    def _end(connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            # All is written but for what the disk has of it: taken back here, and found again after a crash.
            if getattr(error, "sqlite_errorname", "") in _NOT_SYNCED:
                raise CommitNotKnown(f"{error.sqlite_errorname}: {error}") from error
            raise

    def _commit_in_transaction(
        self, connection: sqlite3.Connection, reads: Reads, decide: Callable[[Loaded], Decided]
    ) -> Committed:
        ids: dict[str, int] = {}
        heads: dict[str, StreamHead] = {}
        for name, stream, version, position in self._sql.streams.read(connection, reads.streams):
            ids[name] = stream
            heads[name] = StreamHead(version, position)
        requests = {key: Request(*rest) for key, *rest in self._sql.requests.read(connection, reads.requests)}
        histories = {
            name: self._history(connection, name, ids[name], reads)
            for name, head in heads.items()
            if head.version != reads.streams[name]
        }
        holders: dict[str, str | None] = {}
        decided = decide(Loaded(heads, histories, requests, holders))
        while decided.wanted:
            found = dict(self._sql.holders.read(connection, decided.wanted))
            holders.update((key, found.get(key)) for key in decided.wanted)
            decided = decide(Loaded(heads, histories, requests, holders))
        failpoints.hit("commit.decided")
        return self._record(connection, decided, ids)

    def _history(self, connection: sqlite3.Connection, name: str, stream: int, reads: Reads) -> History:
        snapshot = None
        after = 0
        row = connection.execute(self._sql.snapshot.sql, (name,)).fetchone()
        if row is not None and row[1] == reads.shapes.get(name.partition("/")[0]):
            snapshot = Snapshot(*row)
            after = snapshot.version
        values = self._sql.history.bind(stream=stream, after=after)
        return History(snapshot, [row[0] for row in connection.execute(self._sql.history.sql, values)])

    def _record(self, connection: sqlite3.Connection, decided: Decided, ids: Mapping[str, int]) -> Committed:
        count = len(decided.events)
        first = self.head + 1
        frames: list[bytes] = []
        if count:
            values = self._sql.advance.bind(old_epoch=self.identity.epoch, count=count)
            row = connection.execute(self._sql.advance.sql, values).fetchone()
            if row is None:
                raise StoreUnavailable("the log has begun a newer epoch")
            first = row[0] - count + 1
            frames = self._insert_events(connection, decided, ids, first)
        if decided.requests:
            self._sql.put_requests.insert(
                connection,
                [
                    (key, digest, stream, version, position if position >= 0 else first - 1 - position)
                    for key, (digest, stream, version, position) in decided.requests.items()
                ],
            )
        if decided.claims:
            self._claim(connection, decided.claims)
        for stream_name, (version, shape, state) in decided.snapshots.items():
            connection.execute(
                self._sql.put_snapshot.sql,
                self._sql.put_snapshot.bind(stream=stream_name, version=version, shape=shape, state=state),
            )
        if decided.opened:
            connection.executemany(
                self._sql.open_work.sql,
                [(position if position >= 0 else first - 1 - position, *rest) for position, *rest in decided.opened],
            )
        if decided.settled:
            connection.executemany(self._sql.settle_work.sql, list(decided.settled))
        return Committed(first, frames)

    def _insert_events(
        self, connection: sqlite3.Connection, decided: Decided, ids: Mapping[str, int], first: int
    ) -> list[bytes]:
        frames: list[bytes] = []
        rows: list[tuple[int, int, int, str, bytes]] = []
        changed: dict[str, tuple[str, int, int, int]] = {}
        position = first
        for name, version, kind, body in decided.events:
            stream = ids.get(name)
            if stream is None:
                known = changed.get(name)
                stream = position if known is None else known[1]
            one = frame(position, body)
            frames.append(one)
            rows.append((position, stream, version, kind, one))
            changed[name] = (name, stream, version, position)
            position += 1
        self._sql.insert_events.insert(connection, rows)
        self._sql.put_streams.insert(connection, list(changed.values()))
        return frames

    def _claim(self, connection: sqlite3.Connection, claims: Mapping[str, str | None]) -> None:
        released = [(key,) for key, holder in claims.items() if holder is None]
        taken = [(key, holder) for key, holder in claims.items() if holder is not None]
        connection.executemany(self._sql.delete_unique.sql, released)
        self._sql.put_uniques.insert(connection, taken)

    def _read_stream(self, stream: str, from_version: int, events_max: int, bytes_max: int) -> Sequence[bytes]:
        assert self._read is not None
        values = self._sql.read_stream.bind(name=stream, first=from_version, count=events_max)
        cursor = self._read.execute(self._sql.read_stream.sql, values)
        frames: list[bytes] = []
        size = 0
        for (one,) in cursor:
            size += len(one)
            if frames and size > bytes_max:
                break
            frames.append(one)
        cursor.close()
        return frames

    def _read_log(self, after: int, types: Collection[str], events_max: int, bytes_max: int) -> Page:
        assert self._read is not None
        until = after
        if types:
            last = self._read.execute(self._sql.last_position.sql).fetchone()[0] or 0
            until = min(after + _SCAN_EVENTS_MAX, last)
            values = self._sql.read_log_types.bind(
                after=after, until=until, types=json.dumps(list(types)), count=events_max
            )
            cursor = self._read.execute(self._sql.read_log_types.sql, values)
        else:
            cursor = self._read.execute(self._sql.read_log.sql, self._sql.read_log.bind(after=after, count=events_max))
        frames: list[bytes] = []
        position = after
        size = 0
        for at, one in cursor:
            size += len(one)
            if frames and size > bytes_max:
                break
            frames.append(one)
            position = at
        cursor.close()
        if not types or len(frames) == events_max or size > bytes_max:
            return Page(frames, position, frames[-1] if frames else b"")
        if until <= after:
            return Page((), after, b"")
        row = self._read.execute(self._sql.frame_at.sql, (until,)).fetchone()
        return Page(frames, until, row[0])
