"""Watch: rows of a view as they stand, then every change.

A watch begins with a snapshot, paged by key, or where a resume token says. Then it reads by itself what has changed
since, in pages, as fast as its client takes them, until nothing is left; from there on its view's hub tells it what is
new. Each step begins at the place that the one before it has reached:

- A snapshot is the rows of the cut at its first page: later pages leave out what has changed since, which follows by
  position. So nothing need be remembered, and a row at a position is sent once.
- Before the last page of changes is read, the watch has joined its hub, which has read no more by then than that page.
  What comes from both is known by its position.

Where all up to a position is told, a cut ends, and a resume token is given.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from diptych.contract.reasons import Overloaded, QueryServerStopping, ResumeTokenExpired, UnknownView
from diptych.contract.validation import parse
from diptych.contract.wire import delimited
from diptych.domain.domain import Domain
from diptych.domain.projection import View
from diptych.domain.refusal import Refusal
from diptych.server import failpoints
from diptych.server.request_context import RequestContext
from diptych.server.router import Router
from diptych.server.settings import QueryServerSettings
from diptych.v1.events_pb2 import CaughtUp, Progress
from diptych.v1.read_model_pb2 import Reset, ResetReason, WatchRequest, WatchResponse
from query_server.freshness.tracked_projection import TrackedProjection
from query_server.freshness.tracker import FreshnessTracker
from query_server.queries.consistency import refuse
from query_server.watch.change_reader import Change, Page, Place, WatchReader
from query_server.watch.hub import Hub, Watcher
from query_server.watch.resume_token import ResumeToken, watched

SERVICE = "diptych.v1.ReadModelService"

FRAME_ROWS_MAX = 1000
FRAME_BYTES_MAX = 1 << 20
"""A frame ends before the row that would make it larger."""

PAGE_ROWS_MAX = 500
"""Rows read at a time; less if a buffer holds less than two pages."""

_TICK_SECONDS = 0.1
_PAUSE_SECONDS = 0.05
_PARTING_SECONDS = 1.0
"""How long a watch whose client takes nothing has to end when the server stops."""


class Watches:
    """All watches of a query server."""

    def __init__(self, domain: Domain, freshness: FreshnessTracker, path: Path, settings: QueryServerSettings) -> None:
        self.closed = False
        self.rows = 0
        """Rows that were sent."""
        self.settings = settings
        self.freshness = freshness
        self.reader = WatchReader(
            path, domain.projections.values(), max(1, min(PAGE_ROWS_MAX, settings.watch_buffer_rows_max // 2))
        )
        self._views = domain.views
        self._hubs: dict[str, Hub] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: dict[_Watch, None] = {}
        self._keys = 0
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        freshness.listeners.append(self._moved)

    def bind(self, router: Router) -> None:
        """Binds the rpc."""
        router.bind_stream(SERVICE, "Watch", self.watch)

    @property
    def open(self) -> int:
        """How many watches are open."""
        return len(self._open)

    @property
    def overflows(self) -> int:
        """How often a watch was too slow, and began anew."""
        return sum(hub.overflows for hub in self._hubs.values())

    async def run(self) -> None:
        """Tells those who watch that all is well, for ever; raises what a part of it fails with."""
        while True:
            await asyncio.wait((self._failed,), timeout=_TICK_SECONDS)
            if self._failed.done():
                self._failed.result()
            now = self.freshness.now
            for hub in self._hubs.values():
                hub.tick(now)

    async def drain(self) -> None:
        """Ends all watches, and lets none begin."""
        self.closed = True
        for watch in self._open:
            watch.watcher.woken.set()
        asyncio.get_running_loop().call_later(_PARTING_SECONDS, self._part)

    def _part(self) -> None:
        for watch in list(self._open):
            watch.cancel()

    async def close(self) -> None:
        """Closes what was opened."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.reader.close()

    async def watch(self, data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        """Sends rows of a view, then every change."""
        tracker: TrackedProjection | None = None
        try:
            request = parse(WatchRequest, data)
            view = self._views.get(request.view)
            if view is None:
                raise UnknownView(view=request.view)
            tracker = self.freshness.projections[view.projection.name]
            keys = frozenset(request.keys.keys) if request.HasField("keys") else None
            digest = watched(view.name, keys)
            start = ResumeToken.decode(request.resume_token, digest) if request.resume_token else None
            watch = self._begin(view, keys, digest, start)
            # A client that vanishes while a frame is on its way leaves the frames to the garbage collector.
            context.on_end(lambda: self._end(watch))
            try:
                async with aclosing(watch.frames()) as frames:
                    async for frame in frames:
                        yield frame
            finally:
                self._end(watch)
        except Refusal as refusal:
            raise refuse(refusal, context, self.freshness, tracker, "") from None

    def _begin(self, view: View[Any], keys: frozenset[str] | None, digest: bytes, start: ResumeToken | None) -> _Watch:
        settings = self.settings
        if self.closed:
            raise QueryServerStopping(projection=view.projection.name)
        if len(self._open) >= settings.watches_max:
            raise Overloaded(what="watches", limit=settings.watches_max).with_details(retry_seconds=1)
        count = len(keys or ())
        if self._keys + count > settings.watched_keys_max:
            raise Overloaded(what="watched keys", limit=settings.watched_keys_max).with_details(retry_seconds=1)
        watch = _Watch(self, self._hub(view), keys, digest, start)
        self._open[watch] = None
        self._keys += count
        return watch

    def _end(self, watch: _Watch) -> None:
        if watch in self._open:
            del self._open[watch]
            self._keys -= len(watch.watcher.keys or ())
            watch.hub.leave(watch.watcher)

    def _hub(self, view: View[Any]) -> Hub:
        hub = self._hubs.get(view.name)
        if hub is None:
            tracker = self.freshness.projections[view.projection.name]
            hub = self._hubs[view.name] = Hub(view, self.reader, tracker.progress, lambda: self.freshness.now)
            task = asyncio.create_task(hub.run(), name=f"hub {view.name}")
            task.add_done_callback(self._ended)
            self._tasks.add(task)
        return hub

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not self._failed.done() and (error := task.exception()) is not None:
            self._failed.set_exception(error)

    def _moved(self, tracker: TrackedProjection) -> None:
        for hub in self._hubs.values():
            if hub.view.projection.name == tracker.name:
                hub.wake()


class _Anew(Exception):
    """What was told so far does not lead on."""

    def __init__(self, reason: ResetReason) -> None:
        self.reason = reason


class _Watch:
    """One watch."""

    def __init__(
        self, watches: Watches, hub: Hub, keys: frozenset[str] | None, digest: bytes, start: ResumeToken | None
    ) -> None:
        settings = watches.settings
        self.hub = hub
        self.watcher = Watcher(keys, rows_max=settings.watch_buffer_rows_max, bytes_max=settings.watch_buffer_bytes_max)
        self._watches = watches
        self._reader = watches.reader
        self._view = hub.view
        self._tracked_progress = watches.freshness.projections[hub.view.projection.name].progress
        self._keys = keys
        self._digest = digest
        self._start = start
        self._place = Place(0)
        self._at: ResumeToken
        self._task = asyncio.current_task()

    def cancel(self) -> None:
        """Ends it without a word."""
        if self._task is not None:
            self._task.cancel()

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Everything that the client is sent."""
        start = self._start
        while True:
            try:
                beginning = self._snapshot() if start is None else self._changes_of_keys(start)
                for part in (beginning, self._changes(start), self._news()):
                    async with aclosing(part) as frames:
                        async for frame in frames:
                            self.watcher.spoke = self._watches.freshness.now
                            yield frame
            except _Anew as anew:
                self.hub.leave(self.watcher)
                start = None
                yield WatchResponse(reset=Reset(reason=anew.reason)).SerializeToString()

    async def _snapshot(self) -> AsyncGenerator[bytes, None]:
        """The rows there are, by key, as of the first page's cut."""
        at: ResumeToken | None = None
        async for page in self._rows():
            if at is None:
                at = ResumeToken(page.source, page.epoch, page.position)
            self._check(page, at)
            if frame := self._frame(change for change in page.changes if change.position <= at.position):
                yield frame
        assert at is not None, "there is always a page"
        self._at, self._place = at, Place(at.position)

    async def _rows(self) -> AsyncIterator[Page]:
        if self._keys is None:
            after: str | None = None
            while True:
                page = await self._reader.by_key(self._view, after)
                yield page
                if not page.more:
                    return
                after = page.changes[-1].key
        keys = sorted(self._keys)
        while keys:
            chunk = keys[:PAGE_ROWS_MAX]
            page = await self._reader.of_keys(self._view, chunk, deleted=False)
            yield page
            keys = keys[bisect_right(chunk, page.changes[-1].key) if page.more else len(chunk) :]

    async def _changes_of_keys(self, start: ResumeToken) -> AsyncGenerator[bytes, None]:
        """Changes since a resume token: of few keys, however much else has changed. Of all rows they follow anyway."""
        self._at, self._place = start, Place(start.position)
        if self._keys is None:
            return
        page, changed = await self._reader.changed_keys(self._view, sorted(self._keys), start.position)
        self._check(page, start)
        if not page.reaches_back_to(self._place):
            raise self._expired(start, page)
        position = max(page.position, start.position)
        while changed:
            chunk = changed[:PAGE_ROWS_MAX]
            page = await self._reader.of_keys(self._view, chunk, deleted=True)
            self._check(page, start)
            if not page.reaches_back_to(self._place):
                raise _Anew(ResetReason.RESET_REASON_OVERFLOW)
            # What has changed once more follows by its position.
            if frame := self._frame(c for c in page.changes if start.position < c.position <= position):
                yield frame
            told = {change.key for change in page.changes} if page.more else set(chunk)
            changed = [key for key in chunk if key not in told] + changed[PAGE_ROWS_MAX:]
        self._at, self._place = start._replace(position=position), Place(position)

    async def _changes(self, start: ResumeToken | None) -> AsyncGenerator[bytes, None]:
        """Changes since the place reached, until the hub takes over."""
        watcher, hub = self.watcher, self.hub
        caught_up = False
        wanted: int | None = None
        while True:
            joined = watcher in hub
            page = await self._reader.changes(self._view, self._place)
            self._check(page, self._at)
            if not page.reaches_back_to(self._place):
                if self._at is start:
                    raise self._expired(start, page)
                raise _Anew(ResetReason.RESET_REASON_OVERFLOW)
            changes = self._mine(page.changes)
            if page.more:
                last = page.changes[-1]
                self._place = Place(last.position, last.key)
                self._at = self._at._replace(position=max(self._at.position, last.position))
                if frame := self._frame(changes):
                    yield frame
                continue
            shown = ResumeToken(
                page.source, page.epoch, self._tracked_progress.includes(page.source.generation, page.position)
            )
            # A watch that is resumed may know more than this server does.
            position = max(self._at.position, shown.position)
            self._at, self._place = shown._replace(position=position), Place(position)
            if caught_up:
                if frame := self._frame(changes, self._at):
                    yield frame
            else:
                if frame := self._frame(changes):
                    yield frame
                yield self._caught_up(self._at)
                caught_up = True
            if not joined:
                # It may have been there, and have been too slow: nothing is lost, as all is read from the store.
                wanted = hub.join(watcher, position, shown, page.position)
            if wanted is not None and page.position >= wanted and watcher in hub:
                watcher.know(position)
                watcher.told = position
                return
            if joined or wanted is None:
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _news(self) -> AsyncGenerator[bytes, None]:
        """What the hub tells."""
        watcher, hub = self.watcher, self.hub
        while True:
            await watcher.woken.wait()
            watcher.woken.clear()
            self._check_open()
            if watcher.reset is not None:
                raise _Anew(watcher.reset)
            changes = watcher.take()
            at = hub.at
            if not hub.settled or at is None:
                at = None
            elif at.position < watcher.after:
                at = at._replace(position=watcher.after)
            due, watcher.progress_due = watcher.progress_due, False
            if at is None:
                watcher.loose = watcher.loose or bool(changes)
            elif changes or due:
                watcher.told, watcher.loose = at.position, False
            if changes:
                failpoints.hit("watch.taken")
                for frame in self._frames(changes, at):
                    yield frame
            elif due and at is not None:
                yield self._progress(at)

    def _check_open(self) -> None:
        if self._watches.closed:
            raise QueryServerStopping(projection=self._view.projection.name)

    def _check(self, page: Page, told: ResumeToken) -> None:
        """Judges whether a page leads on from what was told."""
        self._check_open()
        if not page.continues(told):
            raise _Anew(ResetReason.RESET_REASON_GENERATION)

    def _expired(self, start: ResumeToken, page: Page) -> Refusal:
        return ResumeTokenExpired(view=self._view.name, position=start.position, oldest_position=page.floor)

    def _mine(self, changes: list[Change]) -> list[Change]:
        keys = self._keys
        return changes if keys is None else [change for change in changes if change.key in keys]

    # Frames.

    def _frames(self, changes: list[Change], at: ResumeToken | None) -> Iterator[bytes]:
        """As many frames as these changes need; the last one ends a cut, if there is one."""
        begin, size = 0, 0
        for index, change in enumerate(changes):
            if index - begin == FRAME_ROWS_MAX or (index > begin and size + len(change.content) > FRAME_BYTES_MAX):
                yield self._frame(changes[begin:index])
                begin, size = index, 0
            size += len(change.content)
        yield self._frame(changes[begin:], at)

    def _frame(self, changes: Iterable[Change], at: ResumeToken | None = None) -> bytes:
        """A frame of rows, put together by hand; empty without any."""
        contents = [change.content for change in changes]
        if not contents:
            return b""
        self._watches.rows += len(contents)
        batch = delimited(1, b"".join(contents))
        return batch if at is None else batch + delimited(5, at.encode(self._digest))

    def _caught_up(self, at: ResumeToken) -> bytes:
        token = self._watches.freshness.head.token(min(at.position, self._tracked_progress.bound))
        return WatchResponse(
            caught_up=CaughtUp(token=token), resume_token=at.encode(self._digest).decode()
        ).SerializeToString()

    def _progress(self, at: ResumeToken) -> bytes:
        freshness = self._watches.freshness
        progress = Progress(
            token=freshness.head.token(min(at.position, self._tracked_progress.bound)),
            position=at.position,
            head_position=max(freshness.head.known_position, at.position),
        )
        return WatchResponse(progress=progress, resume_token=at.encode(self._digest).decode()).SerializeToString()
