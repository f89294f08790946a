"""Row cache: rows and list responses in memory, each with the position that it is true at.

Truth
    The feed delivers, without a gap, which rows changed up to which position. An entry was read at a checkpoint C.
    It is true for every position from C up to the first change of its row, and the cache drops it when it receives
    a change after C. Let T be the position up to which all changes were received. What is in the cache is true at
    max(C, T).

Admission
    A read that began before a change, and ended after the cache received it, must not bring the old row back. For
    every view the last changes are remembered by key, and of the forgotten ones the greatest position, the *floor*.
    A read at a checkpoint before either is not stored. Nor is one that began in an earlier *cache epoch*. An epoch
    ends with the feed, a gap in it, another generation, another log or another store.

Answers
    The cache answers only if T suffices, a frame arrived within the last second, and the feed is about the
    generation that is active in the store. The slow poll of the store guards the feed: if T stays behind a polled
    checkpoint for over a second, the cache answers nothing until it has caught up.

Nothing here does I/O. The cache lives on one event loop, with the freshness tracker that notifies it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from diptych.domain.projection import Projection, View
from diptych.internal.v1.feed_pb2 import ProjectionFeed
from query_server.cache.change_progress import ChangeProgress, FeedClock
from query_server.cache.memory_budget import MemoryBudget
from query_server.cache.view_cache import ViewCache


class Cache:
    """Cached rows and list responses of some projections. A `ProgressListener`."""

    def __init__(
        self, projections: Iterable[Projection], bytes_max: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin empty.

        Args:
            projections: The projections to cache.
            bytes_max: Greatest number of bytes of all entries; 0: nothing is cached.
            clock: Source of monotonic seconds.
        """
        self._budget = MemoryBudget(bytes_max)
        self._feed = FeedClock(clock)
        self._projections = {
            projection.name: ProjectionCache(projection, self._budget, self._feed) for projection in projections
        }

    def view(self, view: View[Any]) -> ViewCache:
        """Return the cache of a view."""
        return self._projections[view.projection.name].views[view.name]

    @property
    def views(self) -> list[ViewCache]:
        """Caches of all views."""
        return [view for projection in self._projections.values() for view in projection.views.values()]

    def on_feed_alive(self) -> None:
        """Note any frame of the feed."""
        self._feed.last_frame_at = self._feed.now()

    def on_feed_frame(self, frame: ProjectionFeed) -> None:
        """Take a frame about one projection."""
        self._projections[frame.name].on_feed_frame(frame)

    def on_feed_lost(self) -> None:
        """Drop everything: changes may be missed from now on."""
        self._feed.last_frame_at = float("-inf")
        for projection in self._projections.values():
            projection.clear()

    def on_void(self, projection: str) -> None:
        """Drop everything about a projection's rows."""
        self._projections[projection].clear()

    def on_store_poll(self, projection: str, generation: int, checkpoint: int) -> None:
        """Take the active generation and its checkpoint; generation 0: none can be read."""
        self._projections[projection].changes.on_store_poll(generation, checkpoint, self._feed.now())


class ProjectionCache:
    """Caches of one projection's views, with the progress of its changes."""

    def __init__(self, projection: Projection, budget: MemoryBudget, feed: FeedClock) -> None:
        self.changes = ChangeProgress()
        self.views = {view.name: ViewCache(view.name, self.changes, budget, feed) for view in projection.views}

    def on_feed_frame(self, frame: ProjectionFeed) -> None:
        """Apply the changes of a frame, or begin anew where it does not continue."""
        if self.changes.begins(frame):
            self.clear()
            for view in self.views.values():
                view.begin(frame.changed_position)
        else:
            for changes in frame.changes:
                view_cache = self.views.get(changes.view)
                if view_cache is not None:
                    view_cache.apply_changes(changes.keys, changes.positions)
        self.changes.advance(frame)

    def clear(self) -> None:
        """Drop everything."""
        self.changes.clear()
        for view in self.views.values():
            view.clear()
