"""A projection as the query server tracks it: its progress, the state that the projector reports, and its waits."""

from __future__ import annotations

from diptych.contract.projection_state import CATCHING_UP, PAUSED, REBUILDING, RUNNING, STATES, UNKNOWN
from diptych.domain.projection import Projection
from diptych.internal.v1.feed_pb2 import ProjectionFeed
from diptych.storage.read_store_schema import shape
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.projections_pb2 import ProjectionState
from query_server.freshness.log_head import SILENCE_SECONDS
from query_server.freshness.progress import ProjectionProgress
from query_server.freshness.waits import WaitPool
from query_server.rows.row_source import StoredGeneration

UNKNOWN_AFTER_SECONDS = 3.0
"""Time without a frame after which a projection's state is unknown."""


class TrackedProjection:
    """One projection: `progress`, the state that feed and store report, and two queues of waits."""

    __slots__ = (
        "_feed_state",
        "_is_feed_live",
        "_is_paused_in_store",
        "_last_frame_at",
        "applied_waits",
        "checkpoint_waits",
        "code_changed",
        "left_out_events",
        "name",
        "parked_streams",
        "progress",
        "reason",
        "shown_waits",
        "stalled_event",
    )

    def __init__(self, projection: Projection, pool: WaitPool, *, shows_commits: bool = True) -> None:
        self.name = projection.name
        self.progress = ProjectionProgress(projection.version, shape(projection), shows_commits=shows_commits)
        self.applied_waits = pool.queue()
        """Waits until a position is applied."""
        self.shown_waits = pool.queue()
        """Waits until a poll of the store shows a position."""
        self.checkpoint_waits = pool.queue()
        """Waits until a poll of the store finds a checkpoint at a position."""
        self.parked_streams = 0
        self.left_out_events = 0
        self.code_changed = False
        """True if the projector's code is not the code that began the generation, as its last frame reports."""
        self.reason = ""
        """Reason of a stall."""
        self.stalled_event: RecordedEvent | None = None
        self._feed_state: ProjectionState = UNKNOWN
        self._last_frame_at = float("-inf")
        self._is_feed_live = False  # True while the feed that reported the state is connected.
        self._is_paused_in_store = False

    # Inputs.

    def absorb_feed(self, frame: ProjectionFeed) -> bool:
        """Take a frame of the feed; return True if rows in memory must be dropped."""
        progress = self.progress
        voided = progress.absorb_feed(frame)
        if not progress.is_read_elsewhere and (progress.feed_generation, progress.feed_version) == (
            frame.generation,
            frame.version,
        ):
            self.parked_streams, self.left_out_events = frame.parked_streams, frame.left_out_events
        self.code_changed = frame.code_changed
        self._feed_state = frame.state
        self.reason = frame.reason
        self.stalled_event = frame.stalled_event if frame.HasField("stalled_event") else None
        if progress.is_read_elsewhere or STATES[frame.state].stopped:
            self.applied_waits.wake_all()  # Waiting is hopeless now.
        else:
            self.applied_waits.wake_through(progress.applied)
        self.shown_waits.wake_through(progress.store_includes)
        return voided

    @property
    def waits_for_store(self) -> bool:
        """True while any wait needs polls of the store."""
        return bool(self.shown_waits) or bool(self.checkpoint_waits)

    def wake_store_waits(self, checkpoint: int) -> None:
        """End the waits that a poll of the store at a checkpoint answers."""
        self.shown_waits.wake_through(self.progress.store_includes)
        self.checkpoint_waits.wake_through(checkpoint)

    def on_feed_alive(self, now: float) -> None:
        """Note a frame at a time, about this projection or not: the state that was reported still holds."""
        if self._feed_state != UNKNOWN:
            self._last_frame_at, self._is_feed_live = now, True

    def on_feed_lost(self) -> None:
        """Note that the feed has ended."""
        self._is_feed_live = False

    def absorb_store(self, row: StoredGeneration) -> bool:
        """Take a poll of the store; return True if rows in memory must be dropped."""
        self._is_paused_in_store = row.paused
        outdated = self.progress.is_outdated(row)
        voided = self.progress.absorb_store(row)
        if not outdated and not self._is_feed_live:
            self.parked_streams, self.left_out_events = row.parked_streams, row.left_out_events
        return voided

    def absorb_no_store(self) -> None:
        """Note a poll in which the store had no readable generation of this projection."""
        self.progress.is_stored = self._is_paused_in_store = False

    def absorb_store_replaced(self) -> None:
        """Note that the store is another one."""
        self._is_paused_in_store = False
        self.progress.absorb_store_replaced()

    def absorb_read(self, generation: int, checkpoint: int) -> bool:
        """Take the generation and checkpoint of a read; return True if they are new."""
        before = self.progress.applied
        if not self.progress.absorb_read(generation, checkpoint):
            return False
        if self.progress.applied > before:
            self.applied_waits.wake_through(self.progress.applied)
        return True

    def wake_if_paused(self, now: float) -> None:
        """End the waits if the projection is paused."""
        if self.applied_waits.heap and self.state(now) == PAUSED:
            self.applied_waits.wake_all()

    # State.

    def state(self, now: float) -> ProjectionState:
        """Return the projection's state; unknown after `UNKNOWN_AFTER_SECONDS` without a frame.

        The store, too, says if a projection is paused. It counts while there is no live feed.
        """
        silence = now - self._last_frame_at
        if not self._is_feed_live or silence >= SILENCE_SECONDS:
            if self._is_paused_in_store:
                return PAUSED
            if self._feed_state == PAUSED:
                return UNKNOWN  # It was resumed since.
        if silence >= UNKNOWN_AFTER_SECONDS:
            return UNKNOWN
        if self.progress.is_read_elsewhere and self._feed_state in (RUNNING, CATCHING_UP):
            return REBUILDING
        return self._feed_state

    def serving(self, now: float) -> bool:
        """Return True while the projection's health is SERVING."""
        return STATES[self.state(now)].serving
