"""The event tail: the newest events in memory, as subscribers follow them.

A subscriber is no more than a position. Events after it come from memory if the tail reaches that far back, else
from the store. The seam between the two cannot lose, double or reorder events, and a slow subscriber costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from command_server.metrics import HEAD_POSITION
from command_server.store.event_store import EventStore, StoreUnavailable
from command_server.store.records import Committed, LogHead, Page
from command_server.version_waits import VersionWaits
from diptych.contract.frames import recorded
from diptych.server import failpoints
from diptych.server.settings import CommandServerSettings

BATCH_EVENTS_MAX = 1000
"""Events in a page, at most."""
BATCH_BYTES_MAX = 1 << 20
"""Bytes of the events in a page, at most; one event may be larger."""

_FOLLOW_SECONDS = 60.0
"""Longest wait in the store for events of other writers."""
_RETRY_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class TailClosed(StoreUnavailable):
    """The server is stopping."""


class EventTail:
    """One run of positions without gaps, which ends at the head that this server has followed so far.

    1. The writer publishes each of its commits (`publish`): if it continues the tail, it is appended at once.
    2. `run` waits in the store for a head beyond the tail's: events of other writers, or a commit before which some
       of theirs are missing. It reads them from the store and takes them (`take`).
    3. `take` appends a page that continues the tail, skips events that the tail has, and reads a gap from the store.
    4. Each append raises `head`, trims the oldest events and wakes the subscribers that wait for it.
    5. `read` returns the next events after a position, from memory or from the store.
    """

    def __init__(self, store: EventStore, log: LogHead, settings: CommandServerSettings) -> None:
        self._store = store
        self._events_max = settings.tail_events_max
        self._bytes_max = settings.tail_bytes_max
        self._frames: list[bytes] = []
        self._types: list[str] = []
        self._start = log.position + 1
        self._bytes = 0
        self._subscribers: set[asyncio.Future[None]] = set()
        self._version_waits = VersionWaits()
        self._closed = False
        self.identity = log.identity
        """Log id and epochs, as of the last read of the head."""
        self.head = log.position
        """Position of the last event that was followed."""
        HEAD_POSITION.set(self.head)

    @property
    def memory_start(self) -> int:
        """Position of the oldest event in memory; `head` + 1 if there is none."""
        return self._start

    async def run(self) -> None:
        """Follow the log until cancelled. While the store is not available, the tail stays behind and retries."""
        failing = False
        while True:
            try:
                log = await self._store.beyond(self.head, _FOLLOW_SECONDS)
                self.identity = log.identity
                await asyncio.sleep(0)  # The writer may be about to publish the same events.
                if log.position > self.head:
                    await self.take(await self._read_store(self.head))
                failing = False
            except StoreUnavailable as error:
                if not failing:
                    _log.warning("log cannot be followed, retrying", cause=str(error), head=self.head)
                failing = True
                await asyncio.sleep(_RETRY_SECONDS)

    def publish(self, committed: Committed, types: Sequence[str], versions: Mapping[str, int]) -> None:
        """Append an own commit and wake its subscribers; a shortcut of `take`.

        A commit that does not continue the tail is left to `run`.

        Args:
            committed: the commit.
            types: type of each event.
            versions: new versions of the streams of the events.
        """
        present = self.head + 1 - committed.first_position
        if present == 0:
            self._append(committed.frames, types, versions)
        elif 0 < present < len(committed.frames):
            self._append(committed.frames[present:], types[present:], versions)

    async def take(self, page: Page) -> None:
        """Append the events of an unfiltered page that the tail does not have; read a gap before them from the store.

        Cancelling keeps the pages that were appended.

        Raises:
            StoreUnavailable: the gap cannot be read.
        """
        while (missing := page.position - len(page.frames)) > self.head:
            gap = await self._read_store(self.head)
            if gap.position <= self.head:
                raise StoreUnavailable(f"positions {self.head + 1} to {missing} cannot be read")
            self._append_page(gap)
        self._append_page(page)

    def close(self) -> None:
        """End every wait, now and later, with `TailClosed`."""
        self._closed = True
        _wake(self._subscribers)
        self._version_waits.wake_all()

    async def wait_beyond(self, position: int, seconds: float) -> bool:
        """Wait until the tail's head is beyond a position; return False if the time was up first.

        Cancelling ends the wait.

        Raises:
            TailClosed: the server is stopping.
        """
        self._check_open()
        if self.head > position:
            return True
        future = asyncio.get_running_loop().create_future()
        self._subscribers.add(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return self.head > position
        finally:
            self._subscribers.discard(future)
        self._check_open()
        return True

    @contextmanager
    def version_wait(self, stream: str, version: int) -> Iterator[asyncio.Future[None]]:
        """Yield a future that is done when a version of one aggregate's stream, or a later one, is appended.

        Raises:
            TailClosed: the server is stopping.
        """
        self._check_open()
        with self._version_waits.wait(stream, version) as future:
            yield future

    async def read(self, after: int, types: Collection[str] = ()) -> Page:
        """Return the next events after a position, up to the head: at most 1,000 events, or about 1 MiB.

        Raises:
            StoreUnavailable: the events are not in memory, and the store cannot read them.
        """
        if after + 1 < self._start:
            return await self._read_store(after, types)
        return self._read_memory(after, types)

    async def _read_store(self, after: int, types: Collection[str] = ()) -> Page:
        return await self._store.read_log(after, types=types, events_max=BATCH_EVENTS_MAX, bytes_max=BATCH_BYTES_MAX)

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

    def _append_page(self, page: Page) -> None:
        present = self.head - (page.position - len(page.frames))
        frames = page.frames[present:]
        if frames:
            events = [recorded(frame) for frame in frames]
            versions = {f"{event.aggregate.type}/{event.aggregate.id}": event.version for event in events}
            self._append(frames, [event.event.TypeName() for event in events], versions)

    def _append(self, frames: Sequence[bytes], types: Sequence[str], versions: Mapping[str, int]) -> None:
        self._frames.extend(frames)
        self._types.extend(types)
        self._bytes += sum(map(len, frames))
        self.head += len(frames)
        HEAD_POSITION.set(self.head)
        if len(self._frames) > self._events_max or self._bytes > self._bytes_max:
            self._trim()
        failpoints.hit("publish.kept")
        subscribers, self._subscribers = self._subscribers, set()
        _wake(subscribers)
        if self._version_waits:
            self._version_waits.wake(versions)

    def _check_open(self) -> None:
        if self._closed:
            raise TailClosed("the server is stopping")

    def _trim(self) -> None:
        """Drop the older half, or more if the rest has too many bytes. Large steps are rare; each one copies."""
        cut = len(self._frames) // 2
        size = sum(map(len, self._frames[cut:]))
        while size > self._bytes_max and cut < len(self._frames):
            size -= len(self._frames[cut])
            cut += 1
        del self._frames[:cut], self._types[:cut]
        self._start += cut
        self._bytes = size


def _wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    for future in waiters:
        if not future.done():
            future.set_result(None)
