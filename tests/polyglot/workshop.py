"""Toolchains of other languages, and a copy of a program to build.

A test runs the commands of the README beside this file, in their order::

    def test_first_contact(tmp_path: Path, shared_pair: Pair) -> None:
        workshop = Workshop("go", tmp_path, go_environment(), shared_pair)
        for command in commands_for("Go"):
            printed = workshop.run(command)

The tools keep downloads in their usual places, so a second run is quick.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.pair import Pair

HERE = Path(__file__).parent
README = (HERE / "README.md").read_text()
COMMAND_SECONDS = 400.0

# The oldest that go.mod takes, and the one that is fetched where there is only an older one, as on Debian 12.
GO_OLDEST = (1, 24)
GO_FETCHED = "1.25.5"

# The tools of the virtual environment first: buf, diptych, and Node where the machine has none.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

_FETCHING = ("go mod download", "npm ci")
_UNREACHABLE = ("Could not transfer artifact", "Unknown host")
_MADE = shutil.ignore_patterns("contracts.binpb", "gen", "dist", "node_modules", "target")


class Workshop:
    """A copy of a program's folder, and an environment with tools and addresses."""

    def __init__(self, language: str, parent: Path, env: Mapping[str, str], pair: Pair | None = None) -> None:
        self.folder = parent / language
        shutil.copytree(HERE / language, self.folder, ignore=_MADE)
        self._env = {**env, **(addresses(pair) if pair else {})}

    def run(self, command: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run a command as a reader would and return its stdout; fail with all of its output."""
        status, out, err = run(command, self.folder, self._env, seconds)
        if status != 0:
            said = f"`{command}` ended with status {status}:\n{out}\n{err}"
            if command in _FETCHING or any(sign in out for sign in _UNREACHABLE):
                missing(said)
            raise AssertionError(said)
        return out


def commands_for(heading: str) -> list[str]:
    """Return the commands below a heading of the README, without the one that enters the folder."""
    (found,) = re.findall(rf"^## {heading}\n.*?^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [line for line in found.splitlines() if not line.startswith("cd ")]


def addresses(pair: Pair) -> dict[str, str]:
    """Return the servers' addresses as environment variables."""
    return {
        "DIPTYCH_COMMANDS": pair.command.address,
        "DIPTYCH_QUERY": pair.query.address,
        "DIPTYCH_PROJECTOR": pair.projector.address,
    }


def environment(*tools: str) -> dict[str, str]:
    """Return the environment for commands that need these tools, which must be installed."""
    for tool in tools:
        if shutil.which(tool, path=PATH) is None:
            missing(f"There is no {tool} on the PATH; `make toolchains` tells or does what brings it.")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
    return {**kept, "PATH": PATH}


def go_environment() -> dict[str, str]:
    """Return the environment with a recent Go: the machine's own, or one that it has fetched."""
    env = {**environment("go"), "CGO_ENABLED": "0"}  # No C compiler is needed.
    version, system, machine = _requested_go("go env GOVERSION GOOS GOARCH", env).split()
    if tuple(map(int, re.findall(r"\d+", version)[:2])) >= GO_OLDEST:
        return env
    # Since 1.21 Go fetches newer ones as this module, whose checksum is public. An older one can, too, but does not
    # know that some of its files are programs.
    module = f"golang.org/toolchain@v0.0.1-go{GO_FETCHED}.{system}-{machine}"
    fetched = Path(json.loads(_requested_go(f"go mod download -json {module}", env))["Dir"])
    for program in (*fetched.glob("bin/*"), *fetched.glob("pkg/tool/*/*")):
        program.chmod(0o755)
    env.pop("GOROOT", None)
    return {**env, "PATH": f"{fetched / 'bin'}{os.pathsep}{PATH}", "GOTOOLCHAIN": "local"}


def missing(reason: str) -> NoReturn:
    """Skip the test because this machine lacks a tool; with `CI=true` fail instead."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def run(command: str, folder: Path, env: Mapping[str, str], seconds: float) -> tuple[int, str, str]:
    """Run a shell command with a time limit; return its exit status, stdout and stderr."""
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # With all that it started, which would hold the pipes.
            out, err = process.communicate()
            raise AssertionError(f"`{command}` took more than {seconds} s and said:\n{out}\n{err}") from None
    return process.returncode, out, err


def _requested_go(command: str, env: Mapping[str, str]) -> str:
    status, out, err = run(command, Path("/"), env, COMMAND_SECONDS)
    if status != 0:
        missing(f"`{command}` ended with status {status}:\n{out}\n{err}")
    return out
