"""Timers: the timeouts of processes, earliest first. The open work in the store makes them durable."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable

from command_server.processes.inputs import TIMED_OUT
from command_server.processes.outputs import OpenOutputs, OutcomeHandler, Output
from command_server.store.records import WorkKey
from diptych.internal.v1.parking_pb2 import Outcome

_CLOCK_SECONDS = 1.0
"""Interval at which the wall clock is read: it may be set while a timer waits."""


class Timers:
    """The timeouts of all processes.

    Args:
        outputs: the open outputs.
        on_outcome: called with each timeout that is due.
        wait_for_room: awaited before each timeout, so that inputs do not pile up.
    """

    def __init__(
        self, outputs: OpenOutputs, on_outcome: OutcomeHandler, wait_for_room: Callable[[], Awaitable[None]]
    ) -> None:
        self._outputs = outputs
        self._on_outcome = on_outcome
        self._wait_for_room = wait_for_room
        self._heap: list[tuple[int, WorkKey]] = []
        self._earlier = asyncio.Event()

    def start(self, output: Output) -> None:
        """Start a timer for a timeout."""
        entry = (output.work.due, output.key)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._earlier.set()

    async def run(self) -> None:
        """Report due timeouts until cancelled."""
        while True:
            now = time.time_ns() // 1000
            if not self._heap or self._heap[0][0] > now:
                await self._wait((self._heap[0][0] - now) / 1e6 if self._heap else None)
                continue
            await self._wait_for_room()
            _, key = heapq.heappop(self._heap)
            output = self._outputs.get(key)
            if output is not None:
                self._on_outcome(output, await self._outputs.content(output), Outcome(kind=TIMED_OUT))

    async def _wait(self, seconds: float | None) -> None:
        """Wait until an earlier timer starts, the first is due, or the clock must be read; None: no timer runs."""
        self._earlier.clear()
        try:
            async with asyncio.timeout(None if seconds is None else min(seconds, _CLOCK_SECONDS)):
                await self._earlier.wait()
        except TimeoutError:
            return
