"""Projection states: one table from each state to its health, wait outcome, refusal, metric label and colour.

Every server and the command line read this table. A new state is a new row here and a new value of
`diptych.v1.ProjectionState`; a test compares the two.
"""

from __future__ import annotations

from typing import NamedTuple

from diptych.contract.reasons import ReadModelPaused, ReadModelRebuilding, ReadModelStalled
from diptych.domain.refusal import Refusal
from diptych.v1.projections_pb2 import ProjectionState
from diptych.v1.read_model_pb2 import WaitOutcome

UNKNOWN = ProjectionState.PROJECTION_STATE_UNSPECIFIED
RUNNING = ProjectionState.PROJECTION_STATE_RUNNING
CATCHING_UP = ProjectionState.PROJECTION_STATE_CATCHING_UP
REBUILDING = ProjectionState.PROJECTION_STATE_REBUILDING
PAUSED = ProjectionState.PROJECTION_STATE_PAUSED
STALLED = ProjectionState.PROJECTION_STATE_STALLED


class StateRow(NamedTuple):
    """Consequences of one projection state."""

    label: str
    """Name in log lines, on the command line, and as the label `state` of the metric `diptych_projection_state`."""
    serving: bool
    """True if the projection's health is SERVING."""
    stopped: bool
    """True if nothing is applied until an operator acts."""
    colour: str
    """Colour on the command line, as `rich` names it; empty for the default."""
    wait_outcome: WaitOutcome | None = None
    """Outcome of a wait that cannot succeed in this state; None if it can."""
    refusal: type[Refusal] | None = None
    """Refusal of a read that cannot succeed in this state; None if it can."""
    severity: int = 0
    """Rank among the states in which a wait cannot succeed. A wait for several projections reports the greatest."""


STATES: dict[ProjectionState, StateRow] = {
    UNKNOWN: StateRow("UNSPECIFIED", serving=False, stopped=False, colour="red"),
    RUNNING: StateRow("RUNNING", serving=True, stopped=False, colour="green"),
    CATCHING_UP: StateRow("CATCHING_UP", serving=True, stopped=False, colour="yellow"),
    # Waits and reads cannot succeed only where no earlier generation follows the head meanwhile.
    REBUILDING: StateRow(
        "REBUILDING",
        serving=True,
        stopped=False,
        colour="yellow",
        wait_outcome=WaitOutcome.WAIT_OUTCOME_REBUILDING,
        refusal=ReadModelRebuilding,
        severity=1,
    ),
    PAUSED: StateRow(
        "PAUSED",
        serving=False,
        stopped=True,
        colour="magenta",
        wait_outcome=WaitOutcome.WAIT_OUTCOME_PAUSED,
        refusal=ReadModelPaused,
        severity=2,
    ),
    STALLED: StateRow(
        "STALLED",
        serving=False,
        stopped=True,
        colour="red",
        wait_outcome=WaitOutcome.WAIT_OUTCOME_STALLED,
        refusal=ReadModelStalled,
        severity=3,
    ),
}

STATE_LABELS = tuple(row.label for state, row in STATES.items() if state != UNKNOWN)
"""Labels of the states that a projector reports."""


def row_of_refusal(refusal: Refusal) -> StateRow:
    """Return the row of the state that a refusal reports. Raise `KeyError` if the refusal reports none."""
    for row in STATES.values():
        if row.refusal is type(refusal):
            return row
    raise KeyError(type(refusal).__name__)
