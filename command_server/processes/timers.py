"""Timers: timeouts that processes have set, earliest first. The open work in the store makes them durable."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable

from command_server.processes.commands import Told
from command_server.processes.inputs import TIMED_OUT
from command_server.processes.outputs import OpenOutputs, Output
from command_server.store.records import WorkKey
from diptych.internal.v1.parking_pb2 import Outcome

_LOOK_SECONDS = 1.0
"""How often the clock is looked at, which may be set while a timer waits."""


class Timers:
    """The timeouts of all processes. `told` is called when one is due, after waiting for room."""

    def __init__(self, outputs: OpenOutputs, told: Told, room: Callable[[], Awaitable[None]]) -> None:
        self._outputs = outputs
        self._told = told
        self._room = room
        self._heap: list[tuple[int, WorkKey]] = []
        self._earlier = asyncio.Event()

    def start(self, output: Output) -> None:
        """Has a timeout told when it is due."""
        entry = (output.work.due, output.key)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._earlier.set()

    async def run(self) -> None:
        """Tells what is due, for as long as it is not cancelled."""
        while True:
            now = time.time_ns() // 1000
            if not self._heap or self._heap[0][0] > now:
                await self._wait((self._heap[0][0] - now) / 1e6 if self._heap else None)
                continue
            await self._room()
            _, key = heapq.heappop(self._heap)
            output = self._outputs.get(key)
            if output is not None:
                self._told(output, await self._outputs.content(output), Outcome(kind=TIMED_OUT))

    async def _wait(self, seconds: float | None) -> None:
        self._earlier.clear()
        try:
            async with asyncio.timeout(None if seconds is None else min(seconds, _LOOK_SECONDS)):
                await self._earlier.wait()
        except TimeoutError:
            return
