"""Tables at their natural width."""

from __future__ import annotations

import pytest

from diptych.cli.processes import processes_table
from diptych.cli.whole_tables import print_whole
from diptych.v1.processes_pb2 import ListProcessesResponse, ProcessStatus


def test_print_whole_keeps_names_when_the_terminal_is_narrow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_whole(processes_table(ListProcessesResponse(processes=[ProcessStatus(process="registration")])))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("registration  RUNNING")
    assert len(lines) == 2
