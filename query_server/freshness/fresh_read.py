"""Fresh reads: reads of the store repeated until one is proved to include a position, or refused.

1. Wait until the position is applied, unless there is no live feed to report that.
2. Look up whether the token's own event was applied, where the caller needs it.
3. Read. Return the read if the proof shows that it includes the position.
4. Refuse if waiting is hopeless or the time is up.
5. If the position is applied but not shown by the store, wait for a shared poll that shows it, and repeat.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from diptych.contract.projection_state import PAUSED, REBUILDING, STALLED
from diptych.contract.reasons import (
    ReadModelBehind,
    ReadModelNotReady,
    ReadModelParked,
    ReadModelPaused,
    ReadModelRebuilding,
    ReadModelStalled,
)
from diptych.domain.refusal import Refusal
from query_server.freshness.tracked_projection import TrackedProjection
from query_server.freshness.tracker import FreshnessTracker
from query_server.rows.row_source import StoredEvent


class ReadResult(Protocol):
    """Any read, with the generation that it read."""

    @property
    def generation(self) -> int:
        """Number of the generation from which the read answered."""
        ...

    @property
    def position(self) -> int:
        """Checkpoint of that generation at the moment of the read."""
        ...


class EventSource(Protocol):
    """Looks up events in the store."""

    async def event(self, projection: str, position: int) -> StoredEvent:
        """Return the result of an event in the active generation of a projection."""
        ...


Read = TypeVar("Read", bound=ReadResult)


def _nothing(_: int) -> None:
    return None


class FreshReads:
    """Reads that include a position. Belongs to one event loop."""

    def __init__(self, tracker: FreshnessTracker, events: EventSource | None = None) -> None:
        """Take the tracker, and the store in which events are looked up that neither feed nor polls report."""
        self._tracker = tracker
        self._events = events

    async def read(
        self,
        tracked: TrackedProjection,
        required: int,
        until: float,
        read: Callable[[], Awaitable[Read]],
        cached: Callable[[int], tuple[Read, int] | None] = _nothing,
        *,
        own: bool = False,
        judge: Callable[[], Awaitable[int]] | None = None,
    ) -> tuple[Read, int]:
        """Read until a read includes a position; return the read and the position up to which it includes all.

        Cancelling it cancels the read under way, or removes the wait.

        Args:
            tracked: The projection that is read.
            required: The position to include.
            until: Time limit, by the tracker's clock.
            read: Reads the store.
            cached: Returns an answer from memory that includes a position, or None. Called after a wait.
            own: The event at `required` itself must be applied, and not left out.
            judge: Returns the position again, for a log that has changed since: the position before may stand for
                events that the log has lost. None: `required` holds for any log.

        Raises:
            ReadModelBehind: No read included the position until `until`.
            ReadModelParked, ReadModelPaused, ReadModelStalled, ReadModelRebuilding: Waiting is hopeless.
            ReadModelNotReady: The store has no readable generation.
            Overloaded: Too many calls wait or read.
        """
        tracker, progress = self._tracker, tracked.progress
        included = own_in = 0
        log_changes = tracker.head.log_changes
        while True:
            while judge is not None and log_changes != tracker.head.log_changes:
                log_changes = tracker.head.log_changes
                required = await judge()
            if progress.applied >= required or not tracker.is_feed_live:
                # Before the read: what is applied by now is in what is read from now on.
                own_in = await self.own_event_applied(tracked, required) if own else 0
                result = await read()
                tracker.on_read(tracked, result.generation, result.position)
                if judge is not None and log_changes != tracker.head.log_changes:
                    continue
                included = progress.includes(result.generation, result.position)
                if included >= required and (not own or not required or own_in == result.generation):
                    return result, included
            if (refusal := hopeless(tracker, tracked, required)) is not None:
                raise refusal
            if tracker.now >= until or tracker.is_closed:
                # It may be applied by now, and was not in what was read in time.
                raise behind(tracker, tracked, required, min(progress.applied, max(required - 1, 0)))
            if progress.applied >= required:
                if included < required:  # The store does not show it yet.
                    await tracker.wait_shown(tracked, required, until)
                elif not own_in:  # The store does not show yet if the event is left out.
                    await tracker.wait_shown(tracked, required, until, on_disk=True)
                else:  # Another generation has just taken over.
                    await tracker.wait_shown(tracked, 0, until)
            else:
                await tracker.wait_applied((tracked,), required, until)
                if log_changes == tracker.head.log_changes and (answer := cached(required)) is not None:
                    return answer

    async def own_event_applied(self, tracked: TrackedProjection, position: int) -> int:
        """Return the generation that has applied the event at a position; 0 if none is known to.

        Raises:
            ReadModelParked: The event is left out.
            ReadModelNotReady: The store has no readable generation.
        """
        generation = tracked.progress.own_event_applied(position)
        if generation or not position or self._events is None:
            return generation
        event = await self._events.event(tracked.name, position)
        if event.error is not None:
            raise ReadModelParked(projection=tracked.name, position=position, error=event.error)
        return event.generation if event.checkpoint >= position else 0


def hopeless(
    tracker: FreshnessTracker, tracked: TrackedProjection, required: int, applied: int | None = None
) -> Refusal | None:
    """Return the refusal if waiting for a position is hopeless in the projection's state; None if it is not.

    `applied` is the position that the projection has certainly applied; None: as its progress says.
    """
    if applied is None:
        applied = tracked.progress.applied
    if applied >= required:
        return None
    name, state = tracked.name, tracked.state(tracker.now)
    if state == PAUSED:
        return ReadModelPaused(projection=name, applied_position=applied, wanted_position=required)
    if state == STALLED:
        return ReadModelStalled(
            projection=name, applied_position=applied, wanted_position=required, stall_reason=tracked.reason
        )
    if state == REBUILDING and tracked.progress.is_read_elsewhere:
        return ReadModelRebuilding(projection=name, applied_position=applied, wanted_position=required)
    return None


def absent(tracker: FreshnessTracker, tracked: TrackedProjection) -> Refusal:
    """Return the refusal for a read of a projection without a readable generation."""
    progress = tracked.progress
    if progress.is_read_elsewhere and not progress.is_stored and tracked.state(tracker.now) == REBUILDING:
        return ReadModelRebuilding(
            projection=tracked.name,
            applied_position=progress.applied,
            wanted_position=max(tracker.head.known_position, progress.applied),
        )
    return ReadModelNotReady(projection=tracked.name)


def behind(tracker: FreshnessTracker, tracked: TrackedProjection, required: int, applied: int | None = None) -> Refusal:
    """Return the refusal for a read that was not fresh enough in time."""
    if applied is None:
        applied = tracked.progress.applied
    return ReadModelBehind(
        projection=tracked.name,
        applied_position=applied,
        wanted_position=required,
        lag_events=max(tracker.head.lag_events(applied), required - applied),
    )
