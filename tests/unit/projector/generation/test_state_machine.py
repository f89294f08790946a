"""ProjectionStateMachine: every sequence of events, against the rules that operators rely on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.contract.projection_state import CATCHING_UP, PAUSED, REBUILDING, RUNNING, STALLED
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.projections_pb2 import ProjectionState
from projector.generation.state_machine import BEHIND_SECONDS, NEXT_STATE, STATES, Event, ProjectionStateMachine

EVENT = RecordedEvent(position=7)

Step = Callable[[ProjectionStateMachine], bool]

FAILURES: dict[str, Step] = {
    "fold_failed": lambda machine: machine.fold_failed("PARKED_TOO_MANY: many", EVENT),
    "store_failed": lambda machine: machine.store_failed("READ_STORE_UNAVAILABLE: full"),
    "lease_lost": lambda machine: machine.lease_lost("LEASE_LOST: taken"),
    "log_refused": lambda machine: machine.log_refused("LOG_REFUSED: no"),
    "log_diverged": lambda machine: machine.log_diverged("LOG_DIVERGED: other"),
    "program_failed": lambda machine: machine.program_failed("INTERNAL: bug"),
}
STEPS: dict[str, Step] = {
    "at_head": lambda machine: machine.batch_applied(0.0),
    "near_head": lambda machine: machine.batch_applied(BEHIND_SECONDS / 2),
    "behind": lambda machine: machine.batch_applied(BEHIND_SECONDS),
    "head_unknown": lambda machine: machine.batch_applied(None),
    "stream_opened": lambda machine: machine.stream_opened(),
    "stream_lost": lambda machine: machine.stream_lost(),
    "paused": lambda machine: machine.paused(),
    "resumed": lambda machine: machine.resumed(),
    **FAILURES,
}


@st.composite
def machines(draw: st.DrawFn) -> ProjectionStateMachine:
    """Return a machine after any sequence of events."""
    machine = ProjectionStateMachine(paused=draw(st.booleans()), answers=draw(st.booleans()))
    machine.rebuilding = draw(st.booleans())
    for name in draw(st.lists(st.sampled_from(sorted(STEPS)), max_size=12)):
        STEPS[name](machine)
    return machine


def view(machine: ProjectionStateMachine) -> tuple[object, ...]:
    return machine.state, machine.reason, machine.stalled_event


def test_table_has_a_next_state_for_every_event_in_every_state() -> None:
    assert set(NEXT_STATE) == {(event, state) for event in Event for state in STATES}
    assert set(NEXT_STATE.values()) == set(STATES)


@given(machines(), st.sampled_from(sorted(STEPS)))
def test_every_event_changes_the_state_or_is_reported_as_unchanged(machine: ProjectionStateMachine, name: str) -> None:
    before = view(machine)
    changed = STEPS[name](machine)
    assert changed == (view(machine)[:2] != before[:2])


@given(machines())
def test_every_state_is_left_or_reported(machine: ProjectionStateMachine) -> None:
    if machine.state == STALLED:
        assert machine.reason
        assert machine.reported_state == STALLED
    else:
        assert (machine.reason, machine.stalled_event, machine.diverged) == ("", None, False)
    if machine.state == PAUSED:
        assert machine.reported_state == PAUSED
    machine.resumed()
    machine.stream_opened()
    machine.batch_applied(0.0)
    assert machine.state == RUNNING


@given(machines(), st.sampled_from(sorted(FAILURES)))
def test_every_failure_stalls_with_its_own_reason_and_event(machine: ProjectionStateMachine, name: str) -> None:
    machine.resumed()
    FAILURES[name](machine)
    alone = ProjectionStateMachine(paused=False, answers=True)
    FAILURES[name](alone)
    assert view(machine) == view(alone)
    assert machine.state == STALLED
    assert machine.stalled_event == (EVENT if name == "fold_failed" else None)
    assert machine.diverged == (name == "log_diverged")
    assert not machine.stream_open


@given(machines(), st.lists(st.sampled_from(sorted(STEPS)), max_size=12))
def test_paused_is_left_by_resumed_alone(machine: ProjectionStateMachine, names: list[str]) -> None:
    machine.paused()
    for name in names:
        if name != "resumed":
            STEPS[name](machine)
            assert view(machine) == (PAUSED, "", None)
            assert machine.reported_state == PAUSED
    assert machine.resumed()
    assert machine.state == CATCHING_UP


@given(machines())
def test_stall_is_left_by_an_open_stream_or_resumed_alone(machine: ProjectionStateMachine) -> None:
    machine.resumed()
    machine.store_failed("READ_STORE_UNAVAILABLE: full")
    for name in ("at_head", "near_head", "behind", "head_unknown", "stream_lost"):
        assert not STEPS[name](machine)
        assert machine.state == STALLED
    assert machine.stream_opened()
    assert machine.state == CATCHING_UP


@given(machines())
def test_rebuilding_is_reported_unless_paused_or_stalled(machine: ProjectionStateMachine) -> None:
    filling = machine.rebuilding or not machine.answers
    if machine.idle or not filling:
        assert machine.reported_state == machine.state
    else:
        assert machine.reported_state == REBUILDING


@pytest.mark.parametrize(
    ("lag_seconds", "from_running", "from_catching_up"),
    [
        (0.0, RUNNING, RUNNING),
        (BEHIND_SECONDS / 2, RUNNING, CATCHING_UP),
        (BEHIND_SECONDS, CATCHING_UP, CATCHING_UP),
        (None, CATCHING_UP, CATCHING_UP),
    ],
)
def test_lag_decides_between_running_and_catching_up(
    lag_seconds: float | None, from_running: ProjectionState, from_catching_up: ProjectionState
) -> None:
    machine = ProjectionStateMachine(paused=False, answers=True)
    machine.batch_applied(lag_seconds)
    assert machine.state == from_catching_up
    machine.batch_applied(0.0)
    machine.batch_applied(lag_seconds)
    assert machine.state == from_running
