"""Timers: the earliest timeouts are in memory, all others in the store, and each fires once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from command_server.processes.outputs import Content, OpenOutputs, Output
from command_server.processes.timers import TIMERS_MAX, Timers
from command_server.store.event_store import StoreUnavailable
from command_server.store.records import Decided, Reads, Work, WorkKey, WorkKind
from command_server.store.sqlite_store import SqliteEventStore
from diptych.internal.v1.parking_pb2 import Outcome
from tests.support.polling import eventually
from tests.support.process_stage import SECONDS

_CONTENT = Content(Any(), False, "", "", "")
_MAX = 8


_NO_READS = Reads({}, {}, ())


class Outputs(OpenOutputs):
    """Open outputs whose steps are not in the log."""

    async def content(self, output: Output) -> Content:
        return _CONTENT


class Clockwork:
    """Timers on a real store, with few timeouts in memory."""

    def __init__(self, store: SqliteEventStore) -> None:
        self.store = store
        self.outputs = Outputs(store)
        self.fired: list[WorkKey] = []
        self.held_max = 0
        self.through = 0
        self._rest = random.Random(0)
        self.timers = Timers(store, self.outputs, self._fire, self._wait_for_room, lambda: self.through, _MAX)

    async def record(self, *works: Work) -> None:
        """Record timeouts of the next steps in the store."""
        await self.store.commit(_NO_READS, lambda loaded: Decided(opened=works))

    def start(self, *works: Work) -> None:
        """Start recorded timeouts, as the log follower does."""
        for work in works:
            self.timers.start(work, _CONTENT)
            self.through = work.position
            self.held_max = max(self.held_max, len(list(self.outputs)))

    def _fire(self, output: Output, content: Content, outcome: Outcome) -> None:
        self.held_max = max(self.held_max, len(list(self.outputs)))
        self.fired.append(output.key)

    async def settle(self) -> None:
        """Record that the fired timeouts are taken, and close them, as the process's steps do."""
        taken = [key for key in self.fired if self.outputs.get(key) is not None]
        if taken:
            await self.store.commit(_NO_READS, lambda loaded: Decided(settled=taken))
        for key in taken:
            self.outputs.close(key)

    async def _wait_for_room(self) -> None:
        if self._rest.random() < 0.5:
            await self.settle()


@asynccontextmanager
async def clockwork(folder: Path) -> AsyncIterator[Clockwork]:
    store = SqliteEventStore(folder / "log.db")
    await store.open()
    try:
        yield Clockwork(store)
    finally:
        await store.close()


@asynccontextmanager
async def running(clock: Clockwork) -> AsyncIterator[None]:
    task = asyncio.create_task(clock.timers.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def timeouts(count: int, due: int, seed: int = 0, first: int = 1) -> list[Work]:
    """Return timeouts of steps from a position on, due from `due` on, in a random order of due times."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return [
        Work(first + n, n % 2, f"p{n % 2}", f"i{n}", WorkKind.TIMEOUT, due + 3 * order[n] // 2) for n in range(count)
    ]


def now() -> int:
    return time.time_ns() // 1000


def in_order(works: list[Work]) -> list[WorkKey]:
    return [(one.position, one.ordinal) for one in sorted(works, key=lambda one: (one.due, one.position, one.ordinal))]


@pytest.mark.parametrize("seed", range(5))
async def test_bug_every_open_timeout_was_in_memory(tmp_path: Path, seed: int) -> None:
    async with clockwork(tmp_path) as clock:
        works = timeouts(100, now() - 10_000_000, seed)
        await clock.record(*works)
        clock.start(*works)
        assert len(list(clock.outputs)) <= _MAX
        assert [clock.outputs.kinds[name, WorkKind.TIMEOUT] for name in ("p0", "p1")] == [50, 50]
        async with running(clock):
            await eventually(lambda: len(clock.fired) == 100, seconds=SECONDS)
            await clock.settle()
        assert clock.fired == in_order(works)
        assert clock.held_max < 3 * _MAX
        assert not any(clock.outputs.kinds.values())
        assert not any(clock.outputs.stored.values())
        assert not any(clock.outputs.instances.values())


@pytest.mark.parametrize("seed", range(5))
async def test_timeouts_that_start_while_others_are_read_fire_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    async with clockwork(tmp_path) as clock:
        due, rest = now() - 10_000_000, random.Random(seed)
        works = timeouts(120, due, seed)
        await clock.record(*works)  # The store has steps that the log follower brings later.
        clock.start(*works[:40])
        pending = works[40:]
        read = clock.store.read_timeouts

        def start_some() -> None:
            count = rest.randrange(1, 12)
            clock.start(*pending[:count])
            del pending[:count]

        async def read_slowly(due: int, after: WorkKey, count: int) -> Sequence[Work]:
            """Let timeouts start and be taken between the read and its result."""
            page = await read(due, after, count)
            await clock.settle()
            start_some()
            return page

        monkeypatch.setattr(clock.store, "read_timeouts", read_slowly)
        async with running(clock):
            while pending:
                start_some()
                await clock.store.head()
            await eventually(lambda: len(clock.fired) >= 120, seconds=SECONDS)
            await clock.settle()
        assert sorted(clock.fired) == sorted(in_order(works))
        assert not any(clock.outputs.kinds.values())


async def test_earliest_timeout_fires_first_when_it_starts_after_later_ones(tmp_path: Path) -> None:
    async with clockwork(tmp_path) as clock:
        later = timeouts(30, now() + 3_600_000_000)
        early = Work(31, 0, "p0", "early", WorkKind.TIMEOUT, now() - 1)
        await clock.record(*later, early)
        clock.start(*later)
        async with running(clock):
            await asyncio.sleep(0)
            clock.start(early)
            await eventually(lambda: clock.fired == [early[:2]], seconds=SECONDS)


async def test_timeouts_are_read_again_when_the_store_was_not_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with clockwork(tmp_path) as clock:
        works = timeouts(50, now() - 10_000_000)
        await clock.record(*works)
        clock.start(*works)
        read, failures = clock.store.read_timeouts, 0

        async def fail_once(due: int, after: WorkKey, count: int) -> object:
            nonlocal failures
            failures += 1
            if failures == 1:
                raise StoreUnavailable("planted")
            return await read(due, after, count)

        monkeypatch.setattr(clock.store, "read_timeouts", fail_once)
        async with running(clock):
            await eventually(lambda: len(clock.fired) == 50, seconds=SECONDS)
        assert clock.fired == in_order(works)


def test_limit_of_timeouts_in_memory_is_the_documented_one() -> None:
    assert TIMERS_MAX == 20_000


async def test_timeout_that_is_closed_while_it_is_read_is_not_opened_again(tmp_path: Path) -> None:
    async with clockwork(tmp_path) as clock:
        first, second = timeouts(4, now())[::2]
        clock.outputs.add(first)
        clock.outputs.count_stored(second)
        clock.outputs.closed = set()
        clock.outputs.close((first.position, first.ordinal))
        assert not clock.outputs.add_stored(first)
        assert clock.outputs.add_stored(second)
        assert [one.work for one in clock.outputs] == [second]
