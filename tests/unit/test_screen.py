"""The screen of `diptych up`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from diptych.cli.screen import Lines, Observation, Table
from diptych.cli.supervisor import Child, State
from diptych.v1 import projections_pb2 as pb


async def _healthy() -> None:
    return None


@pytest.fixture
def children() -> list[Child]:
    names = ("command-server", "projector", "query-server")
    children = [Child(name, [], address=f"{name}:1", log=Path("log"), healthy=_healthy) for name in names]
    for child in children:
        child.state = State.SERVING
    return children


def projection(state: pb.ProjectionState, reason: str = "", lag: int = 0) -> pb.ProjectionStatus:
    progress = pb.VersionProgress(applied_position=1000 - lag, head_position=1000, lag_events=lag)
    progress.lag_time.FromMilliseconds(1500)
    return pb.ProjectionStatus(name="users", state=state, reason=reason, progress=progress)


def test_lines_tell_changes_alone(children: list[Child], capsys: pytest.CaptureFixture[str]) -> None:
    with Lines() as lines:
        for state in (
            pb.PROJECTION_STATE_CATCHING_UP,
            pb.PROJECTION_STATE_RUNNING,
            pb.PROJECTION_STATE_CATCHING_UP,
            pb.PROJECTION_STATE_RUNNING,
        ):
            lines.show(children, Observation(head=1, projections=[projection(state)]))
        lines.show(children, Observation())  # Nobody answers for a moment.
        stalled = projection(pb.PROJECTION_STATE_STALLED, "LOG_DIVERGED: another event")
        lines.show(children, Observation(head=1, projections=[stalled]))
        lines.show(children, Observation(head=1, projections=[stalled]))
    assert capsys.readouterr().out.splitlines() == [
        "projection users is RUNNING",
        "projection users is STALLED: LOG_DIVERGED: another event",
    ]


def test_the_table_shows_position_rate_and_lag(children: list[Child]) -> None:
    console = Console(width=120, record=True, force_terminal=True, file=io.StringIO())
    table = Table(console)
    children[2].restarts = 2
    with table:
        table.show(children, Observation(head=1000, commands=10))
        table.show(
            children,
            Observation(
                head=1000,
                commands=5010,
                projections=[projection(pb.PROJECTION_STATE_STALLED, "POISON: [bold]no markup[/]", lag=1)],
            ),
        )
        table.tell("something [red]happened[/]")
    shown = console.export_text()
    assert "something [red]happened[/]" in shown, "texts are shown as they are"
    assert "1 event, 1.5 s behind  POISON: [bold]no markup[/]" in shown
    assert "serving, restarted 2 x" in shown
    assert "[green]" not in shown
    assert "commands/s" in shown
