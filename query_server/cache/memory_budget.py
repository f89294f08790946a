"""Memory budget: the bytes that all cached entries share, and the shelves that hold the entries.

When the budget is exceeded, the largest shelf drops its least recently used entries. A flood of entries of one kind,
such as absent keys, therefore cannot displace all others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

_LARGE_PART = 16
"""An entry that would take more than this part of the budget is not stored."""

_SPARE_PART = 64
"""Part of the budget that is freed when it is exceeded, so that not every entry needs a search."""


class Shelf:
    """Entries, the least recently used first: content, checkpoint of the read, and bytes taken."""

    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.entries: OrderedDict[Any, tuple[bytes | None, int, int]] = OrderedDict()
        self.bytes = 0


class MemoryBudget:
    """The bytes that all shelves share."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._shelves: list[Shelf] = []

    def shelf(self) -> Shelf:
        """Make a shelf."""
        shelf = Shelf()
        self._shelves.append(shelf)
        return shelf

    def put(self, shelf: Shelf, key: Hashable, content: bytes | None, checkpoint: int, extra_bytes: int) -> None:
        """Store an entry in place of the one before, unless it is too large.

        Args:
            shelf: The shelf.
            key: The entry's key.
            content: Its content; None: the row is known to be absent.
            checkpoint: Checkpoint at which it was read.
            extra_bytes: Bytes that it takes besides its content.
        """
        size = extra_bytes if content is None else len(content) + extra_bytes
        if size > self._bytes_max // _LARGE_PART:
            return
        if key in shelf.entries:
            self.drop(shelf, key)
        shelf.entries[key] = (content, checkpoint, size)
        shelf.bytes += size
        self._bytes += size
        if self._bytes > self._bytes_max:
            self._make_room()

    def drop(self, shelf: Shelf, key: Hashable) -> None:
        """Drop one entry."""
        size = shelf.entries.pop(key)[2]
        shelf.bytes -= size
        self._bytes -= size

    def clear(self, shelf: Shelf) -> None:
        """Drop all entries of a shelf."""
        shelf.entries.clear()
        self._bytes -= shelf.bytes
        shelf.bytes = 0

    def _make_room(self) -> None:
        bytes_max = self._bytes_max - self._bytes_max // _SPARE_PART
        while self._bytes > bytes_max:
            largest = max(self._shelves, key=lambda shelf: shelf.bytes)
            self.drop(largest, next(iter(largest.entries)))
