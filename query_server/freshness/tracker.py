"""Freshness tracker: passes feed frames, head reports and store polls on to the projections that they are about.

It owns the head, the tracked projections and the wait pool, and does no I/O. `Upstreams` and `StorePoller` call its
`on_*` methods; `TokenJudge`, `FreshReads` and the watches read from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from diptych.contract.identity_codec import identity_from_message
from diptych.contract.reasons import Overloaded
from diptych.contract.token import LogIdentity
from diptych.domain.domain import Domain
from diptych.internal.v1.feed_pb2 import FollowFeedResponse, ProjectionFeed
from query_server.freshness.log_head import SILENCE_SECONDS, IdentitySource, LogHead
from query_server.freshness.tracked_projection import TrackedProjection
from query_server.freshness.waits import TooManyWaits, WaitPool
from query_server.rows.row_source import StoredGeneration


class ProgressListener(Protocol):
    """Receives feed frames, feed loss and store polls that concern rows."""

    def on_feed_alive(self) -> None:
        """Record that the feed has sent a frame, of any kind."""
        ...

    def on_feed_frame(self, frame: ProjectionFeed) -> None:
        """Take a frame about one projection."""
        ...

    def on_feed_lost(self) -> None:
        """Note that the feed has ended."""
        ...

    def on_void(self, projection: str) -> None:
        """Drop everything about a projection's rows."""
        ...

    def on_store_poll(self, projection: str, generation: int, checkpoint: int) -> None:
        """Take the active generation and its checkpoint; generation 0: none can be read."""
        ...


