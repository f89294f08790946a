"""Screen of `diptych up`."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from diptych.cli import sample as samples
from diptych.cli.addresses import COMMANDS, QUERY
from diptych.cli.child import Child, State
from diptych.cli.observation import Observation
from diptych.cli.screen import Lines, Table
from diptych.cli.server_children import UpSettings
from diptych.cli.up import first_steps
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


def test_the_first_screen_of_the_shop_fits_80_columns_and_24_rows(children: list[Child]) -> None:
    for child, port in zip(children, (50051, 50053, 50052), strict=True):
        child.address = f"127.0.0.1:{port}"
    settings = UpSettings.model_validate({"data": "data"})
    calls = list(samples.calls(samples.find("shop"), commands=COMMANDS, queries=QUERY, token="T" * 32))
    output = io.StringIO()
    console = Console(width=80, height=24, force_terminal=True, file=output)
    table = Table(console)
    console.print("$ diptych up")
    table.print_line("Domain shop 0.1.0 from /home/somebody/checkouts/diptych/shop")
    table.print_line(f"Log {settings.log_dsn}, id {'0' * 16}, epoch 1, head 0; read store {settings.read_store_dsn}")
    table.print_line("Loaded the sample of shop: 23 commands.")
    table.print_line(first_steps(settings, children, calls, table.calls_max))
    projections = [projection(pb.PROJECTION_STATE_RUNNING) for _ in range(5)]
    console.print(table.table_of(children, Observation(head=1000, commands=10, projections=projections)))
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue()).splitlines()
    assert sum(max(1, -(-len(line) // 80)) for line in lines) < 24
    printed = "\n".join(lines)
    assert "Ctrl-C stops the servers; their data stays in data." in printed
    assert "call shop.v1.CommandService/RegisterUser" in printed
    assert "call shop.v1.QueryService/GetUser" in printed
