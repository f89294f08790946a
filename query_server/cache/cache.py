"""The cache: rows and answers of lists in memory, with the position that they are true at.

**What makes it true.** The feed tells, without a gap, which rows changed up to which position. An entry was read at a
checkpoint C. It is the row as of every position from C up to the first change of it, and the cache drops it when it
is told of a change after C; so at the position T up to which all changes are told, what is kept is true at max(C, T).

**What may come in.** A read that began before a change and ended after the cache was told of it must not bring the
old row back. For every view the last changes are remembered by key, and of those forgotten the greatest position, the
*floor*: a read at a checkpoint before either is refused. So is one that began in an earlier *life*: a life of the
cache of a projection ends with the feed, a gap in it, another generation, another log or another store file.

**When it answers.** Only if T suffices, the feed was heard within the last second, and it speaks of the generation
that the store says is active. A slow poll of the store stands behind the feed: if T falls behind a checkpoint seen
there for over a second, nothing is answered until it has caught up.

Nothing in here does I/O. It lives on one event loop, like `Freshness`, which tells it what is heard.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any, NamedTuple, TypeVar

from diptych.domain.projection import Projection, View
from diptych.domain.refusal import Refusal
from diptych.internal.v1.feed_pb2 import ProjectionFeed
from query_server.freshness.tracker import SILENCE_SECONDS, ReadAt

RECENT_MAX = 10_000
"""Changed keys remembered for each view."""

ROW_BYTES = 350
"""What a row takes beside its bytes and its key's, about."""

LIST_BYTES = 1000
"""What a list's answer takes beside its bytes and its request's, about."""

_LARGE = 16  # What would take a greater part of the whole than this is not kept.
_SPARE = 64  # When there is no room, such a part of the whole is made.

Read = TypeVar("Read", bound=ReadAt)


class Kept(NamedTuple):
    """What the cache has: the bytes (None: there is no such row), and the position that they are true at."""

    content: bytes | None
    position: int


class ListRead(NamedTuple):
    """A list's response as it was at a position of its projection."""

    response: bytes
    generation: int
    position: int


