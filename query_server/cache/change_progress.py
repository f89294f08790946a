"""Progress of the row changes that the feed has delivered, and the liveness of the feed itself."""

from __future__ import annotations

from collections.abc import Callable

from diptych.internal.v1.feed_pb2 import ProjectionFeed
from query_server.freshness.log_head import SILENCE_SECONDS


class FeedClock:
    """Time of the last frame of the feed."""

    __slots__ = ("last_frame_at", "now")

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.last_frame_at = float("-inf")


class ChangeProgress:
    """Position up to which all row changes of one generation were received, without a gap."""

    def __init__(self) -> None:
        self.changes_complete_through = 0
        """Every row change after a view's `floor` and up to this position has been received."""
        self.generation = 0
        """The generation that the changes are about; 0: none."""
        self.cache_epoch = 0
        """Incremented by each `clear`. Reads that began in an earlier epoch are not stored."""
        self.is_usable = False
        """True if the cache may answer as long as the feed is live."""
        self._stored_generation = 0
        # A checkpoint that the store had at a time, and the one that the changes are late for.
        self._due, self._due_at, self._late = 0, 0.0, 0

    def begins(self, frame: ProjectionFeed) -> bool:
        """Return True if a frame does not continue the frames before it."""
        if (
            frame.gap
            or frame.generation != self.generation
            or frame.changes_after > self.changes_complete_through
            or frame.applied_position < self.changes_complete_through
        ):
            return True
        # A new last change must be among the changes. A projector that sends none of them is of no use here.
        last = frame.changed_position
        return last > self.changes_complete_through and not any(last in changes.positions for changes in frame.changes)

    def advance(self, frame: ProjectionFeed) -> None:
        """Take the position of a frame whose changes were applied."""
        self.generation = frame.generation
        self.changes_complete_through = frame.applied_position
        self._update_usable()

    def clear(self) -> None:
        """Forget all progress, and begin a cache epoch."""
        self.cache_epoch += 1
        self.changes_complete_through = self.generation = self._due = self._late = 0
        self._update_usable()

    def on_store_poll(self, generation: int, checkpoint: int, now: float) -> None:
        """Compare with the store: a feed that falls behind it for over a second makes the cache unusable."""
        self._stored_generation = generation
        if self.changes_complete_through >= self._due:
            self._due, self._due_at = checkpoint, now
        elif now - self._due_at >= SILENCE_SECONDS:
            self._late = self._due
        self._update_usable()

    def _update_usable(self) -> None:
        self.is_usable = self.generation == self._stored_generation != 0 and self.changes_complete_through >= self._late
