"""Watch memory: the bytes that all watches of a server hold, in two parts.

- *Frames*: pages of watches that read the store themselves, and frames that gRPC has and the client has not read.
  A watch takes its share before it reads or encodes, and waits while there is no room. A page is smaller the more
  watches are open, so that each gets some. If no room is made for a second, the watch that holds most, and whose
  client has read nothing for a second, is ended.
- *Buffers*: changes that synced watches have not been sent. A change in several buffers counts once. If they are
  full, the watches with the fullest buffers are reset.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from query_server.watch.change_reader import PAGE_BYTES_MAX, Change

PAGE_BYTES_MIN = 16 << 10
"""A page is no smaller than this, however many watches are open."""

UNREAD_SECONDS = 1.0
"""Time without a read of its client after which a watch may be ended to make room."""

_PAGE_COPIES = 3
"""Copies of a page's rows: the rows, the frame, and gRPC's copy of the frame."""

_PAGES_PART = 10
"""All pages of watches that were opened together take about this part of the frames."""

_ENTRY_BYTES = 120
"""Bytes of one change in one buffer besides the change itself."""


class FrameShare:
    """Bytes of pages and frames that one watch holds."""

    __slots__ = ("bytes", "end", "sent_at")

    def __init__(self, end: Callable[[], None]) -> None:
        self.bytes = 0
        self.sent_at: float | None = None
        """Time at which gRPC got the frame that its client has not read; None: there is none."""
        self.end = end
        """Ends the watch."""


class WatchMemory:
    """Bytes that all watches hold. Belongs to one event loop."""

    def __init__(self, bytes_max: int, clock: Callable[[], float]) -> None:
        """Begin with nothing held.

        Args:
            bytes_max: Greatest number of bytes. Three quarters are for frames, one for buffers.
            clock: Source of monotonic seconds.
        """
        self.buffers = BufferMemory(bytes_max // 4)
        self._frames_max = bytes_max - bytes_max // 4
        self._frames = 0
        self._clock = clock
        self._shares: dict[FrameShare, None] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}

    @property
    def held(self) -> int:
        """Bytes that are held."""
        return self._frames + self.buffers.held

    @property
    def has_room(self) -> bool:
        """True while there is room for the page of another watch."""
        return self._frames + _PAGE_COPIES * PAGE_BYTES_MIN <= self._frames_max

    @property
    def page_bytes(self) -> int:
        """Greatest size of a page or frame now."""
        size = self._frames_max // (_PAGES_PART * _PAGE_COPIES * max(len(self._shares), 1))
        return min(max(size, PAGE_BYTES_MIN), PAGE_BYTES_MAX)

    def open(self, end: Callable[[], None]) -> FrameShare:
        """Add a watch. `end` ends it."""
        share = FrameShare(end)
        self._shares[share] = None
        return share

    def close(self, share: FrameShare) -> None:
        """Remove a watch, if it is open, and everything that it holds."""
        if share in self._shares:
            del self._shares[share]
            self.release(share)

    async def take_page(self, share: FrameShare) -> int:
        """Wait until there is room for a page, and take it; return the size of the page."""
        size = self.page_bytes
        await self.take(share, _PAGE_COPIES * size)
        return size

    def fit_page(self, share: FrameShare, size: int) -> None:
        """Replace the expected size of a page by its actual size."""
        self._frames -= share.bytes
        share.bytes = _PAGE_COPIES * size
        self._frames += share.bytes
        self._wake()

    async def take(self, share: FrameShare, size: int) -> None:
        """Wait until there is room for more bytes, and take them. A watch that is alone gets any number."""
        loop = asyncio.get_running_loop()
        while self._frames + size > self._frames_max and self._frames > share.bytes:
            room: asyncio.Future[None] = loop.create_future()
            self._waiting[room] = None
            try:
                async with asyncio.timeout(UNREAD_SECONDS):
                    await room
            except TimeoutError:
                self._end_slowest()
            finally:
                self._waiting.pop(room, None)
        self._frames += size
        share.bytes += size
        self._wake()

    def release(self, share: FrameShare) -> None:
        """Give back everything that a watch holds: its client has read the frame."""
        self._frames -= share.bytes
        share.bytes = 0
        share.sent_at = None
        self._wake()

    def sends(self, share: FrameShare) -> None:
        """Record the time at which gRPC is given a frame."""
        share.sent_at = self._clock()

    def _wake(self) -> None:
        """Wake the first waiting watch, which wakes the next one after it has taken its bytes."""
        if self._waiting and self.has_room:
            room = next(iter(self._waiting))
            del self._waiting[room]
            if not room.done():
                room.set_result(None)

    def _end_slowest(self) -> None:
        """End the watch that holds the most bytes, among those whose clients read nothing."""
        before = self._clock() - UNREAD_SECONDS
        unread = [share for share in self._shares if share.sent_at is not None and share.sent_at <= before]
        if unread:
            slowest = max(unread, key=lambda share: share.bytes)
            self.close(slowest)
            slowest.end()


class BufferMemory:
    """Bytes of changes in the buffers of all watches."""

    __slots__ = ("_bytes_max", "held", "relieve")

    def __init__(self, bytes_max: int = sys.maxsize) -> None:
        self._bytes_max = bytes_max
        self.held = 0
        self.relieve: Callable[[], None] = lambda: None
        """Resets watches with full buffers, while `is_full`."""

    @property
    def is_full(self) -> bool:
        """True while the buffers hold more bytes than their limit."""
        return self.held > self._bytes_max

    def hold(self, change: Change) -> None:
        """Count a change that is added to a buffer."""
        if not change.holders:
            self.held += change.size
        change.holders += 1
        self.held += _ENTRY_BYTES

    def drop(self, change: Change) -> None:
        """Stop counting a change in a buffer that has dropped it."""
        change.holders -= 1
        self.held -= _ENTRY_BYTES
        if not change.holders:
            self.held -= change.size