class Cache:
    """What is kept of the views of some projections, within so many bytes; 0: nothing."""

    def __init__(
        self, projections: Iterable[Projection], bytes_max: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._room = _Room(bytes_max)
        self._life = _Life(clock)
        self._projections = {
            projection.name: ProjectionCache(projection, self._room, self._life) for projection in projections
        }

    def view(self, view: View[Any]) -> ViewCache:
        """What is kept of a view."""
        return self._projections[view.projection.name].views[view.name]

    @property
    def views(self) -> list[ViewCache]:
        """What is kept of every view."""
        return [view for projection in self._projections.values() for view in projection.views.values()]

    # What is heard.

    def alive(self) -> None:
        """The feed gave a sign of life."""
        self._life.heard = self._life.clock()

    def heard(self, fed: ProjectionFeed) -> None:
        """The feed told something of a projection."""
        self._projections[fed.name].heard(fed)

    def lost(self) -> None:
        """The feed has ended."""
        self._life.heard = float("-inf")
        for projection in self._projections.values():
            projection.void()

    def void(self, projection: str) -> None:
        """All that was known of a projection's rows is void."""
        self._projections[projection].void()

    def saw_store(self, projection: str, generation: int, checkpoint: int) -> None:
        """The store has this active generation with this checkpoint; 0: it has none that can be read."""
        self._projections[projection].saw_store(generation, checkpoint, self._life.clock())


class ProjectionCache:
    """What is kept of one projection, and how far its changes have been told."""

    def __init__(self, projection: Projection, room: _Room, life: _Life) -> None:
        self.told = 0
        """All changes up to here are told, from the floors of the views on."""
        self.generation = 0
        """The generation that they are told of; 0: none."""
        self.life = 0
        """How often all was forgotten. What was read in an earlier life is not taken."""
        self.usable = False
        """Whether it may answer, as long as the feed lives."""
        self._stored = 0
        # A checkpoint that the store had at a time, and the one that `told` is late for.
        self._due, self._due_time, self._late = 0, 0.0, 0
        self.views = {view.name: ViewCache(view, self, room, life) for view in projection.views}

    def heard(self, fed: ProjectionFeed) -> None:
        """Takes a frame of the feed."""
        if self.begins(fed):
            self.void()
            self.generation = fed.generation
            for view in self.views.values():
                # Nothing after it changed a row.
                view.floor = view.changed = fed.changed_position
        else:
            for changes in fed.changes:
                view_cache = self.views.get(changes.view)
                if view_cache is not None:
                    view_cache.told(changes.keys, changes.positions)
        self.told = fed.applied_position
        self._settle()

    def begins(self, fed: ProjectionFeed) -> bool:
        """Whether what a frame tells does not go on from what was told before."""
        if (
            fed.gap
            or fed.generation != self.generation
            or fed.changes_after > self.told
            or fed.applied_position < self.told
        ):
            return True
        last = fed.changed_position  # If it is new, it is among the changes; a projector that tells none is no help.
        return last > self.told and not any(last in changes.positions for changes in fed.changes)

    def void(self) -> None:
        """Forgets everything."""
        self.life += 1
        self.told = self.generation = self._due = self._late = 0
        for view in self.views.values():
            view.clear()
        self._settle()

    def saw_store(self, generation: int, checkpoint: int, now: float) -> None:
        """Compares with what the store has, in case the feed does not tell."""
        self._stored = generation
        if self.told >= self._due:
            self._due, self._due_time = checkpoint, now
        elif now - self._due_time >= SILENCE_SECONDS:
            self._late = self._due
        self._settle()

    def _settle(self) -> None:
        self.usable = self.generation == self._stored != 0 and self.told >= self._late


class ViewCache:
    """What is kept of one view."""

    def __init__(self, view: View[Any], projection: ProjectionCache, room: _Room, life: _Life) -> None:
        self.name = view.name
        self.projection = projection
        self.changed = 0
        """No row changed after this position, as far as is told."""
        self.floor = 0
        """What changed up to here may have been forgotten, so that reads from before it tell nothing."""
        self.hits = 0
        """Look-ups that were answered."""
        self.misses = 0
        """Look-ups that were not: it was not kept, or not known to be fresh enough."""
        self.bypasses = 0
        """Look-ups while the cache could not answer."""
        self._room = room
        self._life = life
        self._recent: OrderedDict[str, int] = OrderedDict()
        self._rows, self._absent, self._lists = room.shelf(), room.shelf(), room.shelf()
        self._flights: dict[Hashable, _Flight] = {}

    @property
    def entries(self) -> int:
        """Rows, known absences of rows, and lists."""
        return len(self._rows.entries) + len(self._absent.entries) + len(self._lists.entries)

    @property
    def size(self) -> int:
        """The bytes that they take, about."""
        return self._rows.size + self._absent.size + self._lists.size

    # What is asked for.

    def row(self, key: str, wanted: int) -> Kept | None:
        """A row that includes a position, if it is kept."""
        projection, life = self.projection, self._life
        if not projection.usable or life.clock() - life.heard >= SILENCE_SECONDS:
            self.bypasses += 1
            return None
        entries = self._rows.entries
        entry = entries.get(key)
        if entry is None:
            entries = self._absent.entries
            entry = entries.get(key)
        if entry is not None:
            content, checkpoint, _ = entry
            position = projection.told
            if checkpoint > position:
                position = checkpoint
            if position >= wanted:
                entries.move_to_end(key)
                self.hits += 1
                return Kept(content, position)
        self.misses += 1
        return None

    def response(self, key: Hashable, wanted: int) -> Kept | None:
        """A list's response that includes a position, if it is kept."""
        projection, life = self.projection, self._life
        if not projection.usable or life.clock() - life.heard >= SILENCE_SECONDS:
            self.bypasses += 1
            return None
        entry = self._lists.entries.get(key)
        if entry is not None:
            content, checkpoint, _ = entry
            position = max(checkpoint, projection.told)
            if position >= wanted:
                self._lists.entries.move_to_end(key)
                self.hits += 1
                return Kept(content, position)
        self.misses += 1
        return None

    # What is read from the store.

    def keep_row(self, key: str, life: int, content: bytes | None, generation: int, checkpoint: int) -> None:
        """Takes a row that was read, if it cannot be older than a change that was told. It was read in a life."""
        projection = self.projection
        if life == projection.life and generation == projection.generation and self.admits(key, checkpoint):
            self._keep_row(key, content, checkpoint)

    def keep_list(self, key: Hashable, life: int, read: ListRead, key_bytes: int) -> None:
        """Takes a list's response that was read, on the same terms."""
        projection = self.projection
        if life == projection.life and read.generation == projection.generation and self.admits_list(read.position):
            self._room.put(self._lists, key, read.response, read.position, key_bytes + LIST_BYTES)

    def admits(self, key: str, checkpoint: int) -> bool:
        """Whether a row that was read at a checkpoint is known not to have changed after it, as far as is told."""
        return checkpoint >= self.floor and checkpoint >= self._recent.get(key, 0)

    def admits_list(self, checkpoint: int) -> bool:
        """The same of all rows."""
        return checkpoint >= self.changed

    def reads(self, key: Hashable) -> bool:
        """Whether a read that others can take part in is under way."""
        return key in self._flights

    async def shared(self, key: Hashable, read: Callable[[], Awaitable[Read]]) -> Read:
        """Reads, or takes part in a read of the same that began when all was told that is told now."""
        flight = self._flights.get(key)
        if flight is None or flight.life != self.projection.life or flight.changed != self.changed:
            flight = _Flight(self.projection.life, self.changed, asyncio.ensure_future(read()))
            self._flights[key] = flight
            flight.reading.add_done_callback(lambda _: self._landed(key, flight))
        try:
            result: Read = await asyncio.shield(flight.reading)
        except Refusal as refusal:
            raise copy.copy(refusal) from None  # Each caller adds a token of its own.
        return result

    def _landed(self, key: Hashable, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.reading.cancelled():
            flight.reading.exception()  # Perhaps nobody is there any more to be told.

    def _keep_row(self, key: str, content: bytes | None, checkpoint: int) -> None:
        rows, absent = self._rows, self._absent
        for shelf in (rows, absent):
            entry = shelf.entries.get(key)
            if entry is not None:
                if entry[1] >= checkpoint:
                    return
                self._room.drop(shelf, key)
        self._room.put(absent if content is None else rows, key, content, checkpoint, len(key) + ROW_BYTES)

    # What is told.

    def told(self, keys: Iterable[str], positions: Iterable[int]) -> None:
        """Rows changed at positions."""
        recent, room, shelves = self._recent, self._room, (self._rows, self._absent)
        changed = self.changed
        for key, position in zip(keys, positions, strict=True):
            recent[key] = position
            recent.move_to_end(key)
            if position > changed:
                changed = position
            for shelf in shelves:
                entry = shelf.entries.get(key)
                if entry is not None and entry[1] < position:
                    room.drop(shelf, key)
        self.changed = changed
        while len(recent) > RECENT_MAX:
            self.floor = max(self.floor, recent.popitem(last=False)[1])
        lists = self._lists
        for key in [key for key, entry in lists.entries.items() if entry[1] < changed]:
            room.drop(lists, key)

    def clear(self) -> None:
        """Forgets everything."""
        self._recent.clear()
        self.floor = self.changed = 0
        for shelf in (self._rows, self._absent, self._lists):
            self._room.clear(shelf)


class _Flight:
    """A read that is under way, with what was known when it began."""

    __slots__ = ("changed", "life", "reading")

    def __init__(self, life: int, changed: int, reading: asyncio.Future[Any]) -> None:
        self.life = life
        self.changed = changed
        self.reading = reading


class _Life:
    """When the feed was last heard."""

    __slots__ = ("clock", "heard")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.heard = float("-inf")


class _Shelf:
    """Entries, the least recently used first: content, the checkpoint that it was read at, and the bytes it takes."""

    __slots__ = ("entries", "size")

    def __init__(self) -> None:
        self.entries: OrderedDict[Any, tuple[bytes | None, int, int]] = OrderedDict()
        self.size = 0


class _Room:
    """The bytes that all shelves share. The one that takes most gives way, so that no flood can wash the others out."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._shelves: list[_Shelf] = []

    def shelf(self) -> _Shelf:
        shelf = _Shelf()
        self._shelves.append(shelf)
        return shelf

    def put(self, shelf: _Shelf, key: Hashable, content: bytes | None, checkpoint: int, more_bytes: int) -> None:
        size = more_bytes if content is None else len(content) + more_bytes
        if size > self._bytes_max // _LARGE:
            return
        if key in shelf.entries:
            self.drop(shelf, key)
        shelf.entries[key] = (content, checkpoint, size)
        shelf.size += size
        self._bytes += size
        if self._bytes > self._bytes_max:
            self._make_room()

    def drop(self, shelf: _Shelf, key: Hashable) -> None:
        size = shelf.entries.pop(key)[2]
        shelf.size -= size
        self._bytes -= size

    def clear(self, shelf: _Shelf) -> None:
        shelf.entries.clear()
        self._bytes -= shelf.size
        shelf.size = 0

    def _make_room(self) -> None:
        """Makes some room to spare, so that this is not gone through for every entry."""
        bytes_max = self._bytes_max - self._bytes_max // _SPARE
        while self._bytes > bytes_max:
            largest = max(self._shelves, key=lambda shelf: shelf.size)
            self.drop(largest, next(iter(largest.entries)))
