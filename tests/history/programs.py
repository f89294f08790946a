"""The three servers with a planted change: `python -m tests.history.programs PLANT[,PLANT...] SERVER ...`.

A plant is `name` or `name@number`. Bugs break a promise, to show that the judge finds them. Troubles are conditions
that a server must survive, such as steps of the wall clock. The product holds none of this: each plant wraps a part by
name, and fails at once if that part does not exist any more.
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
    """Register a plant under its name, with `-` for `_`."""
    _plants[function.__name__.replace("_", "-")] = function
    return function


def wrap(owner: Any, name: str, around: Callable[[Any], Any]) -> None:
    """Replace an attribute of a class or module by a wrapper of it."""
    setattr(owner, name, around(getattr(owner, name)))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Troubles.


@plant
def clock_steps(number: int) -> None:
    """Set the wall clock every `number` milliseconds, by up to two days; the monotonic clock goes on."""
    from command_server import writer
    from diptych.domain import ids
    from projector.store import tombstones
    from query_server.queries import cached_list

    began, rng = time.monotonic(), random.Random(number)
    offsets = [0.0]

    class Stepping(datetime.datetime):
        """A `datetime` whose `now` uses that clock."""

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(clock.time(), tz)

    class Clock:
        """The module `time` with that clock. Only our code reads it, as gRPC reads the C library's clock."""

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
    """Change the frames of a feed subscriber: `change` returns the frames to send for a frame and its number."""
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
    """Lose every `number`th frame of the feed, except the first one."""
    _with_frames(lambda frames, count: [] if count > 1 and count % number == 0 else frames)


@plant
def feed_doubled(number: int) -> None:
    """Send every `number`th frame of the feed twice."""
    _with_frames(lambda frames, count: [*frames, *frames] if count % number == 0 else frames)


@plant
def feed_late(number: int) -> None:
    """Send every `number`th frame of the feed again after the next one."""
    held: list[bytes] = []

    def change(frames: Sequence[bytes], count: int) -> Sequence[bytes]:
        again = [*frames, *held]
        held[:] = frames if count % number == 0 else []
        return again

    _with_frames(change)


# Bugs of the projector.


@plant
def switch_too_early(number: int) -> None:
    """Switch to a new generation after `number` events, without the events that came until then."""
    from diptych.storage.read_store import Generation
    from projector.generation.fold_progress import FoldProgress
    from projector.generation.follower import Follower
    from projector.generation_switch import GenerationSwitch

    async def wait_for(self: Any, other: Any) -> None:
        return None

    def is_ready(self: Any, rebuild: Any, first_head: int) -> bool:
        return bool(rebuild.follower.progress.applied_position >= number)

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        async def apply(self: Any, batch: Any) -> None:
            if self.machine.answers or self.progress.applied_position < number:
                await original(self, batch)

        return apply

    wrap(Follower, "_apply", around)
    wrap(FoldProgress, "wait_for", lambda original: wait_for)
    wrap(GenerationSwitch, "is_ready", lambda original: is_ready)
    setattr(Generation, "position", property(lambda self: 0))  # noqa: B010 - so that nobody objects.


def _with_events(change: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
    from projector.store.row_writer import RowWriter

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, events, through: original(self, change(events), through)

    wrap(RowWriter, "commit", around)


@plant
def skip_event(number: int) -> None:
    """Fold no event at every `number`th position."""
    _with_events(lambda events: [event for event in events if event.position % number])


@plant
def fold_twice(number: int) -> None:
    """Fold the event at every `number`th position twice."""
    _with_events(lambda events: [e for event in events for e in [event] * (1 if event.position % number else 2)])


@plant
def checkpoint_before_rows(number: int) -> None:
    """Commit the checkpoint `number` milliseconds before its rows."""
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
    """Take a read as fresh one event too early, and answer so."""
    from query_server.freshness.fresh_read import FreshReads

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        async def read(self: Any, tracked: Any, required: int, *how: Any, **more: Any) -> Any:
            result, position = await original(self, tracked, required - 1, *how, **more)
            return result, max(position, required)

        return read

    wrap(FreshReads, "read", around)


@plant
def token_unheeded(_: int) -> None:
    """Ignore tokens."""
    from query_server.queries import combined, find, get

    for module in (combined, find, get):
        wrap(module, "requirement", lambda original: lambda request, context: None)


@plant
def trailer_too_low(_: int) -> None:
    """Answer with a token whose position is too low by one."""
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
    """Answer every `number`th read by key with an old row at the new position."""
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
    """Answer REACHED to every wait at once, as if all events were applied."""
    from query_server.freshness.version_wait import VersionWaits

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        async def wait(self: Any, projections: Any, required: int, until: float, _: Any = None) -> Any:
            result = await original(self, projections, 0, until)
            return result._replace(position=max(result.position, required))

        return wait

    wrap(VersionWaits, "wait", around)


@plant
def timed_out_early(_: int) -> None:
    """Let waits time out after half of their time."""
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
    """Acknowledge commands from commit `number` on without storing them, and die soon, as after a lying disk."""
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
    """Forget request ids."""
    from command_server.store.sqlite_commit import BatchRecorder

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, decided: original(self, decided._replace(requests={}))

    wrap(BatchRecorder, "record", around)


@plant
def token_too_high(_: int) -> None:
    """Send tokens whose position is too high by one."""
    from diptych.contract.token import LogIdentity

    wrap(LogIdentity, "token", lambda original: lambda self, position: original(self, position + 1))


@plant
def events_swapped(number: int) -> None:
    """Swap two events of a subscriber at every `number`th position."""
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
