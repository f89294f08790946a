"""The event stream: the log as subscribers follow it, from the store to memory and back.

The latest events are kept in memory, as one run of positions without gaps that ends at the head. A subscriber is no
more than a position: what lies after it comes from memory if the run reaches that far back, else from the store, so
that the seam between the two cannot lose, double or reorder anything, and a slow subscriber costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from command_server.metrics import HEAD_POSITION
from command_server.store.event_store import Committed, EventStore, Page, StoreUnavailable
from diptych.server import failpoints
from diptych.server.settings import CommandServerSettings

BATCH_EVENTS_MAX = 1000
BATCH_BYTES_MAX = 1 << 20


class StreamClosed(StoreUnavailable):
    """The server is stopping."""


class EventStream:
    """The log of one store, followed by any number of subscribers of this event loop."""

    def __init__(self, store: EventStore, settings: CommandServerSettings) -> None:
        self._store = store
        self._events_max = settings.tail_events_max
        self._bytes_max = settings.tail_bytes_max
        self._frames: list[bytes] = []
        self._types: list[str] = []
        self._start = store.head + 1
        self._bytes = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._versions: dict[str, set[asyncio.Future[None]]] = {}
        self._closed = False
        self.head = store.head
        HEAD_POSITION.set(self.head)

    @property
    def memory_start(self) -> int:
        """The first position that is in memory; the head's successor if none is."""
        return self._start

    def publish(self, committed: Committed, types: Sequence[str], versions: Mapping[str, int]) -> None:
        """Takes what was just recorded, and wakes whoever waits for it."""
        assert committed.first_position == self._start + len(self._frames), "a commit was published out of order"
        self._frames.extend(committed.frames)
        self._types.extend(types)
        self._bytes += sum(map(len, committed.frames))
        self.head = committed.first_position + len(committed.frames) - 1
        HEAD_POSITION.set(self.head)
        if len(self._frames) > self._events_max or self._bytes > self._bytes_max:
            self._trim()
        failpoints.hit("publish.kept")
        waiting, self._waiting = self._waiting, set()
        _wake(waiting)
        if self._versions:
            for stream in versions:
                _wake(self._versions.pop(stream, set()))

    def close(self) -> None:
        """Ends every wait, now and later, with `StreamClosed`."""
        self._closed = True
        _wake(self._waiting)
        for waiting in self._versions.values():
            _wake(waiting)

    async def wait_beyond(self, position: int, seconds: float) -> bool:
        """Waits until the head lies beyond a position, for so long at the most; returns whether it does.

        Raises `StreamClosed`.
        """
        self._check_open()
        if self.head > position:
            return True
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return self.head > position
        finally:
            self._waiting.discard(future)
        self._check_open()
        return True

    @contextmanager
    def changes_of(self, stream: str) -> Iterator[asyncio.Future[None]]:
        """Gives a future that is done when the next events of one aggregate's stream are published.

        Raises `StreamClosed`.
        """
        self._check_open()
        future = asyncio.get_running_loop().create_future()
        waiting = self._versions.setdefault(stream, set())
        waiting.add(future)
        try:
            yield future
        finally:
            waiting.discard(future)
            if not waiting and self._versions.get(stream) is waiting:
                del self._versions[stream]

    async def read(self, after: int, types: Collection[str] = ()) -> Page:
        """The next events after a position: at most 1,000, or about 1 MiB, up to the head."""
        if after + 1 < self._start:
            return await self._store.read_log(
                after, types=types, events_max=BATCH_EVENTS_MAX, bytes_max=BATCH_BYTES_MAX
            )
        return self._read_memory(after, types)

    def _read_memory(self, after: int, types: Collection[str]) -> Page:
        first = after + 1 - self._start
        end = min(len(self._frames), first + BATCH_EVENTS_MAX)
        if first >= end:
            return Page((), after, b"")
        size = 0
        for index in range(first, end):
            size += len(self._frames[index])
            if size > BATCH_BYTES_MAX and index > first:
                end = index
                break
        frames = self._frames[first:end]
        last = frames[-1]
        if types:
            frames = [frame for frame, kind in zip(frames, self._types[first:end], strict=True) if kind in types]
        return Page(frames, after + end - first, last)

    def _check_open(self) -> None:
        if self._closed:
            raise StreamClosed("the server is stopping")

    def _trim(self) -> None:
        """Forgets the older half, or more if that is still too many bytes: in large steps, as each step copies."""
        cut = len(self._frames) // 2
        kept = sum(map(len, self._frames[cut:]))
        while kept > self._bytes_max and cut < len(self._frames):
            kept -= len(self._frames[cut])
            cut += 1
        del self._frames[:cut], self._types[:cut]
        self._start += cut
        self._bytes = kept


def _wake(waiting: Iterable[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
