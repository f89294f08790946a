"""The three servers with something planted in them: `python -m tests.history.programs PLANT[,PLANT...] SERVER ...`.

A plant is `name` or `name@number`. Bugs break a promise, so that it is seen that the judge catches them; troubles
are what a server must live with, such as a clock that is set while it runs. Nothing of this is in the product: each
plant wraps a part of it by name, and fails at once if that part is no longer there.
"""

from __future__ import annotations

import datetime
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from diptych.cli import main

_plants: dict[str, Callable[[int], None]] = {}


def plant(function: Callable[[int], None]) -> Callable[[int], None]:
    """Registers a plant under its name, with `-` for `_`."""
    _plants[function.__name__.replace("_", "-")] = function
    return function


def wrap(owner: Any, name: str, around: Callable[[Any], Any]) -> None:
    """Replaces something of a class or module by something around it."""
    setattr(owner, name, around(getattr(owner, name)))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Troubles.


@plant
def clock_steps(number: int) -> None:
    """Every so many milliseconds the wall clock is set, up to two days forth or back; the monotonic one is not."""
    from command_server import writer
    from diptych.domain import ids
    from projector.store import tombstones
    from query_server.queries import cached_list

    began, rng = time.monotonic(), random.Random(number)
    offsets = [0.0]

    class Stepping(datetime.datetime):
        """A `datetime` whose `now` is by that clock."""

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(clock.time(), tz)

    class Clock:
        """The module `time`, with that clock. Only what is ours reads it: gRPC reads the C library's as well."""

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        @staticmethod
        def time() -> float:
            step = int((time.monotonic() - began) * 1000 / number)
            while len(offsets) <= step:
                offsets.append(rng.uniform(-172_800.0, 172_800.0))
            return time.time() + offsets[step]

        @staticmethod
        def time_ns() -> int:
            return int(clock.time() * 1e9)

    clock = Clock()
    for module in (ids, tombstones):
        wrap(module, "time", lambda _: clock)
    for other in (writer, cached_list):
        wrap(other, "datetime", lambda _: Stepping)


def _with_frames(change: Callable[[Sequence[bytes], int], Sequence[bytes]]) -> None:
    """Changes what a subscriber of the feed is sent: each frame, with its number, becomes those that are returned."""
    from projector.feed.feed import Feed

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        async def follow(self: Any) -> Any:
            number = 0
            async for frame in original(self):
                number += 1
                for one in change([frame], number):
                    yield one

        return follow

    wrap(Feed, "follow", around)


@plant
def feed_dropped(number: int) -> None:
    """Every so many messages of the feed one is lost, but for the first."""
    _with_frames(lambda frames, count: [] if count > 1 and count % number == 0 else frames)


@plant
def feed_doubled(number: int) -> None:
    """Every so many messages of the feed one comes twice."""
    _with_frames(lambda frames, count: [*frames, *frames] if count % number == 0 else frames)


@plant
def feed_late(number: int) -> None:
    """Every so many messages of the feed one comes again after the next."""
    held: list[bytes] = []

    def change(frames: Sequence[bytes], count: int) -> Sequence[bytes]:
        again = [*frames, *held]
        held[:] = frames if count % number == 0 else []
        return again

    _with_frames(change)


# Bugs of the projector.


@plant
def switch_too_early(number: int) -> None:
    """A new generation takes over when it has so many events, and never gets those that came until then."""
    from diptych.storage.read_store import Generation
    from projector.generation.follower import Follower
    from projector.projection_runner import Line

    async def reach(self: Any, other: Any) -> None:
        return None

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        async def apply(self: Any, batch: Any) -> None:
            if self.answering or self.applied_position < number:
                await original(self, batch)

        return apply

    wrap(Follower, "_apply", around)
    wrap(Follower, "reach", lambda original: reach)
    wrap(Line, "_near", lambda original: lambda self, build, least: build.follower.applied_position >= number)
    setattr(Generation, "position", property(lambda self: 0))  # noqa: B010 - so that nobody objects.


