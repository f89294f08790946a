"""Timers: the timeouts of processes, earliest first. The open work in the store makes them durable."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from command_server.processes.backoff import backoff
from command_server.processes.inputs import TIMED_OUT
from command_server.processes.outputs import Content, OpenOutputs, OutcomeHandler
from command_server.store.event_store import EventStore, StoreUnavailable
from command_server.store.records import Work, WorkKey
from diptych.internal.v1.parking_pb2 import Outcome

_log = structlog.get_logger(__name__)

_CLOCK_SECONDS = 1.0
"""Interval at which the wall clock is read: it may be set while a timer waits."""

TIMERS_MAX = 20_000
"""Timeouts in memory; later ones stay in the store until their turn comes."""

_Entry = tuple[int, WorkKey]
"""Due time and key of a timeout."""


class Timers:
    """The timeouts of all processes, the earliest in memory.

    1. `start` holds a timeout up to the horizon in memory, and only counts a later one. Without a horizon, memory has
       all timeouts.
    2. Beyond `timers_max` the later half leaves memory, and the horizon moves down to the last timeout that stays.
    3. When few are left, `run` reads the next ones from the store, and the horizon moves up to the last one read.
       Timeouts that start during the read wait for the new horizon.
    4. A read takes only timeouts of steps that were started before it. Those of later steps come by `start`.

    Args:
        store: the store of the open work.
        outputs: the open outputs.
        on_outcome: called with each timeout that is due.
        wait_for_room: awaited before each timeout, so that inputs do not pile up.
        started_through: returns the position of the last step whose outputs were started.
        timers_max: greatest number of timeouts in memory.
    """

    def __init__(
        self,
        store: EventStore,
        outputs: OpenOutputs,
        on_outcome: OutcomeHandler,
        wait_for_room: Callable[[], Awaitable[None]],
        started_through: Callable[[], int],
        timers_max: int = TIMERS_MAX,
    ) -> None:
        self._store = store
        self._outputs = outputs
        self._on_outcome = on_outcome
        self._wait_for_room = wait_for_room
        self._started_through = started_through
        self._max = timers_max
        self._heap: list[_Entry] = []
        self._horizon: _Entry | None = None
        """Last timeout up to which memory has all; None: memory has all timeouts."""
        self._arrivals: list[tuple[Work, Content | None]] | None = None
        """Timeouts that started during a read; None: no read is running."""
        self._earlier = asyncio.Event()

    def start(self, work: Work, content: Content | None = None) -> None:
        """Start a timer for a timeout."""
        if self._arrivals is not None:
            self._arrivals.append((work, content))
            return
        entry = (work.due, (work.position, work.ordinal))
        if self._horizon is not None and entry > self._horizon:
            self._outputs.count_stored(work)
            return
        self._outputs.add(work, content)
        self._push(entry)
        if len(self._heap) > self._max:
            self._shed()

    async def run(self) -> None:
        """Report due timeouts until cancelled."""
        while True:
            if self._horizon is not None and len(self._heap) <= self._max // 4:
                await self._read_next()
            now = time.time_ns() // 1000
            if not self._heap or self._heap[0][0] > now:
                if self._heap or self._horizon is None:
                    await self._wait((self._heap[0][0] - now) / 1e6 if self._heap else None)
                continue
            await self._wait_for_room()
            _, key = heapq.heappop(self._heap)
            output = self._outputs.get(key)
            if output is not None:
                self._on_outcome(output, await self._outputs.content(output), Outcome(kind=TIMED_OUT))

    def _push(self, entry: _Entry) -> None:
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._earlier.set()

    def _shed(self) -> None:
        """Leave the later half to the store."""
        self._heap.sort()
        middle = max(1, self._max // 2)
        later = self._heap[middle:]
        del self._heap[middle:]
        self._horizon = self._heap[-1]
        for _, key in later:
            self._outputs.leave_to_store(key)

    async def _read_next(self) -> None:
        """Read the timeouts after the horizon, and move the horizon. If the store is not available, retry."""
        attempts = 0
        while self._horizon is not None:
            due, key = self._horizon
            through, count = self._started_through(), max(1, self._max // 2)
            self._arrivals, self._outputs.closed = [], set()
            try:
                page = await self._store.read_timeouts(due, key, count)
            except StoreUnavailable as error:
                attempts += 1
                _log.warning("timeouts of processes not read, retrying", cause=str(error))
            else:
                self._take(page, through, count)
                return
            finally:
                arrivals, self._arrivals, self._outputs.closed = self._arrivals, None, None
                for work, content in arrivals:
                    self.start(work, content)
            await asyncio.sleep(backoff(attempts))

    async def _wait(self, seconds: float | None) -> None:
        """Wait until an earlier timer starts, the first is due, or the clock must be read; None: no timer runs."""
        self._earlier.clear()
        try:
            async with asyncio.timeout(None if seconds is None else min(seconds, _CLOCK_SECONDS)):
                await self._earlier.wait()
        except TimeoutError:
            return

    def _take(self, page: Sequence[Work], through: int, count: int) -> None:
        for work in page:
            if work.position <= through and self._outputs.add_stored(work):
                self._push((work.due, (work.position, work.ordinal)))
        last = page[-1] if page else None
        full = last is not None and len(page) == count
        self._horizon = (last.due, (last.position, last.ordinal)) if full and last is not None else None
