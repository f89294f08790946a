"""Text about projections, for all commands that print it."""

from __future__ import annotations

from diptych.contract.projection_state import STALLED, STATES, UNKNOWN, StateRow
from diptych.v1.projections_pb2 import ProjectionState, ProjectionStatus

_HEAD_AGE_SECONDS = 3.0
"""Age of the head above which it is printed."""


def state_row(state: ProjectionState) -> StateRow:
    """Return the row of a projection state; a state of a newer contract is unknown."""
    return STATES.get(state, STATES[UNKNOWN])


def describe_state(projection: ProjectionStatus) -> str:
    """Return a projection's state with its reason and the number of its parked streams."""
    reason = f": {projection.reason}" if projection.reason else ""
    return f"{state_row(projection.state).label}{reason}{describe_parked(projection)}"


def describe_parked(projection: ProjectionStatus) -> str:
    """Return the number of parked streams, after a comma; empty if there is none."""
    streams = projection.parked_streams
    return f", {streams} {'stream' if streams == 1 else 'streams'} parked" if streams else ""


def describe_lag(projection: ProjectionStatus) -> str:
    """Return a projection's distance from the head, in events and seconds. A stalled one is never up to date."""
    progress = projection.progress
    seconds = progress.lag_time.ToNanoseconds() / 1e9
    events = "1 event" if progress.lag_events == 1 else f"{progress.lag_events:,} events"
    if progress.lag_events:
        return f"{events}, {seconds:.1f} s behind"
    if projection.state == STALLED:
        return "stopped"
    return "up to date" if seconds < _HEAD_AGE_SECONDS else f"up to date {seconds:.1f} s ago"
