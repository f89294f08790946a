"""Hub: reads the changes of a view once for all watches that are synced.

1. Whenever the projection may have moved, and at least once a second, the hub reads the changes after its cursor.
2. It adds each row to the buffers of the subscribers that cover it. A buffer has the latest state of a row only.
3. A subscriber whose buffer is full is lost: it leaves the hub and begins again at its own speed. So no slow watch
   delays another.
4. After the last page the cut advances to the position that the page is proved to include. A resume token names a cut.

If the feed shows that no row changed, the cut advances without a read. `subscriber` has the states of a watch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Any

import structlog

from diptych.contract.reasons import ReadModelNotReady
from diptych.domain.projection import View
from diptych.v1.read_model_pb2 import ResetReason
from query_server.freshness.progress import ProjectionProgress
from query_server.watch.change_reader import Change, ChangeReader, Cursor, Page
from query_server.watch.memory import BufferMemory
from query_server.watch.resume_token import ResumeToken
from query_server.watch.subscriber import Subscriber, SubscriberState

POLL_SECONDS = 1.0
"""Greatest time between two reads while anybody watches."""

PROGRESS_SECONDS = 1.0
"""Silence after which a watch is sent its progress, if there is any."""

HEARTBEAT_SECONDS = 10.0
"""Greatest silence of a watch."""

_ROOM_SECONDS = 0.05
_STORE_BEHIND_SECONDS = 0.02

_log = structlog.get_logger(__name__)


class Hub:
    """Changes of one view, for the subscribers that are synced. Belongs to one event loop."""

    def __init__(
        self,
        view: View[Any],
        reader: ChangeReader,
        progress: ProjectionProgress,
        memory: BufferMemory,
        clock: Callable[[], float],
    ) -> None:
        self.view = view
        self.cut: ResumeToken | None = None
        """The last cut; None: no watch has joined yet."""
        self.is_cut_complete = True
        """True if the buffers have everything that belongs to the cut, and nothing else."""
        self.overflows = 0
        """Number of subscribers that were lost because they were too slow."""
        self.is_idle = True
        """True if no change is known that is not read."""
        self._reader = reader
        self._progress = progress
        self._memory = memory
        self._clock = clock
        self._subscribers: dict[Subscriber, None] = {}
        self._of_all_rows: dict[Subscriber, None] = {}
        # A set takes 224 bytes, so a key of one subscriber has none. Removing from a set takes the same time for any
        # number of subscribers.
        self._of_key: dict[str, Subscriber | set[Subscriber]] = {}
        self._cursor = Cursor(0)
        self._read_position = 0  # The latest checkpoint of the store from which changes were added.
        self._session = 0  # Incremented when a subscriber joins an empty hub.
        self._must_read = False  # True if a watch has read another filling than the hub.
        self._last_read_at = clock()
        self._woken = asyncio.Event()

    # Subscribers.

    def join(self, subscriber: Subscriber, after: int, cut: ResumeToken, read_position: int) -> int | None:
        """Add a subscriber that was sent everything up to `after`. From now on changes go to its buffer.

        Args:
            subscriber: The subscriber.
            after: Position up to which it was sent everything.
            cut: The cut that it has read.
            read_position: Checkpoint at which it has read the store.

        Returns:
            The checkpoint at which it must have read the store, before or after joining, to miss nothing. None: it
            was not added, as the hub reads another filling, which the hub will soon find out.
        """
        if not self._subscribers:
            self._session += 1
            self._complete(cut)
            self._read_position = read_position
        elif self.cut is None or self.cut.source != cut.source:
            self._must_read = True
            self.wake()
            return None
        subscriber.synced(after)
        self._subscribers[subscriber] = None
        if subscriber.keys is None:
            self._of_all_rows[subscriber] = None
        else:
            self._add_keys(subscriber, subscriber.keys)
        self.wake()
        return self._read_position

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber, if it is synced."""
        if subscriber.state is not SubscriberState.SYNCED:
            return
        subscriber.behind()
        del self._subscribers[subscriber]
        if subscriber.keys is None:
            del self._of_all_rows[subscriber]
        else:
            self._remove_keys(subscriber, subscriber.keys)

    def _add_keys(self, subscriber: Subscriber, keys: Iterable[str]) -> None:
        of_key = self._of_key
        for key in keys:
            others = of_key.setdefault(key, subscriber)
            if isinstance(others, set):
                others.add(subscriber)
            elif others is not subscriber:
                of_key[key] = {others, subscriber}

    def _remove_keys(self, subscriber: Subscriber, keys: Iterable[str]) -> None:
        of_key = self._of_key
        for key in keys:
            others = of_key[key]
            if isinstance(others, set):
                others.remove(subscriber)
                if len(others) == 1:
                    of_key[key] = others.pop()
            else:
                del of_key[key]

    def wake(self) -> None:
        """Note that rows may have changed."""
        self.is_idle = False
        self._woken.set()

    def remind(self, now: float) -> None:
        """Wake the watches that have been silent for long, to send their progress."""
        cut = self.cut
        if cut is None or not self.is_cut_complete:
            return
        for subscriber in self._subscribers:
            silent = now - subscriber.last_frame_at
            if silent >= PROGRESS_SECONDS and (cut.position > subscriber.token_position or silent >= HEARTBEAT_SECONDS):
                subscriber.progress_due = True
                subscriber.woken.set()

    def lose_slow(self, subscribers: Collection[Subscriber]) -> None:
        """Reset subscribers whose buffers are full, or fuller than those of others."""
        self.overflows += len(subscribers)
        self._lose(subscribers, ResetReason.RESET_REASON_OVERFLOW)

    def _lose(self, subscribers: Iterable[Subscriber], reason: ResetReason) -> None:
        for subscriber in subscribers:
            self.leave(subscriber)
            subscriber.lost(reason)

    def _lose_all(self, reason: ResetReason) -> None:
        _log.info("watches reset", view=self.view.name, reason=ResetReason.Name(reason))
        self._lose(list(self._subscribers), reason)

    # Reads.

    async def run(self) -> None:
        """Read changes until cancelled."""
        while True:
            try:
                # Without subscribers it waits until one joins.
                async with asyncio.timeout(POLL_SECONDS if self._subscribers else None):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            if self._subscribers and self._needs_read():
                try:
                    await self._read()
                except ReadModelNotReady:
                    await asyncio.sleep(_ROOM_SECONDS)  # The next poll repeats it.
            self.is_idle = not self._woken.is_set()

    def _needs_read(self) -> bool:
        """Return True if rows may have changed. If not, advance the cut without a read."""
        cut, progress = self.cut, self._progress
        if cut is None or not self.is_cut_complete or self._must_read:
            return True
        if self._clock() - self._last_read_at >= 0.9 * POLL_SECONDS:
            return True
        if progress.generation not in (0, cut.source.generation) or progress.feed_generation != cut.source.generation:
            return True
        if progress.feed_filling not in ("", cut.source.filling) or progress.changed > cut.position:
            return True
        if progress.feed_applied > cut.position:
            self._complete(cut._replace(position=progress.feed_applied))
        return progress.checkpoint > max(cut.position, progress.feed_applied)

    async def _read(self) -> None:
        """Read pages until there is nothing more."""
        session, self._must_read, self._last_read_at = self._session, False, self._clock()
        while self._subscribers:
            cut = self.cut
            assert cut is not None, "a subscriber has joined"
            page = await self._reader.changes(self.view, self._cursor, live=True)
            if session != self._session:
                self.wake()
                return
            if not page.continues(cut):
                self._lose_all(ResetReason.RESET_REASON_GENERATION)
                return
            if not page.reaches_back_to(self._cursor):
                self._lose_all(ResetReason.RESET_REASON_OVERFLOW)
                return
            if not self._add_page(page, cut):
                await self._make_room()
                if session != self._session:
                    self.wake()
                    return
                continue
            if self._progress.feed_generation == cut.source.generation and self._progress.changed > page.position:
                # It is applied, and the store does not show it yet.
                asyncio.get_running_loop().call_later(_STORE_BEHIND_SECONDS, self.wake)
            return

    def _add_page(self, page: Page, cut: ResumeToken) -> bool:
        """Add a page to the buffers; return True if it was the last for now."""
        self._read_position = max(self._read_position, page.position)
        self._add_changes(page.changes)
        if page.more:
            last = page.changes[-1]
            self._cursor, self.is_cut_complete = Cursor(last.position, last.key), False
            return False
        position = max(cut.position, self._progress.includes(page.source.generation, page.position))
        self._complete(ResumeToken(page.source, page.epoch, position))
        for subscriber in self._subscribers:
            if subscriber.has_uncut_rows:  # It was sent all rows before this page; now they end a cut.
                subscriber.progress_due = True
                subscriber.woken.set()
        return True

    def _add_changes(self, changes: list[Change]) -> None:
        slow: dict[Subscriber, None] = {}
        for subscriber in self._of_all_rows:
            for change in changes:
                if not subscriber.add(change):
                    slow[subscriber] = None
                    break
        if self._of_key:
            for change in changes:
                subscribers = self._of_key.get(change.key)
                if subscribers is None:
                    continue
                for subscriber in subscribers if isinstance(subscribers, set) else (subscribers,):
                    if not subscriber.add(change):
                        slow[subscriber] = None
        self.lose_slow(slow)
        if self._memory.is_full:
            self._memory.relieve()

    def _complete(self, cut: ResumeToken) -> None:
        self.cut = cut
        self._cursor = Cursor(cut.position)
        self.is_cut_complete = True

    async def _make_room(self) -> None:
        """Wait up to 50 ms for watches whose buffer is nearly full. A watch that does not drain gets this once."""
        until = self._clock() + _ROOM_SECONDS
        full = [one for one in self._subscribers if one.is_nearly_full and not one.was_waited_for]
        while full and self._clock() < until:
            await asyncio.sleep(_ROOM_SECONDS / 25)
            full = [one for one in full if one.is_nearly_full]
        for subscriber in full:
            subscriber.was_waited_for = True
