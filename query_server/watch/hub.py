"""Hubs: what is new in a view, read once for all who watch it.

A hub reads what has changed after the place that it has reached, whenever the projection is said to have moved, and
puts each row into the buffers of those who watch it. A buffer keeps the latest state of a row alone, and is bounded:
a watch that falls further behind leaves the hub and begins anew, at its own pace. So nobody waits for a slow one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from diptych.contract.reasons import ReadModelNotReady
from diptych.domain.projection import View
from diptych.v1.read_model_pb2 import ResetReason
from query_server.freshness.progress import ProjectionProgress
from query_server.watch.change_reader import Change, Page, Place, WatchReader
from query_server.watch.resume_token import ResumeToken

POLL_SECONDS = 1.0
"""How often the store is asked for changes that nobody spoke of."""

PROGRESS_SECONDS = 1.0
"""How long a watch is silent before it is told how far everything is."""

LIFE_SECONDS = 10.0
"""How long a watch is silent at most."""

_ROOM_SECONDS = 0.05
_STORE_BEHIND_SECONDS = 0.02

_log = structlog.get_logger(__name__)


class Watcher:
    """A watch as its hub sees it: the rows that it wants, and those that it has not been told yet."""

    __slots__ = (
        "_bytes_max",
        "_pending",
        "_rows_max",
        "_size",
        "after",
        "keys",
        "loose",
        "patience_lost",
        "progress_due",
        "reset",
        "spoke",
        "told",
        "woken",
    )

    def __init__(self, keys: frozenset[str] | None, *, rows_max: int, bytes_max: int) -> None:
        self.keys = keys
        """None: all."""
        self.after = 0
        """Everything up to here it knows by other ways."""
        self.told = 0
        """The position of the last resume token that it was given."""
        self.spoke = 0.0
        """When it was last sent anything."""
        self.progress_due = False
        """Whether it is to be told how far everything is, if nothing else."""
        self.loose = False
        """Whether it was sent rows that end no cut."""
        self.reset: ResetReason | None = None
        """Why it must begin anew. It is in no hub then."""
        self.patience_lost = False
        """Whether the hub has waited for it in vain."""
        self.woken = asyncio.Event()
        self._pending: dict[str, Change] = {}  # In the order of positions.
        self._size = 0
        self._rows_max = rows_max
        self._bytes_max = bytes_max

    def put(self, change: Change) -> bool:
        """Takes a change, later than all before; whether there was room for it."""
        if change.position <= self.after:
            return True
        pending = self._pending
        before = pending.pop(change.key, None)
        if before is not None:
            self._size -= before.size
        pending[change.key] = change
        self._size += change.size
        if len(pending) > 1 and (len(pending) > self._rows_max or self._size > self._bytes_max):
            return False
        self.woken.set()
        return True

    def take(self) -> list[Change]:
        """Gives out what is pending, by position."""
        changes = list(self._pending.values())
        self._pending.clear()
        self._size = 0
        self.patience_lost = False
        return changes

    def know(self, position: int) -> None:
        """Drops what lies at a position or before it: it was told by other ways."""
        self.after = position
        changes = self.take()
        for change in changes:
            self.put(change)

    def begin_anew(self, reason: ResetReason) -> None:
        """Drops everything, and wakes the watch to begin anew."""
        self.take()
        self.reset = reason
        self.woken.set()

    @property
    def pending(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self._pending)

    @property
    def crowded(self) -> bool:
        """Whether a page more might be too much."""
        return 2 * len(self._pending) > self._rows_max or 2 * self._size > self._bytes_max


class Hub:
    """What is new in one view, for those who have caught up."""

    def __init__(
        self, view: View[Any], reader: WatchReader, progress: ProjectionProgress, clock: Callable[[], float]
    ) -> None:
        self.view = view
        self.settled = True
        """Whether all that belongs to the cut `at` is in the buffers, and nothing else."""
        self.at: ResumeToken | None = None
        """The last cut. None: nobody has watched yet."""
        self.overflows = 0
        """How many watches were too slow."""
        self.idle = True
        """Whether there is nothing that it knows of to read."""
        self._reader = reader
        self._progress = progress
        self._clock = clock
        self._watchers: dict[Watcher, None] = {}
        self._everything: dict[Watcher, None] = {}
        self._by_key: dict[str, list[Watcher]] = {}
        self._place = Place(0)
        self._read_at = 0  # The latest state of the store that anything was given out from.
        self._session = 0
        self._doubtful = False  # Whether somebody has read something else.
        self._looked = clock()
        self._woken = asyncio.Event()

    def join(self, watcher: Watcher, after: int, at: ResumeToken, read_at: int) -> int | None:
        """Lets a watcher in that was told everything up to `after`; from now on changes come to its buffer.

        It has read the store at `read_at`, which shows the cut `at`. Returns the position that it must have read the
        store at, before or after, so that it misses nothing. None: it is not let in, as the hub reads something
        else, which it will soon find out.
        """
        if not self._watchers:
            self._session += 1
            self._settle(at)
            self._read_at = read_at
        elif self.at is None or self.at.source != at.source:
            self._doubtful = True
            self.wake()
            return None
        watcher.after, watcher.told, watcher.reset = after, after, None
        self._watchers[watcher] = None
        if watcher.keys is None:
            self._everything[watcher] = None
        else:
            for key in watcher.keys:
                self._by_key.setdefault(key, []).append(watcher)
        self.wake()
        return self._read_at

    def leave(self, watcher: Watcher) -> None:
        """Lets a watcher go, if it is here."""
        if watcher not in self._watchers:
            return
        del self._watchers[watcher]
        if watcher.keys is None:
            del self._everything[watcher]
        else:
            for key in watcher.keys:
                others = self._by_key[key]
                others.remove(watcher)
                if not others:
                    del self._by_key[key]

    def __contains__(self, watcher: Watcher) -> bool:
        return watcher in self._watchers

    def wake(self) -> None:
        """Takes word that something may have changed."""
        self.idle = False
        self._woken.set()

    def tick(self, now: float) -> None:
        """Wakes those who have been silent for long to say how far everything is."""
        at = self.at
        if at is None or not self.settled:
            return
        for watcher in self._watchers:
            silent = now - watcher.spoke
            if silent >= PROGRESS_SECONDS and (at.position > watcher.told or silent >= LIFE_SECONDS):
                watcher.progress_due = True
                watcher.woken.set()

    async def run(self) -> None:
        """Reads what is new, for ever."""
        while True:
            try:
                # With nobody to read for it waits until somebody comes.
                async with asyncio.timeout(POLL_SECONDS if self._watchers else None):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            if self._watchers and self._due():
                try:
                    await self._read()
                except ReadModelNotReady:
                    await asyncio.sleep(_ROOM_SECONDS)  # The poll comes back to it.
            self.idle = not self._woken.is_set()

    def _due(self) -> bool:
        """Whether the store must be asked. If it is known that no row has changed, the cut moves on without."""
        at, progress = self.at, self._progress
        if at is None or not self.settled or self._doubtful or self._clock() - self._looked >= 0.9 * POLL_SECONDS:
            return True
        if progress.generation not in (0, at.source.generation) or progress.feed_generation != at.source.generation:
            return True
        if progress.feed_filling not in ("", at.source.filling) or progress.changed > at.position:
            return True
        if progress.feed_applied > at.position:
            self._settle(at._replace(position=progress.feed_applied))
        return progress.checkpoint > max(at.position, progress.feed_applied)

    def _settle(self, at: ResumeToken) -> None:
        self.at = at
        self._place = Place(at.position)
        self.settled = True

    async def _read(self) -> None:
        """Reads until there is nothing more."""
        session, self._doubtful, self._looked = self._session, False, self._clock()
        while self._watchers:
            at = self.at
            assert at is not None, "somebody has joined"
            page = await self._reader.changes(self.view, self._place, live=True)
            if session != self._session:
                self.wake()
                return
            if not page.continues(at):
                self._begin_anew(ResetReason.RESET_REASON_GENERATION)
                return
            if not page.reaches_back_to(self._place):
                self._begin_anew(ResetReason.RESET_REASON_OVERFLOW)
                return
            if not self._take(page, at):
                await self._make_room()
                if session != self._session:
                    self.wake()
                    return
                continue
            if self._progress.feed_generation == at.source.generation and self._progress.changed > page.position:
                # It is applied, and the store that we read does not show it yet.
                asyncio.get_running_loop().call_later(_STORE_BEHIND_SECONDS, self.wake)
            return

    def _take(self, page: Page, at: ResumeToken) -> bool:
        """Puts a page into the buffers; whether it was the last for now."""
        self._read_at = max(self._read_at, page.position)
        self._distribute(page.changes)
        if page.more:
            last = page.changes[-1]
            self._place, self.settled = Place(last.position, last.key), False
            return False
        position = max(at.position, self._progress.includes(page.source.generation, page.position))
        self._settle(ResumeToken(page.source, page.epoch, position))
        for watcher in self._watchers:
            if watcher.loose:  # It has had all that came before the last page; now it can be told where the cut is.
                watcher.progress_due = True
                watcher.woken.set()
        return True

    def _distribute(self, changes: list[Change]) -> None:
        slow: dict[Watcher, None] = {}
        for watcher in self._everything:
            for change in changes:
                if not watcher.put(change):
                    slow[watcher] = None
                    break
        if self._by_key:
            for change in changes:
                for watcher in self._by_key.get(change.key, ()):
                    if not watcher.put(change):
                        slow[watcher] = None
        self.overflows += len(slow)
        self._dismiss(slow, ResetReason.RESET_REASON_OVERFLOW)

    async def _make_room(self) -> None:
        """Gives those who read, but have not come to it yet, a moment to; once only to those who do not."""
        until = self._clock() + _ROOM_SECONDS
        crowded = [watcher for watcher in self._watchers if watcher.crowded and not watcher.patience_lost]
        while crowded and self._clock() < until:
            await asyncio.sleep(_ROOM_SECONDS / 25)
            crowded = [watcher for watcher in crowded if watcher.crowded]
        for watcher in crowded:
            watcher.patience_lost = True

    def _begin_anew(self, reason: ResetReason) -> None:
        """Everybody begins anew."""
        _log.info("watches begin anew", view=self.view.name, reason=ResetReason.Name(reason))
        self._dismiss(list(self._watchers), reason)

    def _dismiss(self, watchers: Iterable[Watcher], reason: ResetReason) -> None:
        for watcher in watchers:
            self.leave(watcher)
            watcher.begin_anew(reason)
