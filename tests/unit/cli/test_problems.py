"""Problems that `diptych status` reports, and its exit status."""

from __future__ import annotations

import json

import pytest

from diptych.cli import main, status
from diptych.cli.problems import find_problems
from diptych.cli.projection_text import describe_lag
from diptych.cli.server_status import ServerStatus
from diptych.v1.processes_pb2 import ListProcessesResponse, ProcessStatus
from diptych.v1.projections_pb2 import ProjectionState, ProjectionStatus
from diptych.v1.read_model_pb2 import GetStatusResponse


def status_of(projection: ProjectionStatus | None = None, process: ProcessStatus | None = None) -> ServerStatus:
    current = ServerStatus(GetStatusResponse(projections=[projection] if projection is not None else []))
    current.processes = ListProcessesResponse(processes=[process] if process is not None else [])
    return current


def projection(state: str = "RUNNING", parked_streams: int = 0, left_out_events: int = 0) -> ProjectionStatus:
    return ProjectionStatus(
        name="users",
        state=f"PROJECTION_STATE_{state}",
        parked_streams=parked_streams,
        left_out_events=left_out_events,
        reason="REASON: why",
    )


SILENT = status_of()
SILENT.silent["projector"] = "The projector does not answer."
PROBLEMS = {
    "a silent server": (SILENT, "The projector does not answer."),
    "a stalled projection": (
        status_of(projection("STALLED")),
        "Projection users is STALLED at position 0 (stopped): REASON: why",
    ),
    "an unknown state": (
        status_of(projection("UNSPECIFIED")),
        "Projection users is UNKNOWN: its projector does not answer.",
    ),
    "a parked stream": (
        status_of(projection(parked_streams=1)),
        "Projection users has 1 parked stream; `diptych parked list users` shows why.",
    ),
    "stuck instances": (
        status_of(process=ProcessStatus(process="delivery", stuck_instances=2)),
        "Process delivery has 2 instances that are STUCK; `diptych processes` shows why.",
    ),
    "a parked instance": (
        status_of(process=ProcessStatus(process="delivery", parked_instances=1)),
        "Process delivery has 1 instance that is PARKED; `diptych processes` shows why.",
    ),
}
HEALTHY = {
    "nothing": status_of(),
    "a running projection": status_of(projection()),
    "one that catches up": status_of(projection("CATCHING_UP")),
    "one that is rebuilt": status_of(projection("REBUILDING")),
    "one that an operator paused": status_of(projection("PAUSED")),
    "events that an operator discarded": status_of(projection(left_out_events=3)),
    "a running process": status_of(process=ProcessStatus(process="delivery", running_instances=5)),
}


def answer_with(current: ServerStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read_status(*addresses: str) -> ServerStatus:
        return current

    monkeypatch.setattr(status, "read_status", read_status)


@pytest.mark.parametrize("case", PROBLEMS)
def test_bug_status_ended_with_0_while_something_had_stopped(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    current, problem = PROBLEMS[case]
    answer_with(current, monkeypatch)
    assert main(["status"]) == 1
    assert main(["status", "--json"]) == 1
    capsys.readouterr()
    assert main(["status", "--check"]) == 1
    assert capsys.readouterr().out == f"{problem}\n"
    assert main(["status", "--check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"problems": [problem]}


@pytest.mark.parametrize("case", HEALTHY)
def test_status_ends_with_0_while_nothing_needs_an_operator(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_problems(HEALTHY[case]) == []
    answer_with(HEALTHY[case], monkeypatch)
    assert main(["status"]) == 0
    capsys.readouterr()
    assert main(["status", "--check"]) == 0
    assert capsys.readouterr().out == ""


def test_bug_stalled_projection_was_shown_as_up_to_date() -> None:
    assert "up to date" in describe_lag(projection("RUNNING"))
    for state in dict(ProjectionState.items()):
        shown = describe_lag(projection(state.removeprefix("PROJECTION_STATE_")))
        assert ("up to date" in shown) == (not state.endswith("STALLED"))


def test_bug_hint_after_a_discard_led_to_an_empty_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_with(HEALTHY["events that an operator discarded"], monkeypatch)
    assert main(["status"]) == 0
    assert "`diptych parked list users --discarded` shows why" in capsys.readouterr().out
    answer_with(status_of(projection(parked_streams=1, left_out_events=2)), monkeypatch)
    assert main(["status"]) == 1
    assert "`diptych parked list users` shows why" in capsys.readouterr().out
