"""Waits for versions of aggregates' streams. An event wakes only the waits that it may satisfy."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_SPARE_ENTRIES = 64
"""Ended waits that a stream's heap may hold beyond twice the number of its waits."""


class VersionWaits:
    """Waits for versions, by stream. Each stream has a heap by version."""

    def __init__(self) -> None:
        self._streams: dict[str, _StreamWaits] = {}
        self._ordinal = 0

    def __bool__(self) -> bool:
        return bool(self._streams)

    @contextmanager
    def wait(self, stream: str, version: int) -> Iterator[asyncio.Future[None]]:
        """Yield a future that is done when the stream has the version, or when all waits end."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waits = self._streams.get(stream)
        if waits is None:
            waits = self._streams[stream] = _StreamWaits()
        self._ordinal += 1
        heapq.heappush(waits.heap, (version, self._ordinal, future))
        waits.count += 1
        try:
            yield future
        finally:
            future.cancel()
            waits.count -= 1
            waits.tidy()
            if not waits.count and self._streams.get(stream) is waits:
                del self._streams[stream]

    def wake(self, versions: Mapping[str, int]) -> None:
        """End the waits for these versions of their streams, and for lesser ones."""
        for stream, version in versions.items():
            waits = self._streams.get(stream)
            while waits is not None and waits.heap and waits.heap[0][0] <= version:
                _end(heapq.heappop(waits.heap)[2])

    def wake_all(self) -> None:
        """End all waits."""
        for waits in self._streams.values():
            for _, _, future in waits.heap:
                _end(future)
            waits.heap.clear()


class _StreamWaits:
    __slots__ = ("count", "heap")

    def __init__(self) -> None:
        self.count = 0
        """Number of waits under way."""
        self.heap: list[tuple[int, int, asyncio.Future[None]]] = []
        """Waits by version, then by age. Ended waits may linger."""

    def tidy(self) -> None:
        """Drop ended waits from the front, and all of them when there are many."""
        heap = self.heap
        while heap and heap[0][2].done():
            heapq.heappop(heap)
        if len(heap) > 2 * self.count + _SPARE_ENTRIES:
            heap[:] = [entry for entry in heap if not entry[2].done()]
            heapq.heapify(heap)


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
