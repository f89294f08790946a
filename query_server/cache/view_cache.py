"""Cache of one view: rows, known absences of rows, and list responses, each with the checkpoint of its read."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any, NamedTuple, TypeVar

from diptych.domain.refusal import Refusal
from query_server.cache.change_progress import ChangeProgress, FeedClock
from query_server.cache.memory_budget import MemoryBudget
from query_server.freshness.fresh_read import ReadResult
from query_server.freshness.log_head import SILENCE_SECONDS
from query_server.rows.time_limit import TimeLimit

RECENT_MAX = 10_000
"""Changed keys remembered for each view."""

ROW_BYTES = 350
"""Bytes that a row takes besides its content and its key, estimated."""

LIST_BYTES = 1000
"""Bytes that a list response takes besides its content and its request, estimated."""

Read = TypeVar("Read", bound=ReadResult)


class Hit(NamedTuple):
    """An answer from memory: the bytes (None: there is no such row), and the position that they are true at."""

    content: bytes | None
    position: int


class ListRead(NamedTuple):
    """A list's response as read at a checkpoint of its projection."""

    response: bytes
    generation: int
    position: int


class ViewCache:
    """Entries of one view. Belongs to one event loop."""

    def __init__(self, name: str, changes: ChangeProgress, budget: MemoryBudget, feed: FeedClock) -> None:
        self.name = name
        self.changes = changes
        self.changed = 0
        """Position of the last row change received."""
        self.floor = 0
        """Changes up to here may have been forgotten, so reads at an earlier checkpoint are not stored."""
        self.hits = 0
        """Look-ups that were answered."""
        self.misses = 0
        """Look-ups without an entry that is fresh enough."""
        self.bypasses = 0
        """Look-ups while the cache could not answer."""
        self._budget = budget
        self._feed = feed
        self._recent: OrderedDict[str, int] = OrderedDict()  # Positions of the last changes, by key.
        self._rows, self._absent, self._lists = budget.shelf(), budget.shelf(), budget.shelf()
        self._flights: dict[Hashable, _Flight] = {}

    @property
    def entries(self) -> int:
        """Number of rows, known absences of rows, and lists."""
        return len(self._rows.entries) + len(self._absent.entries) + len(self._lists.entries)

    @property
    def size_bytes(self) -> int:
        """Bytes that the entries take, estimated."""
        return self._rows.bytes + self._absent.bytes + self._lists.bytes

    # Look-ups.

    def row(self, key: str, required: int) -> Hit | None:
        """Return a row that includes a position, if there is an entry that does."""
        changes, feed = self.changes, self._feed
        if not changes.is_usable or feed.now() - feed.last_frame_at >= SILENCE_SECONDS:
            self.bypasses += 1
            return None
        entries = self._rows.entries
        entry = entries.get(key)
        if entry is None:
            entries = self._absent.entries
            entry = entries.get(key)
        if entry is not None:
            content, checkpoint, _ = entry
            position = changes.changes_complete_through
            if checkpoint > position:
                position = checkpoint
            if position >= required:
                entries.move_to_end(key)
                self.hits += 1
                return Hit(content, position)
        self.misses += 1
        return None

    def response(self, key: Hashable, required: int) -> Hit | None:
        """Return a list's response that includes a position, if there is an entry that does."""
        changes, feed = self.changes, self._feed
        if not changes.is_usable or feed.now() - feed.last_frame_at >= SILENCE_SECONDS:
            self.bypasses += 1
            return None
        entry = self._lists.entries.get(key)
        if entry is not None:
            content, checkpoint, _ = entry
            position = max(checkpoint, changes.changes_complete_through)
            if position >= required:
                self._lists.entries.move_to_end(key)
                self.hits += 1
                return Hit(content, position)
        self.misses += 1
        return None

    # Reads of the store.

    def store_row(self, key: str, cache_epoch: int, content: bytes | None, generation: int, checkpoint: int) -> None:
        """Store a row that was read, unless it may be older than a change that was received.

        Args:
            key: The row's key.
            cache_epoch: Cache epoch in which the read began.
            content: The row; None: there is none.
            generation: Generation that was read.
            checkpoint: Its checkpoint then.
        """
        changes = self.changes
        if cache_epoch == changes.cache_epoch and generation == changes.generation and self.admits(key, checkpoint):
            self._put_row(key, content, checkpoint)

    def store_list(self, key: Hashable, cache_epoch: int, read: ListRead, key_bytes: int) -> None:
        """Store a list's response that was read, on the same terms."""
        changes = self.changes
        if (
            cache_epoch == changes.cache_epoch
            and read.generation == changes.generation
            and self.admits_list(read.position)
        ):
            self._budget.put(self._lists, key, read.response, read.position, key_bytes + LIST_BYTES)

    def admits(self, key: str, checkpoint: int) -> bool:
        """Return True if no change of a row after a checkpoint was received or forgotten."""
        return checkpoint >= self.floor and checkpoint >= self._recent.get(key, 0)

    def admits_list(self, checkpoint: int) -> bool:
        """Return True if no change of any row after a checkpoint was received."""
        return checkpoint >= self.changed

    def is_reading(self, key: Hashable) -> bool:
        """Return True while a read of a key is under way that others can join."""
        return key in self._flights

    async def read_once(
        self, key: Hashable, read: Callable[[], Awaitable[Read]], time_limit: TimeLimit | None = None
    ) -> Read:
        """Join a running read of the same key if it started after the last change; otherwise start one.

        Cancelling it leaves the read running for the others.

        Args:
            key: The read's key.
            read: Starts the read.
            time_limit: Limit of the read, if it is started here; a running read's limit is extended by it.

        Raises:
            Refusal: The read was refused. Each caller gets a copy.
        """
        flight = self._flights.get(key)
        if flight is None or flight.cache_epoch != self.changes.cache_epoch or flight.changed != self.changed:
            flight = _Flight(self.changes.cache_epoch, self.changed, asyncio.ensure_future(read()), time_limit)
            self._flights[key] = flight
            flight.reading.add_done_callback(lambda _: self._on_landed(key, flight))
        elif flight.time_limit is not None and time_limit is not None:
            flight.time_limit.extend(time_limit)
        try:
            result: Read = await asyncio.shield(flight.reading)
        except Refusal as refusal:
            raise refusal.with_details() from None  # A copy: each caller's traceback is its own.
        return result

    def _on_landed(self, key: Hashable, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.reading.cancelled():
            flight.reading.exception()  # Every caller may have been cancelled.

    def _put_row(self, key: str, content: bytes | None, checkpoint: int) -> None:
        rows, absent = self._rows, self._absent
        for shelf in (rows, absent):
            entry = shelf.entries.get(key)
            if entry is not None:
                if entry[1] >= checkpoint:
                    return
                self._budget.drop(shelf, key)
        self._budget.put(absent if content is None else rows, key, content, checkpoint, len(key) + ROW_BYTES)

    # Changes.

    def apply_changes(self, keys: Iterable[str], positions: Iterable[int]) -> None:
        """Drop the entries that row changes make stale, and remember the changes."""
        recent, budget, shelves = self._recent, self._budget, (self._rows, self._absent)
        changed = self.changed
        for key, position in zip(keys, positions, strict=True):
            recent[key] = position
            recent.move_to_end(key)
            if position > changed:
                changed = position
            for shelf in shelves:
                entry = shelf.entries.get(key)
                if entry is not None and entry[1] < position:
                    budget.drop(shelf, key)
        self.changed = changed
        while len(recent) > RECENT_MAX:
            self.floor = max(self.floor, recent.popitem(last=False)[1])
        lists = self._lists
        for key in [key for key, entry in lists.entries.items() if entry[1] < changed]:
            budget.drop(lists, key)

    def begin(self, changed: int) -> None:
        """Begin after `clear` with the knowledge that no row changed after a position."""
        self.floor = self.changed = changed

    def clear(self) -> None:
        """Drop everything."""
        self._recent.clear()
        self.floor = self.changed = 0
        for shelf in (self._rows, self._absent, self._lists):
            self._budget.clear(shelf)


class _Flight:
    """A read under way, with the cache epoch and the last change before it began."""

    __slots__ = ("cache_epoch", "changed", "reading", "time_limit")

    def __init__(
        self, cache_epoch: int, changed: int, reading: asyncio.Future[Any], time_limit: TimeLimit | None
    ) -> None:
        self.cache_epoch = cache_epoch
        self.changed = changed
        self.reading = reading
        self.time_limit = time_limit
