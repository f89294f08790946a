"""Screen of `diptych up`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from diptych.cli.child import Child, State
from diptych.cli.observation import Observation
from diptych.cli.screen import Lines, Table
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


def test_lines_are_printed_for_changes_only(children: list[Child], capsys: pytest.CaptureFixture[str]) -> None:
    with Lines() as lines:
        for state in (
            pb.PROJECTION_STATE_CATCHING_UP,
            pb.PROJECTION_STATE_RUNNING,
            pb.PROJECTION_STATE_CATCHING_UP,
            pb.PROJECTION_STATE_RUNNING,
        ):
            lines.update(children, Observation(head=1, projections=[projection(state)]))
        lines.update(children, Observation())  # No server answers for a moment.
        stalled = projection(pb.PROJECTION_STATE_STALLED, "LOG_DIVERGED: another event")
        lines.update(children, Observation(head=1, projections=[stalled]))
        lines.update(children, Observation(head=1, projections=[stalled]))
    assert capsys.readouterr().out.splitlines() == [
        "projection users is RUNNING",
        "projection users is STALLED: LOG_DIVERGED: another event",
    ]


def test_the_table_shows_position_rate_and_lag(children: list[Child]) -> None:
    console = Console(width=120, record=True, force_terminal=True, file=io.StringIO())
    table = Table(console)
    children[2].restarts = 2
    with table:
        table.update(children, Observation(head=1000, commands=10))
        table.update(
            children,
            Observation(
                head=1000,
                commands=5010,
                projections=[projection(pb.PROJECTION_STATE_STALLED, "POISON: [bold]no markup[/]", lag=1)],
            ),
        )
        table.print_line("something [red]happened[/]")
    output = console.export_text()
    assert "something [red]happened[/]" in output, "texts are shown as they are"
    assert "1 event, 1.5 s behind  POISON: [bold]no markup[/]" in output
    assert "serving, restarted 2 x" in output
    assert "[green]" not in output
    assert "commands/s" in output
