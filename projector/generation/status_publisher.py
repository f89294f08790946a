"""Status publisher: one follower's progress and state, for the feed, health, metrics and operators."""

from __future__ import annotations

import logging

import structlog
from google.protobuf.duration_pb2 import Duration

from diptych.contract.identity_codec import identity_to_message
from diptych.contract.projection_state import STATES
from diptych.contract.token import LogIdentity
from diptych.domain.projection import Projection
from diptych.internal.v1 import log_pb2
from diptych.internal.v1.feed_pb2 import ProjectionFeed
from diptych.server.health import Health
from diptych.storage.read_store_schema import shape
from diptych.v1.projections_pb2 import ProjectionStatus, VersionProgress, ViewInfo
from projector.feed.feed import Feed
from projector.feed.pending_changes import changes_of
from projector.generation.fold_progress import FoldProgress
from projector.generation.state_machine import ProjectionStateMachine
from projector.metrics import ProjectionMetrics
from projector.store.row_writer import RowWriter

_log = structlog.get_logger(__name__)


class StatusPublisher:
    """Publishes one follower's progress and state while its generation represents the projection."""

    def __init__(
        self,
        feed: Feed,
        health: Health,
        writer: RowWriter,
        progress: FoldProgress,
        machine: ProjectionStateMachine,
        *,
        enabled: bool,
    ) -> None:
        """Create a publisher.

        Args:
            feed: Feed of the projector.
            health: Health of the projector.
            writer: Writer of the generation.
            progress: Progress of the follower.
            machine: State of the follower.
            enabled: True if the follower represents the projection. Others publish nothing.
        """
        self.enabled = enabled
        self._feed = feed
        self._health = health
        self._writer = writer
        self._progress = progress
        self._machine = machine
        self._projection = writer.projection
        self._shape = shape(writer.projection)
        self._log = _log.bind(projection=writer.projection.name)
        # The message is made once for each identity, as a frame is published for each batch.
        self._identity: LogIdentity | None = None
        self._identity_message = log_pb2.LogIdentity()
        self._health_service = health_service(writer.projection)

    def publish(self, *, rows_known: bool = True) -> None:
        """Send progress, state and changed rows to the feed.

        Args:
            rows_known: False if rows have changed that are not in the progress. Subscribers then read all rows again.
        """
        if not self.enabled:
            self._progress.changed_rows = []
            return
        writer, progress, machine = self._writer, self._progress, self._machine
        left_out = writer.left_out
        frame = ProjectionFeed(
            name=self._projection.name,
            version=self._projection.version,
            generation=writer.generation,
            state=machine.reported_state,
            reason=machine.reason,
            stalled_event=machine.stalled_event,
            applied_position=progress.applied_position,
            changed_position=progress.changed_at,
            parked_streams=left_out.streams,
            left_out_events=left_out.events,
            left_out_position=left_out.position,
            filling=writer.filling,
            filling_up=not machine.answers,
            shape=self._shape,
            code_changed=writer.code_changed,
        )
        identity = writer.identity
        if identity is not None:
            if identity is not self._identity:
                self._identity, self._identity_message = identity, identity_to_message(identity)
            frame.identity.CopyFrom(self._identity_message)
        changed, progress.changed_rows = progress.changed_rows, []
        if not rows_known:
            self._feed.publish(frame, None)
        elif changed and self._feed.has_subscribers:
            self._feed.publish(frame, changes_of(self._projection.views, changed))
        else:
            self._feed.publish(frame, ())

    async def publish_health(self) -> None:
        """Set the projection's health."""
        if self.enabled:
            await self._health.set(self._health_service, STATES[self._machine.reported_state].serving)

    def log_state(self, event: str, level: int = logging.INFO) -> None:
        """Log an event with the state, its reason and the positions."""
        fields = {"reason": self._machine.reason} if self._machine.reason else {}
        self._log.log(
            level,
            event,
            state=STATES[self._machine.reported_state].label,
            applied_position=self._progress.applied_position,
            lag_events=self._progress.lag_events,
            **fields,
        )

    def expose_metrics(self) -> None:
        """Let the projection's gauges show this follower."""
        writer, progress = self._writer, self._progress
        ProjectionMetrics(self._projection.name).expose(
            applied=lambda: progress.applied_position,
            lag_events=lambda: progress.lag_events,
            lag_seconds=lambda: progress.lag_seconds,
            state=lambda: STATES[self._machine.reported_state].label,
            parked_streams=lambda: writer.left_out.streams,
            left_out_events=lambda: writer.left_out.events,
        )

    def status(self) -> ProjectionStatus:
        """Return the projection's status for operators, without its generations."""
        writer, progress, machine = self._writer, self._progress, self._machine
        return ProjectionStatus(
            name=self._projection.name,
            version=self._projection.version,
            generation=writer.generation,
            state=machine.reported_state,
            reason=machine.reason,
            stalled_event=machine.stalled_event,
            progress=version_progress(
                writer.identity,
                progress.applied_position,
                head_position=progress.head_position,
                lag_seconds=progress.lag_seconds,
            ),
            views=views_of(self._projection),
            parked_streams=writer.left_out.streams,
            left_out_events=writer.left_out.events,
            code_changed=writer.code_changed,
        )


def health_service(projection: Projection) -> str:
    """Return the health service's name of a projection."""
    return f"diptych.projection.{projection.name}"


def add_identity(frame: ProjectionFeed, identity: LogIdentity | None) -> None:
    """Add the identity of the log to a feed frame, if it is known."""
    if identity is not None:
        frame.identity.CopyFrom(identity_to_message(identity))


def version_progress(
    identity: LogIdentity | None, applied: int, *, head_position: int, lag_seconds: float
) -> VersionProgress:
    """Return a projection's progress for operators.

    Args:
        identity: Log that the rows come from; None if not known.
        applied: Applied position.
        head_position: Known head of the log.
        lag_seconds: Seconds since the projection was at the head.
    """
    lag = Duration()
    lag.FromNanoseconds(int(lag_seconds * 1e9))
    return VersionProgress(
        token=identity.token(applied) if identity is not None else "",
        applied_position=applied,
        head_position=head_position,
        lag_events=max(0, head_position - applied),
        lag_time=lag,
    )


def views_of(projection: Projection) -> list[ViewInfo]:
    """Return the views of a projection for operators, by name."""
    return [
        ViewInfo(name=view.name, row_type=view.row.DESCRIPTOR.full_name)
        for view in sorted(projection.views, key=lambda view: view.name)
    ]
