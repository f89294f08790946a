"""Projection state machine: the events of one follower, and the states that they lead to.

                     RUNNING       CATCHING_UP   PAUSED        STALLED
    HEAD_REACHED     RUNNING       RUNNING       PAUSED        STALLED
    HEAD_MISSED      CATCHING_UP   CATCHING_UP   PAUSED        STALLED
    STREAM_OPENED    RUNNING       CATCHING_UP   PAUSED        CATCHING_UP
    STREAM_LOST      RUNNING       CATCHING_UP   PAUSED        STALLED
    FAILED           STALLED       STALLED       PAUSED        STALLED
    PAUSED           PAUSED        PAUSED        PAUSED        PAUSED
    RESUMED          RUNNING       CATCHING_UP   CATCHING_UP   CATCHING_UP

A lost stream changes no state by itself: the lag grows, and leads to CATCHING_UP. REBUILDING is reported in place of
RUNNING and CATCHING_UP while a generation of the projection is being filled.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from diptych.contract.projection_state import CATCHING_UP, PAUSED, REBUILDING, RUNNING, STALLED
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.projections_pb2 import ProjectionState

BEHIND_SECONDS = 1.0
"""Lag in seconds from which a projection that was at the head is CATCHING_UP."""


class Event(enum.Enum):
    """Kinds of events that may change the state."""

    HEAD_REACHED = enum.auto()
    HEAD_MISSED = enum.auto()
    STREAM_OPENED = enum.auto()
    STREAM_LOST = enum.auto()
    FAILED = enum.auto()
    PAUSED = enum.auto()
    RESUMED = enum.auto()


STATES = (RUNNING, CATCHING_UP, PAUSED, STALLED)
"""States of a follower; REBUILDING is reported in place of the first two."""

_NEXT_STATES: Mapping[Event, tuple[ProjectionState, ...]] = {
    Event.HEAD_REACHED: (RUNNING, RUNNING, PAUSED, STALLED),
    Event.HEAD_MISSED: (CATCHING_UP, CATCHING_UP, PAUSED, STALLED),
    Event.STREAM_OPENED: (RUNNING, CATCHING_UP, PAUSED, CATCHING_UP),
    Event.STREAM_LOST: (RUNNING, CATCHING_UP, PAUSED, STALLED),
    Event.FAILED: (STALLED, STALLED, PAUSED, STALLED),
    Event.PAUSED: (PAUSED, PAUSED, PAUSED, PAUSED),
    Event.RESUMED: (RUNNING, CATCHING_UP, CATCHING_UP, CATCHING_UP),
}

NEXT_STATE: Mapping[tuple[Event, ProjectionState], ProjectionState] = {
    (event, state): next_state
    for event, row in _NEXT_STATES.items()
    for state, next_state in zip(STATES, row, strict=True)
}
"""State that each event leads to, from each state."""


class ProjectionStateMachine:
    """State of one follower, with the reason and the event of a stall. It has no clock, no waits and no I/O.

    Each method is an event. It returns True if the state or the reason changed, which the follower then publishes.
    """

    def __init__(self, *, paused: bool, answers: bool) -> None:
        """Create the machine of a follower that has not opened a stream yet.

        Args:
            paused: True if an operator paused the projection.
            answers: True if queries read the follower's generation; False while it is being filled.
        """
        self.state: ProjectionState = PAUSED if paused else CATCHING_UP
        """Own state of the follower, never REBUILDING."""
        self.reason = ""
        """Sentence about a stall, which begins with its code; empty in other states."""
        self.stalled_event: RecordedEvent | None = None
        """Event that the projection stalled on; None if it stalled on another cause, or not at all."""
        self.diverged = False
        """True while stalled because the log no longer has the events that the rows were folded from."""
        self.stream_open = False
        """True while a stream of the right log is open."""
        self.answers = answers
        self.rebuilding = False
        """True while another generation is being filled to replace the follower's."""

    @property
    def reported_state(self) -> ProjectionState:
        """State that operators, feed and metrics report."""
        if not self.idle and (self.rebuilding or not self.answers):
            return REBUILDING
        return self.state

    @property
    def idle(self) -> bool:
        """True while the follower applies no events: PAUSED or STALLED."""
        return self.state == PAUSED or self.state == STALLED

    def stream_opened(self) -> bool:
        """A stream of the right log is open, and the store was written if the follower had stalled."""
        self.stream_open = True
        return self._apply(Event.STREAM_OPENED)

    def stream_lost(self) -> bool:
        """The stream ended or failed, and is opened again."""
        self.stream_open = False
        return self._apply(Event.STREAM_LOST)

    def batch_applied(self, lag_seconds: float | None) -> bool:
        """A batch was applied, or the head moved.

        Args:
            lag_seconds: Seconds since the follower was at the head; 0 if it is; None if no head was reported yet.
        """
        if lag_seconds == 0.0:
            return self._apply(Event.HEAD_REACHED)
        if lag_seconds is None or lag_seconds >= BEHIND_SECONDS:
            return self._apply(Event.HEAD_MISSED)
        return False

    def fold_failed(self, reason: str, event: RecordedEvent) -> bool:
        """An event cannot be folded, and its stream is not parked."""
        return self._fail(reason, event)

    def store_failed(self, reason: str) -> bool:
        """The read store cannot be read or written."""
        return self._fail(reason)

    def lease_lost(self, reason: str) -> bool:
        """Another projector writes this generation."""
        return self._fail(reason)

    def log_refused(self, reason: str) -> bool:
        """The command server refuses the stream, and is called again."""
        return self._fail(reason)

    def log_diverged(self, reason: str) -> bool:
        """The log is another than the rows were folded from."""
        changed = self._fail(reason)
        self.diverged = self.state == STALLED
        return changed

    def program_failed(self, reason: str) -> bool:
        """The follower ended by an unforeseen exception."""
        return self._fail(reason)

    def paused(self) -> bool:
        """An operator paused the projection."""
        return self._apply(Event.PAUSED)

    def resumed(self) -> bool:
        """An operator resumed the projection."""
        return self._apply(Event.RESUMED)

    def _fail(self, reason: str, event: RecordedEvent | None = None) -> bool:
        self.stream_open = False
        return self._apply(Event.FAILED, reason, event)

    def _apply(self, event: Event, reason: str = "", stalled_event: RecordedEvent | None = None) -> bool:
        before, self.state = self.state, NEXT_STATE[event, self.state]
        if event is Event.FAILED and self.state == STALLED:
            changed = before != STALLED or reason != self.reason
            self.reason, self.stalled_event, self.diverged = reason, stalled_event, False
            return changed
        if self.state == before:
            return False
        self.reason, self.stalled_event, self.diverged = "", None, False
        return True
