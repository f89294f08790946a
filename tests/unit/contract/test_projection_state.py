"""Projection states: the table has a row for each state, and rows that agree with the contract."""

from __future__ import annotations

import pytest

from diptych.contract import projection_state
from diptych.contract.projection_state import STATES, UNKNOWN, row_of_refusal
from diptych.contract.reasons import ReadModelNotReady, ReadModelPaused
from diptych.v1.projections_pb2 import ProjectionState
from diptych.v1.read_model_pb2 import WaitOutcome


def test_table_has_a_row_for_each_state() -> None:
    assert list(STATES) == ProjectionState.values()


def test_labels_are_the_names_of_the_states() -> None:
    names = [ProjectionState.Name(state).removeprefix("PROJECTION_STATE_") for state in STATES]
    assert [row.label for row in STATES.values()] == names
    assert list(projection_state.STATE_LABELS) == names[1:]


def test_stopped_states_do_not_serve_and_unknown_ones_do_not_either() -> None:
    assert not any(row.serving and row.stopped for row in STATES.values())
    assert not STATES[UNKNOWN].serving


def test_states_in_which_a_wait_cannot_succeed_have_an_outcome_a_refusal_and_a_severity_of_their_own() -> None:
    rows = [row for row in STATES.values() if row.wait_outcome is not None]
    assert all(row.refusal is not None for row in rows)
    assert [row.severity for row in rows] == [1, 2, 3]
    names = {WaitOutcome.Name(row.wait_outcome).removeprefix("WAIT_OUTCOME_") for row in rows if row.wait_outcome}
    assert names == {row.label for row in rows}
    assert all(row.refusal is None and not row.severity for row in STATES.values() if row.wait_outcome is None)


def test_row_is_found_by_the_refusal_that_reports_its_state() -> None:
    refusal = ReadModelPaused(projection="notes", applied_position=1, wanted_position=2)
    assert row_of_refusal(refusal) is STATES[projection_state.PAUSED]
    with pytest.raises(KeyError, match="ReadModelNotReady"):
        row_of_refusal(ReadModelNotReady(projection="notes"))
