"""Watch session: the frames of one watch, from its beginning to its end.

1. A snapshot, paged by key; or with a resume token for some keys, the changes of those keys since then.
2. Changes since the point reached, in pages, as fast as the client takes them, until nothing is left.
3. Changes that the view's hub adds to the subscriber's buffer.

Each step begins at the cursor that the step before has reached:

- A snapshot is the rows of the cut at its first page. Later pages leave out rows that have changed since; those
  follow by position. So nothing need be remembered, and a row at a position is sent once.
- Before the last page of changes is read, the watch has joined its hub, which has read no more by then than that
  page. The positions tell which changes come from both.

A cut ends where everything up to a position was sent. There a resume token is sent. Where changes are missing, the
session sends `reset` and begins again with step 1.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial

from diptych.contract.reasons import QueryServerStopping, ResumeTokenExpired
from diptych.domain.refusal import Refusal
from diptych.server import failpoints
from diptych.v1.read_model_pb2 import ResetReason
from query_server.freshness.progress import ProjectionProgress
from query_server.watch.change_reader import Change, ChangeReader, Cursor, Page
from query_server.watch.frames import Frames
from query_server.watch.hub import Hub
from query_server.watch.memory import WatchMemory
from query_server.watch.resume_token import ResumeToken
from query_server.watch.subscriber import Subscriber, SubscriberState

PAGE_ROWS_MAX = 500
"""Rows read at a time; less if a buffer holds less than two pages."""

_PAUSE_SECONDS = 0.05

_BUFFERED_FRAME_BYTES = 64 << 10
"""A frame of buffered changes may have as many bytes, however many watches are open."""

_FRAME_COPIES = 2
"""Copies of a frame: ours, and gRPC's."""


class _ResetNeeded(Exception):
    """The rows sent so far do not lead on."""

    def __init__(self, reason: ResetReason) -> None:
        self.reason = reason


