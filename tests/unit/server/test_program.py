"""The frame of every command: its output."""

from __future__ import annotations

import io
import sys

import pytest
import typer

from diptych.server.program import run_program


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
