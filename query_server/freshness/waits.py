"""Waits for log positions: queues whose waits are woken, not polled.

Each wait lies in one or several queues, which are heaps by position. Waking a queue through a position ends the waits
at or below it. A wait ends as well at its own time limit, when its queue wakes all waits, and when the pool closes.
The caller then checks for itself what has happened.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Sequence

_SPARE_ENTRIES = 64
"""Ended waits that a queue may hold beyond twice the number of waits."""


class TooManyWaits(Exception):
    """The limit of concurrent waits is reached."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} calls wait already")
        self.limit = limit


class _Wait:
    """One wait, in the heaps of one or several queues."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class WaitPool:
    """The waits of all queues of one event loop, with their common limit."""

    def __init__(self, waits_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        """Number of waits under way."""
        self.is_closed = False
        self._waits_max = waits_max
        self._clock = clock
        self._ordinal = 0
        self._queues: list[WaitQueue] = []

    def queue(self) -> WaitQueue:
        """Make a queue whose waits count towards the limit."""
        queue = WaitQueue(self)
        self._queues.append(queue)
        return queue

    async def wait_in(self, queues: Sequence[WaitQueue], position: int, until: float) -> None:
        """Wait until one of the queues wakes this position, or `until` by the pool's clock.

        Cancelling it removes the wait.

        Raises:
            TooManyWaits: The limit is reached.
        """
        if self.is_closed:
            return
        if self.count >= self._waits_max:
            raise TooManyWaits(self._waits_max)
        loop = asyncio.get_running_loop()
        wait = _Wait(loop.create_future())
        self.count += 1
        self._ordinal += 1
        for queue in queues:
            heapq.heappush(queue.heap, (position, self._ordinal, wait))
        timer = loop.call_later(max(until - self._clock(), 0), wait.wake)
        try:
            await wait.future
        finally:
            timer.cancel()
            self.count -= 1
            wait.future.cancel()
            for queue in queues:
                queue.tidy(2 * self.count + _SPARE_ENTRIES)

    def close(self) -> None:
        """End all waits, and let none begin."""
        self.is_closed = True
        for queue in self._queues:
            queue.wake_all()


class WaitQueue:
    """Waits for positions of one thing that advances: a projection, its store, or the head."""

    __slots__ = ("_pool", "heap")

    def __init__(self, pool: WaitPool) -> None:
        self._pool = pool
        self.heap: list[tuple[int, int, _Wait]] = []
        """Waits by position, then by age. Ended waits may linger."""

    def __bool__(self) -> bool:
        return any(not wait.future.done() for _, _, wait in self.heap)

    async def wait_for(self, position: int, until: float) -> None:
        """Wait until the queue is woken through a position, or `until`. See `WaitPool.wait_in`."""
        await self._pool.wait_in((self,), position, until)

    def wake_through(self, position: int) -> None:
        """End the waits for a position or less."""
        heap = self.heap
        while heap and heap[0][0] <= position:
            heapq.heappop(heap)[2].wake()

    def wake_all(self) -> None:
        """End all waits."""
        for _, _, wait in self.heap:
            wait.wake()
        self.heap.clear()

    def tidy(self, entries_max: int) -> None:
        """Drop ended waits from the front, and all of them when the heap exceeds a size."""
        heap = self.heap
        while heap and heap[0][2].future.done():
            heapq.heappop(heap)
        if len(heap) > entries_max:
            heap[:] = [entry for entry in heap if not entry[2].future.done()]
            heapq.heapify(heap)
