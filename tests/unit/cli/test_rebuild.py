"""`diptych rebuild`: its end by a signal."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from diptych.cli import main, rebuild


def test_a_stopped_rebuild_says_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def follow(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    monkeypatch.setattr(rebuild, "_follow", follow)
    assert main(["rebuild", "users"]) == 0
    error = capsys.readouterr().err
    assert "`diptych rebuild users` shows it again, `diptych rebuild users --cancel` stops it" in error
    assert "Traceback" not in error
