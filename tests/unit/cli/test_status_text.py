"""Text of `diptych status`."""

from __future__ import annotations

import io

from rich.console import Console

from diptych.cli.server_status import ServerStatus
from diptych.cli.status_text import status_text
from diptych.v1.projections_pb2 import ProjectionStatus
from diptych.v1.read_model_pb2 import GetStatusResponse


def test_changed_folds_are_shown_with_the_command_to_run() -> None:
    projection = ProjectionStatus(name="orders", version=3, code_changed=True)
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(status_text(ServerStatus(GetStatusResponse(projections=[projection]))))
    text = console.export_text()
    assert "orders: its folds have changed, and its version is still 3; `diptych rebuild orders` makes the rows" in text
