"""The frame of every command: its output."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from diptych.server.program import run_program
from tests.support.programs import ROOT


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_bug_a_name_beyond_the_encoding_of_the_output_ended_the_command(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", output)

    def show() -> None:
        print("Zoë Ł", flush=True)
        typer.echo("Zoë Ł")

    assert run_program({"show": show}, ["show"]) == 0
    output.flush()
    printed = output.buffer.getvalue().splitlines()
    assert printed[0] == "Zoë Ł".encode(encoding, "backslashreplace")
    # Typer writes UTF-8 where a stream claims to be ASCII, as it takes that for a mistake.
    assert printed[1] == "Zoë Ł".encode("utf-8" if encoding == "ascii" else encoding, "backslashreplace")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_bug_output_on_a_full_disk_or_a_closed_one_left_a_traceback() -> None:
    code = (
        "import sys; from diptych.server.program import run_program\n"
        "def show(): print('x', flush=True)\n"
        "sys.exit(run_program({'show': show}, ['show']))"
    )
    for output, status, error in (
        ("> /dev/full", 1, "diptych: the output cannot be written: No space left on device.\n"),
        (">&-", 0, ""),
    ):
        command = f'{sys.executable} -c "$CODE" {output}'
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env={"CODE": code}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (status, error)
