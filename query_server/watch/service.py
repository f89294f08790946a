"""Watch service: the rpc `Watch`, the limits of watches, and one hub for each watched view."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from diptych.contract.reasons import Overloaded, QueryServerStopping, UnknownView
from diptych.contract.validation import parse
from diptych.domain.domain import Domain
from diptych.domain.projection import View
from diptych.domain.refusal import Refusal
from diptych.server.request_context import RequestContext
from diptych.server.router import Router
from diptych.server.settings import QueryServerSettings
from diptych.v1.read_model_pb2 import WatchRequest
from query_server.freshness.tracked_projection import TrackedProjection
from query_server.freshness.tracker import FreshnessTracker
from query_server.queries.consistency import refuse
from query_server.watch.change_reader import ChangeReader
from query_server.watch.frames import Frames
from query_server.watch.hub import Hub
from query_server.watch.memory import WatchMemory
from query_server.watch.resume_token import ResumeToken, watched
from query_server.watch.session import PAGE_ROWS_MAX, WatchSession
from query_server.watch.subscriber import Subscriber, SubscriberState

SERVICE = "diptych.v1.ReadModelService"

_REMIND_SECONDS = 0.1
DRAIN_SECONDS = 1.0
"""Time that a watch whose client takes no frames has to end when the server stops."""


class WatchService:
    """All watches of a query server."""

    def __init__(
        self,
        domain: Domain,
        tracker: FreshnessTracker,
        path: Path,
        settings: QueryServerSettings,
        *,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        """Create the service, without open watches.

        Args:
            domain: The domain whose views can be watched.
            tracker: Progress of the projections.
            path: The read store's file.
            settings: Limits of watches and buffers.
            drain_seconds: Time that a watch whose client takes no frames has to end.
        """
        self._drain_seconds = drain_seconds
        page_rows = max(1, min(PAGE_ROWS_MAX, settings.watch_buffer_rows_max // 2))
        self.reader = ChangeReader(path, domain.projections.values(), page_rows)
        self._views = domain.views
        self._tracker = tracker
        self._settings = settings
        self._is_closed = False
        self._hubs: dict[str, Hub] = {}
        self._hub_tasks: asyncio.TaskGroup | None = None
        self._open: dict[WatchSession, Frames] = {}
        self.memory = WatchMemory(settings.watch_bytes_max, self._now)
        self.memory.buffers.relieve = self._reset_fullest
        self._keys = 0
        self._rows_sent = 0  # By watches that have ended.
        tracker.listeners.append(self._on_progress)

    def bind(self, router: Router) -> None:
        """Bind the rpc."""
        router.bind_stream(SERVICE, "Watch", self.watch)

    @property
    def open(self) -> int:
        """Number of open watches."""
        return len(self._open)

    @property
    def rows(self) -> int:
        """Number of rows sent."""
        return self._rows_sent + sum(frames.rows_sent for frames in self._open.values())

    @property
    def overflows(self) -> int:
        """Number of times that a watch was too slow, and was reset."""
        return sum(hub.overflows for hub in self._hubs.values())

    async def run(self) -> None:
        """Run the hubs, and remind silent watches, until cancelled. Raise the error of a hub that fails."""
        async with asyncio.TaskGroup() as tasks:
            self._hub_tasks = tasks
            for hub in self._hubs.values():
                self._start(hub)
            while True:
                await asyncio.sleep(_REMIND_SECONDS)
                now = self._tracker.now
                for hub in self._hubs.values():
                    hub.remind(now)

    async def drain(self) -> None:
        """End all watches, and let none begin. Those whose clients take no frames end after `drain_seconds`."""
        self._is_closed = True
        for session in self._open:
            session.stop()
        asyncio.get_running_loop().call_later(self._drain_seconds, self._cancel_all)

    def _cancel_all(self) -> None:
        for session in list(self._open):
            session.cancel()

    async def close(self) -> None:
        """Close the reader. `run` must have ended."""
        await self.reader.close()

    async def watch(self, data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        """Yield the rows of a view, then every change."""
        tracked: TrackedProjection | None = None
        try:
            request = parse(WatchRequest, data)
            view = self._views.get(request.view)
            if view is None:
                raise UnknownView(view=request.view)
            tracked = self._tracker.projections[view.projection.name]
            keys = frozenset(request.keys.keys) if request.HasField("keys") else None
            digest = watched(view.name, keys)
            start = ResumeToken.decode(request.resume_token, digest) if request.resume_token else None
            session = self._begin(view, tracked, keys, digest, start)
            # A client that vanishes while a frame is under way leaves the generator to the garbage collector.
            context.on_end(lambda: self._end(session))
            try:
                async with aclosing(session.frames()) as frames:
                    async for frame in frames:
                        yield frame
            finally:
                self._end(session)
        except Refusal as refusal:
            raise refuse(refusal, context, self._tracker, tracked, "") from None

    def _begin(
        self,
        view: View[Any],
        tracked: TrackedProjection,
        keys: frozenset[str] | None,
        digest: bytes,
        start: ResumeToken | None,
    ) -> WatchSession:
        settings = self._settings
        if self._is_closed:
            raise QueryServerStopping(projection=view.projection.name)
        if len(self._open) >= settings.watches_max:
            raise Overloaded(what="watches", limit=settings.watches_max).with_details(retry_seconds=1)
        if not self.memory.has_room:
            raise Overloaded(what="bytes of watches", limit=settings.watch_bytes_max).with_details(retry_seconds=1)
        count = len(keys or ())
        if self._keys + count > settings.watched_keys_max:
            raise Overloaded(what="watched keys", limit=settings.watched_keys_max).with_details(retry_seconds=1)
        subscriber = Subscriber(
            keys,
            rows_max=settings.watch_buffer_rows_max,
            bytes_max=settings.watch_buffer_bytes_max,
            memory=self.memory.buffers,
        )
        frames = Frames(view.name, digest, tracked.progress, self._tracker.head, settings.message_bytes_max)
        session = WatchSession(
            self._hub(view, tracked),
            self.reader,
            tracked.progress,
            subscriber,
            frames,
            start,
            self.memory,
            self._now,
        )
        self._open[session] = frames
        self._keys += count
        return session

    def _end(self, session: WatchSession) -> None:
        frames = self._open.pop(session, None)
        if frames is not None:
            self._rows_sent += frames.rows_sent
            self._keys -= len(session.subscriber.keys or ())
            session.hub.leave(session.subscriber)
            session.subscriber.release()
            session.subscriber.release_drained()
            self.memory.close(session.share)

    def _reset_fullest(self) -> None:
        """Reset the watches with the fullest buffers of all views, until the buffers have room again."""
        fullest = sorted(self._open, key=lambda session: session.subscriber.pending_bytes, reverse=True)
        for session in fullest:
            if not self.memory.buffers.is_full:
                return
            if session.subscriber.state is SubscriberState.SYNCED and session.subscriber.has_pending:
                session.hub.lose_slow((session.subscriber,))

    def _hub(self, view: View[Any], tracked: TrackedProjection) -> Hub:
        hub = self._hubs.get(view.name)
        if hub is None:
            hub = self._hubs[view.name] = Hub(view, self.reader, tracked.progress, self.memory.buffers, self._now)
            self._start(hub)
        return hub

    def _start(self, hub: Hub) -> None:
        if self._hub_tasks is not None:
            self._hub_tasks.create_task(hub.run(), name=f"hub {hub.view.name}")

    def _now(self) -> float:
        return self._tracker.now

    def _on_progress(self, tracked: TrackedProjection) -> None:
        for hub in self._hubs.values():
            if hub.view.projection.name == tracked.name:
                hub.wake()