class FreshnessTracker:
    """Progress and state of every projection of a domain, the head, and all waits. Belongs to one event loop."""

    def __init__(
        self,
        domain: Domain,
        *,
        waits_max: int,
        shows_commits: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a tracker that has received nothing yet.

        Args:
            domain: The domain whose projections are tracked.
            waits_max: Greatest number of calls that wait at once.
            shows_commits: See `RowSource.shows_commits`.
            clock: Source of monotonic seconds.
        """
        self.waits = WaitPool(waits_max, clock)
        self.head = LogHead(clock)
        self.head_waits = self.waits.queue()
        self.projections = {
            name: TrackedProjection(projection, self.waits, shows_commits=shows_commits)
            for name, projection in sorted(domain.projections.items())
        }
        self.is_feed_connected = False
        self.listeners: list[Callable[[TrackedProjection], None]] = []
        """Called with a projection after each frame about it, and after each poll or read with a new checkpoint."""
        self.row_cache: ProgressListener | None = None
        """Row cache to notify of every feed frame and store poll."""
        self.poll_needed = asyncio.Event()
        """Set while a wait needs the store polled soon."""
        self._clock = clock
        self._last_frame_at = float("-inf")

    # Inputs.

    def on_feed_frame(self, frame: FollowFeedResponse) -> None:
        """Take a frame of the projector's feed; one without projections is a heartbeat."""
        self._last_frame_at = now = self._clock()
        self.is_feed_connected = True
        row_cache = self.row_cache
        if row_cache is not None:
            row_cache.on_feed_alive()
        for part in frame.projections:
            tracked = self.projections.get(part.name)
            if tracked is None:
                continue
            self._identify(identity_from_message(part.identity), IdentitySource.PROJECTOR)
            if tracked.absorb_feed(part):
                self._void(tracked)
            self._notify(tracked)
            if row_cache is not None:
                row_cache.on_feed_frame(part)
        for tracked in self.projections.values():
            tracked.on_feed_alive(now)

    def on_feed_lost(self) -> None:
        """Note that the feed has ended. From now on the store is polled for the waits."""
        self.is_feed_connected = False
        if self.row_cache is not None:
            self.row_cache.on_feed_lost()
        for tracked in self.projections.values():
            tracked.on_feed_lost()
        if self.waits.count:
            self.poll_needed.set()

    def on_head(self, position: int, identity: LogIdentity | None, requested_at: float | None = None) -> bool:
        """Take the head from the command server; return False if it is of an earlier epoch than is known.

        Args:
            position: The head.
            identity: The log's identity; None if the command server does not know it.
            requested_at: Time at which the request began that this answers; None: it answers none.
        """
        self._identify(identity, IdentitySource.COMMAND_SERVER)
        if identity is not None and identity != self.head.identity:
            return False
        if requested_at is None:
            self.head.advance(position, self._clock())
        else:
            self.head.answer(position, requested_at)
        self.head_waits.wake_through(self.head.known_position)
        return True

    def on_store_poll(self, rows: Iterable[StoredGeneration]) -> None:
        """Take the active generations of the store."""
        missing = dict(self.projections)
        row_cache = self.row_cache
        for row in rows:
            tracked = self.projections.get(row.projection)
            if tracked is None:
                continue
            missing.pop(row.projection, None)
            progress = tracked.progress
            if progress.is_outdated(row):
                # The feed was faster to report that a generation of a later epoch has taken over.
                tracked.absorb_store(row)
                continue
            self._identify(row.identity, IdentitySource.STORE)
            if tracked.absorb_store(row):
                self._void(tracked)
            self.on_read(tracked, row.generation, row.position)
            tracked.wake_store_waits(row.position)
            if row_cache is not None:
                # Cached rows would be answered at positions that the log has lost.
                diverged = progress.is_diverged
                row_cache.on_store_poll(row.projection, *((0, 0) if diverged else (row.generation, row.position)))
            tracked.wake_if_paused(self._clock())
        for name, tracked in missing.items():
            tracked.absorb_no_store()
            if row_cache is not None:
                row_cache.on_store_poll(name, 0, 0)

    def on_store_replaced(self) -> None:
        """Discard everything about the earlier store, because another file has replaced it."""
        for tracked in self.projections.values():
            tracked.absorb_store_replaced()
            self._void(tracked)

    def on_read(self, tracked: TrackedProjection, generation: int, checkpoint: int) -> None:
        """Take the generation and checkpoint of a read."""
        if tracked.absorb_read(generation, checkpoint):
            self._notify(tracked)

    def close(self) -> None:
        """End all waits and refuse new ones. Waiting calls answer as at their deadline."""
        self.waits.close()

    def _identify(self, identity: LogIdentity | None, source: IdentitySource) -> None:
        if identity is not None and self.head.identify(identity, source):
            for tracked in self.projections.values():
                if tracked.progress.absorb_log(identity):
                    self._void(tracked)
                tracked.applied_waits.wake_all()  # The positions of their tokens must be judged again.
            self.head_waits.wake_all()

    def _void(self, tracked: TrackedProjection) -> None:
        tracked.shown_waits.wake_all()  # What they wait for may not come any more.
        tracked.checkpoint_waits.wake_all()
        if self.row_cache is not None:
            self.row_cache.on_void(tracked.name)

    def _notify(self, tracked: TrackedProjection) -> None:
        for listener in self.listeners:
            listener(tracked)

    # Knowledge.

    @property
    def is_readable(self) -> bool:
        """True while any projection can be read."""
        return any(tracked.progress.is_stored for tracked in self.projections.values())

    @property
    def is_closed(self) -> bool:
        """True after `close`."""
        return self.waits.is_closed

    @property
    def now(self) -> float:
        """Current time by the tracker's clock, in seconds."""
        return self._clock()

    @property
    def feed_age(self) -> float | None:
        """Time since the last frame of the feed, in seconds; None before the first."""
        return None if self._last_frame_at == float("-inf") else self._clock() - self._last_frame_at

    @property
    def is_feed_live(self) -> bool:
        """True while the feed is connected and not silent."""
        return self.is_feed_connected and self._clock() - self._last_frame_at < SILENCE_SECONDS

    # Waits.

    async def wait_applied(
        self, projections: Sequence[TrackedProjection], position: int, until: float, *, head: bool = False
    ) -> None:
        """Wait until a position is applied to one of the projections, one of them has stopped, or `until`.

        With `head` it also ends when the head reaches the position. Cancelling it removes the wait.

        Raises:
            Overloaded: Too many calls wait.
        """
        queues = [tracked.applied_waits for tracked in projections]
        if head:
            queues.append(self.head_waits)
        if projections and not self.is_feed_live:
            self.poll_needed.set()
        try:
            await self.waits.wait_in(queues, position, until)
        except TooManyWaits as error:
            raise Overloaded(what="waits", limit=error.limit).with_details(retry_seconds=1) from None

    async def wait_shown(
        self, tracked: TrackedProjection, position: int, until: float, *, on_disk: bool = False
    ) -> None:
        """Wait until a poll of the store shows a position, or `until`.

        All waits share the polls, which `StorePoller` makes. With `on_disk` the stored checkpoint itself must reach
        the position. Cancelling it removes the wait.

        Raises:
            Overloaded: Too many calls wait.
        """
        self.poll_needed.set()
        try:
            await self.waits.wait_in((tracked.checkpoint_waits if on_disk else tracked.shown_waits,), position, until)
        except TooManyWaits as error:
            raise Overloaded(what="waits", limit=error.limit).with_details(retry_seconds=1) from None