class WatchSession:
    """One watch."""

    def __init__(
        self,
        hub: Hub,
        reader: ChangeReader,
        progress: ProjectionProgress,
        subscriber: Subscriber,
        frames: Frames,
        start: ResumeToken | None,
        memory: WatchMemory,
        clock: Callable[[], float],
    ) -> None:
        """Prepare a watch in the task that sends its frames.

        Args:
            hub: The view's hub.
            reader: Reads changes.
            progress: Progress of the projection.
            subscriber: The watch, as the hub sees it.
            frames: Encodes the frames.
            start: Where to resume; None: begin with a snapshot.
            memory: Counts the bytes of all watches.
            clock: Source of monotonic seconds.
        """
        self.hub = hub
        self.subscriber = subscriber
        self._reader = reader
        self._progress = progress
        self._frames = frames
        self._start = start
        self._memory = memory
        self.share = memory.open(self.cancel)
        self._clock = clock
        self._is_stopping = False
        self._cursor = Cursor(0)
        self._cut: ResumeToken
        self._task = asyncio.current_task()

    def stop(self) -> None:
        """End the watch with a refusal, as soon as its client takes the next frame."""
        self._is_stopping = True
        self.subscriber.woken.set()

    def cancel(self) -> None:
        """End the watch without a refusal."""
        if self._task is not None:
            self._task.cancel()

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Yield all frames. Closing it leaves the hub to the caller.

        Raises:
            ResumeTokenExpired: Tombstones since the resume token are dropped.
            QueryServerStopping: The server stops.
            ReadModelNotReady: The projection has no readable generation.
        """
        start = self._start
        while True:
            try:
                beginning = self._snapshot() if start is None else self._changes_of_keys(start)
                for part in (beginning, self._catch_up(start), self._follow_hub()):
                    async with aclosing(part) as frames:
                        async for frame in frames:
                            self.subscriber.last_frame_at = self._clock()
                            self._memory.sends(self.share)
                            yield frame
                            self._memory.release(self.share)
            except _ResetNeeded as reset:
                self.hub.leave(self.subscriber)
                self.subscriber.behind()
                start = None
                yield self._frames.reset(reset.reason)

    # Step 1.

    async def _snapshot(self) -> AsyncGenerator[bytes, None]:
        """Yield the rows that exist, by key, as of the first page's cut."""
        cut: ResumeToken | None = None
        async for page in self._row_pages():
            if cut is None:
                cut = ResumeToken(page.source, page.epoch, page.position)
            self._check(page, cut)
            if frame := self._frames.rows(change for change in page.changes if change.position <= cut.position):
                yield frame
        assert cut is not None, "there is always a page"
        self._cut, self._cursor = cut, Cursor(cut.position)

    async def _row_pages(self) -> AsyncIterator[Page]:
        if self.subscriber.keys is None:
            after: str | None = None
            while True:
                page = await self._read(partial(self._reader.by_key, self.hub.view, after))
                yield page
                if not page.more:
                    return
                after = page.changes[-1].key
        keys = sorted(self.subscriber.keys)
        while keys:
            chunk = keys[:PAGE_ROWS_MAX]
            page = await self._read(partial(self._reader.of_keys, self.hub.view, chunk, deleted=False))
            yield page
            keys = keys[bisect_right(chunk, page.changes[-1].key) if page.more else len(chunk) :]

    async def _changes_of_keys(self, start: ResumeToken) -> AsyncGenerator[bytes, None]:
        """Yield changes of some keys since a resume token, however much else changed. Of all rows, step 2 does."""
        self._cut, self._cursor = start, Cursor(start.position)
        if self.subscriber.keys is None:
            return
        page, changed = await self._reader.changed_keys(self.hub.view, sorted(self.subscriber.keys), start.position)
        self._check(page, start)
        if not page.reaches_back_to(self._cursor):
            raise self._expired(start, page)
        position = max(page.position, start.position)
        while changed:
            chunk = changed[:PAGE_ROWS_MAX]
            page = await self._read(partial(self._reader.of_keys, self.hub.view, chunk, deleted=True))
            self._check(page, start)
            if not page.reaches_back_to(self._cursor):
                raise _ResetNeeded(ResetReason.RESET_REASON_OVERFLOW)
            # Rows that have changed once more follow by their position.
            if frame := self._frames.rows(c for c in page.changes if start.position < c.position <= position):
                yield frame
            read = {change.key for change in page.changes} if page.more else set(chunk)
            changed = [key for key in chunk if key not in read] + changed[PAGE_ROWS_MAX:]
        self._cut, self._cursor = start._replace(position=position), Cursor(position)

    # Step 2.

    async def _catch_up(self, start: ResumeToken | None) -> AsyncGenerator[bytes, None]:
        """Yield changes since the cursor, until the hub takes over."""
        subscriber, hub = self.subscriber, self.hub
        caught_up = False
        required: int | None = None
        while True:
            joined = subscriber.state is SubscriberState.SYNCED
            page = await self._read(partial(self._reader.changes, hub.view, self._cursor))
            self._check(page, self._cut)
            if not page.reaches_back_to(self._cursor):
                if self._cut is start:
                    raise self._expired(start, page)
                raise _ResetNeeded(ResetReason.RESET_REASON_OVERFLOW)
            changes = self._covered(page.changes)
            if page.more:
                last = page.changes[-1]
                self._cursor = Cursor(last.position, last.key)
                self._cut = self._cut._replace(position=max(self._cut.position, last.position))
                if frame := self._frames.rows(changes):
                    yield frame
                continue
            shown_position = self._progress.includes(page.source.generation, page.position)
            shown = ResumeToken(page.source, page.epoch, shown_position)
            # The server that gave the resume token may have been further than this one.
            position = max(self._cut.position, shown.position)
            self._cut, self._cursor = shown._replace(position=position), Cursor(position)
            if caught_up:
                if frame := self._frames.rows(changes, self._cut):
                    yield frame
            else:
                if frame := self._frames.rows(changes):
                    yield frame
                yield self._frames.caught_up(self._cut)
                caught_up = True
            if not joined:
                # It may have joined before, and been too slow: nothing is missing, as all is read from the store.
                required = hub.join(subscriber, position, shown, page.position)
            if required is not None and page.position >= required and subscriber.state is SubscriberState.SYNCED:
                subscriber.cover(position)
                subscriber.token_position = position
                return
            if joined or required is None:
                await asyncio.sleep(_PAUSE_SECONDS)

    # Step 3.

    async def _follow_hub(self) -> AsyncGenerator[bytes, None]:
        """Yield the changes that the hub adds to the buffer."""
        subscriber, hub = self.subscriber, self.hub
        self._memory.release(self.share)  # The last page had no row to send.
        while True:
            await subscriber.woken.wait()
            subscriber.woken.clear()
            self._check_not_stopping()
            if subscriber.reset_reason is not None:
                raise _ResetNeeded(subscriber.reset_reason)
            changes = subscriber.drain()
            cut = hub.cut if hub.is_cut_complete else None
            if cut is not None and cut.position < subscriber.covered_through:
                cut = cut._replace(position=subscriber.covered_through)
            due, subscriber.progress_due = subscriber.progress_due, False
            if cut is None:
                subscriber.has_uncut_rows = subscriber.has_uncut_rows or bool(changes)
            elif changes or due:
                subscriber.token_position, subscriber.has_uncut_rows = cut.position, False
            if changes:
                failpoints.hit("watch.taken")
                async for frame in self._buffered(changes, cut):
                    yield frame
                subscriber.release_drained()
            elif due and cut is not None:
                yield self._frames.progress(cut)

    async def _buffered(self, changes: list[Change], cut: ResumeToken | None) -> AsyncGenerator[bytes, None]:
        """Yield the frames of buffered changes, each when there is room for it."""
        for frame in self._frames.split(changes, cut, max(self._memory.page_bytes, _BUFFERED_FRAME_BYTES)):
            await self._memory.take(self.share, _FRAME_COPIES * len(frame))
            yield frame

    async def _read(self, read: Callable[[int], Awaitable[Page]]) -> Page:
        """Read a page when there is room for it, of the size that there is room for."""
        self._memory.release(self.share)
        page = await read(await self._memory.take_page(self.share))
        self._memory.fit_page(self.share, page.size)
        return page

    # Checks.

    def _check_not_stopping(self) -> None:
        if self._is_stopping:
            raise QueryServerStopping(projection=self.hub.view.projection.name)

    def _check(self, page: Page, cut: ResumeToken) -> None:
        """Raise if a page does not continue a cut."""
        self._check_not_stopping()
        if not page.continues(cut):
            raise _ResetNeeded(ResetReason.RESET_REASON_GENERATION)

    def _expired(self, start: ResumeToken, page: Page) -> Refusal:
        return ResumeTokenExpired(view=self.hub.view.name, position=start.position, oldest_position=page.floor)

    def _covered(self, changes: list[Change]) -> list[Change]:
        keys = self.subscriber.keys
        return changes if keys is None else [change for change in changes if change.key in keys]
