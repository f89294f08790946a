"""Waits of `WaitForVersion`: until some projections include a position, or waiting is hopeless.

A projection has reached the position when three things hold: it is applied, the event at that position itself is not
left out, and the store that this server reads shows it. The outcome of several projections is that of the worst.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from diptych.contract.projection_state import row_of_refusal
from diptych.contract.reasons import (
    ReadModelBehind,
    ReadModelParked,
    ReadModelPaused,
    ReadModelRebuilding,
    ReadModelStalled,
)
from diptych.domain.refusal import Refusal
from diptych.v1.read_model_pb2 import WaitOutcome
from query_server.freshness.fresh_read import FreshReads, absent, hopeless
from query_server.freshness.tracked_projection import TrackedProjection
from query_server.freshness.tracker import FreshnessTracker

UNPROVED = (ReadModelBehind, ReadModelPaused, ReadModelStalled, ReadModelRebuilding)
"""Refusals of `TokenJudge` that a wait reports as its outcome."""


class WaitResult(NamedTuple):
    """Outcome of a wait, the projection that decides it, and the position that this projection includes."""

    outcome: WaitOutcome
    projection: TrackedProjection
    position: int


class VersionWaits:
    """Waits for positions in one or several projections."""

    def __init__(self, tracker: FreshnessTracker, fresh: FreshReads) -> None:
        self._tracker = tracker
        self._fresh = fresh

    async def wait(
        self,
        projections: Sequence[TrackedProjection],
        required: int,
        until: float,
        judge: Callable[[], Awaitable[int]] | None = None,
    ) -> WaitResult:
        """Wait until all projections include a position, one cannot, or `until`. Cancelling it removes the wait.

        Args:
            projections: The projections.
            required: The position.
            until: Time limit, by the tracker's clock.
            judge: Returns the position again, for a log that has changed since; None: it holds for any log.

        Raises:
            ReadModelNotReady: A projection has no readable generation.
            Overloaded: Too many calls wait or read.
        """
        tracker, settled = self._tracker, set[str]()
        log_changes = tracker.head.log_changes
        while True:
            while judge is not None and log_changes != tracker.head.log_changes:
                log_changes = tracker.head.log_changes
                required = await judge()
                settled.clear()
            behind = [each for each in projections if each.progress.applied < required]
            if (missing := _missing(projections)) is not None:
                refusal = absent(tracker, missing)
                if isinstance(refusal, ReadModelRebuilding):
                    return _result(WaitOutcome.WAIT_OUTCOME_REBUILDING, missing)
                raise refusal
            parked = await self._settle_own_event(projections, required, settled)
            if judge is not None and log_changes != tracker.head.log_changes:
                continue
            unshown = [each for each in projections if each.progress.shown < required]
            if not behind and not parked and not unshown and len(settled) == len(projections):
                worst = min(projections, key=lambda each: (each.progress.shown, each.name))
                return WaitResult(WaitOutcome.WAIT_OUTCOME_REACHED, worst, worst.progress.shown)
            if (result := self._hopeless(behind, required)) is not None:
                return result
            if parked:
                return _result(WaitOutcome.WAIT_OUTCOME_PARKED, worst_of(parked))
            if behind and all(each.progress.applied >= required for each in behind):
                continue  # They arrived while events of others were looked up.
            if tracker.now >= until or tracker.is_closed:
                worst = worst_of(behind or projections)
                # The position may have been applied by a generation that is no longer read.
                position = min(worst.progress.applied, max(required - 1, 0))
                return WaitResult(WaitOutcome.WAIT_OUTCOME_TIMED_OUT, worst, position)
            if behind:
                await tracker.wait_applied(behind, required, until)
            elif unshown:
                await tracker.wait_shown(unshown[0], required, until)
            else:  # The store does not show yet if the event is left out.
                unsettled = next(each for each in projections if each.name not in settled)
                await tracker.wait_shown(unsettled, required, until, on_disk=True)

    async def _settle_own_event(
        self, projections: Sequence[TrackedProjection], required: int, settled: set[str]
    ) -> list[TrackedProjection]:
        """Add the projections that have applied the event at the position; return those that leave it out."""
        parked = []
        for tracked in projections:
            if tracked.progress.applied >= required and tracked.name not in settled:
                try:
                    if await self._fresh.own_event_applied(tracked, required) or not required:
                        settled.add(tracked.name)
                except ReadModelParked:
                    parked.append(tracked)
        return parked

    def unproved(self, refusal: Refusal) -> WaitResult:
        """Return the outcome of a wait whose position could not be judged, as a refusal of `TokenJudge` says."""
        assert isinstance(refusal, UNPROVED)
        outcome = WaitOutcome.WAIT_OUTCOME_TIMED_OUT
        if not isinstance(refusal, ReadModelBehind):
            outcome = row_of_refusal(refusal).wait_outcome or outcome
        return WaitResult(outcome, self._tracker.projections[refusal.projection], refusal.applied_position)

    def _hopeless(self, behind: Sequence[TrackedProjection], required: int) -> WaitResult | None:
        """Return the worst outcome of the projections for which waiting is hopeless; of several the one furthest
        behind."""
        outcomes = []
        for tracked in behind:
            refusal = hopeless(self._tracker, tracked, required)
            if refusal is not None:
                row = row_of_refusal(refusal)
                outcomes.append((-row.severity, tracked.progress.applied, tracked.name, row.wait_outcome, tracked))
        if not outcomes:
            return None
        *_, outcome, tracked = min(outcomes, key=lambda each: each[:3])
        assert outcome is not None, "the state of a refusal has an outcome"
        return _result(outcome, tracked)


def worst_of(projections: Sequence[TrackedProjection]) -> TrackedProjection:
    """Return the projection that is furthest behind."""
    return min(projections, key=lambda tracked: (tracked.progress.applied, tracked.name))


def _missing(projections: Sequence[TrackedProjection]) -> TrackedProjection | None:
    """Return the first projection that has no generation to read, by store and feed."""
    for tracked in projections:
        if not tracked.progress.is_stored and not tracked.progress.feed_generation:
            return tracked
    return None


def _result(outcome: WaitOutcome, tracked: TrackedProjection) -> WaitResult:
    return WaitResult(outcome, tracked, tracked.progress.applied)
