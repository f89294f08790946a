"""The event store on SQLite: one file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from command_server.store import event_types, sqlite_commit, sqlite_reads, sqlite_requests, statements
from command_server.store.event_store import EventStore
from command_server.store.records import (
    Committed,
    Decided,
    Loaded,
    LogHead,
    Page,
    ParkedInput,
    ParkedKey,
    Reads,
    Work,
    WorkKey,
    WorkKind,
)
from command_server.store.sqlite_database import SqliteDatabase, read_identity
from command_server.store.unique_refold import Refolded, refold_uniques
from diptych.contract.token import LogIdentity
from diptych.domain.aggregate import Aggregate
from diptych.server import failpoints

_POLL_SECONDS = 0.1
"""Interval at which `beyond` reads the head beside other writers. SQLite has no notification of commits."""

_LONE_POLL_SECONDS = 0.5
"""The same for the only writer. Its commits are published directly; `beyond` finds only one of unknown outcome."""


class SqliteEventStore(EventStore):
    """The log in one SQLite file.

    Args:
        path: the file; it is created with its folder if it does not exist.
        owner: the server's address, which the lock file shows to a second server.
        exclusive: False only in tests, where two stores write one file; then no lock is taken.
    """

    def __init__(self, path: Path, owner: str = "", *, exclusive: bool = True) -> None:
        self._database = SqliteDatabase(path, owner, exclusive=exclusive)
        self._identity: LogIdentity
        """Identity as of the last read of the head."""
        self._poll_seconds = _LONE_POLL_SECONDS if exclusive else _POLL_SECONDS
        self._epoch = 0
        """Epoch in which the log was opened; the store commits in no other."""

    async def open(self) -> None:
        self._identity = await self._database.open()
        self._epoch = self._identity.epoch

    async def close(self) -> None:
        await self._database.close()

    def check_files(self) -> None:
        self._database.check_files()

    async def head(self) -> LogHead:
        return await self._database.read_head(self._read_head)

    async def beyond(self, position: int, seconds: float) -> LogHead:
        time = asyncio.get_running_loop().time
        until = time() + seconds
        while True:
            head = await self.head()
            left = until - time()
            if head.position > position or left <= 0:
                return head
            await asyncio.sleep(min(left, self._poll_seconds))

    async def commit(self, reads: Reads, decide: Callable[[Loaded], Decided]) -> Committed:
        return await self._database.on_writer_thread(self._commit, reads, decide)

    async def read_log(self, after: int, *, types: Collection[str] = (), events_max: int, bytes_max: int) -> Page:
        return await self._database.read(sqlite_reads.read_log, after, types, events_max, bytes_max)

    async def read_stream(
        self, stream: str, from_version: int, events_max: int, bytes_max: int = 1 << 20
    ) -> Sequence[bytes]:
        return await self._database.read(sqlite_reads.read_stream, stream, from_version, events_max, bytes_max)

    async def position_of(self, stream: str, version: int) -> int | None:
        rows = await self._database.rows(statements.POSITION_OF, name=stream, version=version)
        return rows[0][0] if rows else None

    async def frame_at(self, position: int) -> bytes | None:
        rows = await self._database.rows(statements.FRAME_AT, at=position)
        return rows[0][0] if rows else None

    async def read_work(self, after: WorkKey, count: int) -> Sequence[Work]:
        position, ordinal = after
        return _works(await self._database.rows(statements.READ_WORK, position=position, ordinal=ordinal, count=count))

    async def read_timeouts(self, due: int, after: WorkKey, count: int) -> Sequence[Work]:
        position, ordinal = after
        values = {"due": due, "position": position, "ordinal": ordinal, "count": count}
        return _works(await self._database.rows(statements.READ_TIMEOUTS, **values))

    async def count_running(self, process: str) -> int:
        rows = await self._database.rows(statements.COUNT_RUNNING, process=process)
        count: int = rows[0][0]
        return count

    async def take_event_types(self, types: Collection[str]) -> Sequence[tuple[str, int]]:
        return await self._database.write(event_types.take_event_types, types)

    async def refold_uniques(
        self, aggregates: Collection[Aggregate[Any]], *, everything: bool = False
    ) -> Sequence[Refolded]:
        return await self._database.write(partial(refold_uniques, everything=everything), aggregates)

    async def request_times(self, after: str, count: int) -> Sequence[tuple[str, int]]:
        return await self._database.rows(statements.REQUEST_TIMES, after=after, count=count)

    async def forget_requests(self, keys: Collection[str], accepted_before: int) -> int:
        return await self._database.write(sqlite_requests.forget_requests, keys, accepted_before)

    async def forgotten_before(self) -> int:
        return await self._database.read(sqlite_requests.forgotten_before)

    async def process_marks(self) -> Mapping[str, int]:
        return dict(await self._database.rows(statements.MARKS))

    async def put_process_marks(self, marks: Mapping[str, int]) -> None:
        await self._database.write_rows(statements.PUT_MARK, marks.items())

    async def parked_inputs(self) -> Sequence[ParkedInput]:
        return [ParkedInput(*row) for row in await self._database.rows(statements.PARKED)]

    async def put_parked(self, inputs: Sequence[ParkedInput]) -> None:
        await self._database.write_rows(statements.PUT_PARKED, inputs)

    async def delete_parked(self, keys: Sequence[ParkedKey]) -> None:
        await self._database.write_rows(statements.DELETE_PARKED, keys)

    def _commit(self, reads: Reads, decide: Callable[[Loaded], Decided]) -> Committed:
        committed = self._database.in_transaction(sqlite_commit.commit, self._epoch, reads, decide)
        failpoints.hit("commit.committed")
        return committed

    def _read_head(self, connection: sqlite3.Connection) -> LogHead:
        epoch, position = connection.execute(statements.HEAD.sql).fetchone()
        if epoch != self._identity.epoch:
            self._identity = read_identity(connection)
        return LogHead(self._identity, position)


def _works(rows: Sequence[Any]) -> Sequence[Work]:
    return [Work(at, nth, process, id, WorkKind(kind), due) for at, nth, process, id, kind, due in rows]