def _with_events(change: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
    from projector.store.row_writer import RowWriter

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, events, through: original(self, change(events), through)

    wrap(RowWriter, "commit", around)


@plant
def skip_event(number: int) -> None:
    """Every so many positions an event is not folded."""
    _with_events(lambda events: [event for event in events if event.position % number])


@plant
def fold_twice(number: int) -> None:
    """Every so many positions an event is folded twice."""
    _with_events(lambda events: [e for event in events for e in [event] * (1 if event.position % number else 2)])


@plant
def checkpoint_before_rows(number: int) -> None:
    """The checkpoint is committed so many milliseconds before the rows that it speaks of."""
    from projector.store.sqlite_read_store import SqliteReadStore

    class Early:
        """A connection that commits the checkpoint first."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self._connection = connection
            self._rows: list[tuple[str, list[Any]]] = []

        def executemany(self, sql: str, rows: Any) -> None:
            self._rows.append((sql, list(rows)))

        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            cursor = self._connection.execute(sql, *parameters)
            if sql == "COMMIT" and self._rows:
                threading.Event().wait(number / 1000)
                self._connection.execute("BEGIN IMMEDIATE")
                for statement, rows in self._rows:
                    self._connection.executemany(statement, rows)
                self._rows.clear()
                self._connection.execute("COMMIT")
            return cursor

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(self: Any) -> None:
            original(self)
            self.connection = Early(self.connection)

        return connect

    wrap(SqliteReadStore, "_connect", around)


# Bugs of the query server.


@plant
def fresh_by_one_less(_: int) -> None:
    """A read is taken for fresh one event too early, and says that it is fresh."""
    from query_server.freshness.fresh_read import FreshReads

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        async def read(self: Any, tracked: Any, required: int, *how: Any, **more: Any) -> Any:
            result, position = await original(self, tracked, required - 1, *how, **more)
            return result, max(position, required)

        return read

    wrap(FreshReads, "read", around)


@plant
def token_unheeded(_: int) -> None:
    """Tokens are ignored."""
    from query_server.queries import combined, find, get

    for module in (combined, find, get):
        wrap(module, "requirement", lambda original: lambda request, context: None)


@plant
def trailer_too_low(_: int) -> None:
    """Answers carry a token one lower than they should."""
    from diptych.contract.token import Token
    from diptych.server import status as statuses

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def trailers_of(token: str, status: Any = None) -> Any:
            if token and status is None:
                parsed = Token.parse(token)
                token = str(parsed._replace(position=max(parsed.position - 1, 0)))
            return original(token, status)

        return trailers_of

    wrap(statuses, "trailers_of", around)


@plant
def row_goes_back(number: int) -> None:
    """Every so many answers by key are of an old row, under the new position."""
    from query_server.rows.row_reader import RowReader

    old: dict[tuple[str, str], bytes] = {}
    calls = 0

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        async def get(self: Any, view: Any, key: str) -> Any:
            nonlocal calls
            calls += 1
            read = await original(self, view, key)
            if read.row is not None:
                first = old.setdefault((view.name, key), read.row)
                if calls % number == 0:
                    return read._replace(row=first)
            return read

        return get

    wrap(RowReader, "get", around)


@plant
def reached_at_once(_: int) -> None:
    """Waits answer REACHED at once, and say that all was applied."""
    from query_server.freshness.version_wait import VersionWaits

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        async def wait(self: Any, projections: Any, required: int, until: float) -> Any:
            result = await original(self, projections, 0, until)
            return result._replace(position=max(result.position, required))

        return wait

    wrap(VersionWaits, "wait", around)


@plant
def timed_out_early(_: int) -> None:
    """Waits time out after half of the time."""
    from query_server.read_model_service import ReadModelService

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def until(self: Any, context: Any) -> float:
            now: float = self._tracker.now
            limit: float = original(self, context)
            return now + (limit - now) / 2

        return until

    wrap(ReadModelService, "_until", around)


# Bugs of the command server.


@plant
def lose_acknowledged(number: int) -> None:
    """From a commit on they are acknowledged and not kept, and the server dies soon, as if the disk had lied."""
    from command_server.store import sqlite_commit
    from command_server.store.sqlite_store import SqliteEventStore

    commits = 0

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def commit(self: Any, reads: Any, decide: Any) -> Any:
            nonlocal commits
            commits += 1
            if commits < number:
                return original(self, reads, decide)
            connection = self._database._writer
            connection.execute("BEGIN IMMEDIATE")
            committed = sqlite_commit.commit(connection, self._epoch, reads, decide)
            if not committed.frames:
                connection.execute("COMMIT")
                return committed
            connection.execute("ROLLBACK")
            threading.Timer(0.05, _die).start()
            return committed

        return commit

    wrap(SqliteEventStore, "_commit", around)


@plant
def forget_requests(_: int) -> None:
    """Request ids are not remembered."""
    from command_server.store.sqlite_commit import BatchRecorder

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, decided: original(self, decided._replace(requests={}))

    wrap(BatchRecorder, "record", around)


@plant
def token_too_high(_: int) -> None:
    """Every token of the command server is one too high."""
    from diptych.contract.token import LogIdentity

    wrap(LogIdentity, "token", lambda original: lambda self, position: original(self, position + 1))


@plant
def events_swapped(number: int) -> None:
    """Subscribers get two events in the wrong order at every so many positions."""
    from command_server import event_service

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def batch(self: Any, page: Any) -> Any:
            frames = list(page.frames)
            if len(frames) > 1 and page.position % number == 0:
                frames[-2:] = reversed(frames[-2:])
            return original(self, page._replace(frames=frames))

        return batch

    wrap(event_service.EventService, "_batch", around)


if __name__ == "__main__":
    for each in sys.argv[1].split(","):
        plant_name, _, count = each.partition("@")
        _plants[plant_name](int(count or 0))
    sys.exit(main(sys.argv[2:]))
