"""The Makefile: what a first `make run` installs, and where it keeps data."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from diptych.cli.backup import LOG
from diptych.cli.server_children import UpSettings

ROOT = Path(__file__).resolve().parents[2]


def steps(target: str, venv: Path) -> str:
    """Return the commands of a target in an environment that does not exist yet; none is run."""
    env = {name: value for name, value in os.environ.items() if name not in ("DATA", "MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        ["make", "--dry-run", target, f"VENV={venv}"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_make_run_installs_no_tools_of_development_and_says_that_it_takes_time(tmp_path: Path) -> None:
    printed = steps("run", tmp_path / "venv")
    assert "pip install --quiet --editable . --editable ./shop" in printed
    assert "This takes a few minutes once" in printed
    assert "[dev]" not in printed
    assert "[dev]" in steps("install", tmp_path / "venv")


def test_make_run_and_every_command_agree_on_the_folder_of_the_data(tmp_path: Path) -> None:
    assert '--data "data"' in steps("run", tmp_path / "venv")
    assert UpSettings.model_validate({}).data == Path("data")
    assert LOG == "sqlite:///data/log.db"
