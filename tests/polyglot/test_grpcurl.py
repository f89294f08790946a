"""The guide's calls with grpcurl, which reads the contracts by reflection."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.polyglot.workshop import addresses, commands_for, go_environment, missing, run
from tests.support.pair import Pair

pytestmark = pytest.mark.timeout(900)  # It may download and compile it.

GRPCURL_VERSION = "v1.9.3"


class Terminal:
    """A shell in a folder of its own with grpcurl on its path, for a running pair."""

    def __init__(self, folder: Path, pair: Pair) -> None:
        self.folder = folder
        self._ports = {"50051": pair.command, "50052": pair.query, "50053": pair.projector}
        env = go_environment()
        self._env = {**env, **addresses(pair), "PATH": f"{installed(env)}:{env['PATH']}"}

    def run(self, script: str) -> str:
        """Return a script's stdout and stderr, in the order of printing."""
        for port, server in self._ports.items():
            script = script.replace(f"127.0.0.1:{port}", server.address)
        status, out, err = run(f"exec 2>&1\n{script}", self.folder, self._env, 60)
        assert status == 0, f"{script}\n{out}\n{err}"
        return out


def installed(env: Mapping[str, str]) -> Path:
    """Return the folder of grpcurl, which is shared by all runs. One process compiles it while others wait."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "diptych", f"grpcurl-{GRPCURL_VERSION}")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "grpcurl").exists():
            source = f"github.com/fullstorydev/grpcurl/cmd/grpcurl@{GRPCURL_VERSION}"
            status, _, err = run(f"go install {source}", folder, {**env, "GOBIN": str(folder)}, 600)
            if status != 0:
                missing(err)
    return folder


def named(printed: str) -> str:
    """Return the JSON with the contract's field names, as tools print one of two names."""
    return re.sub(r'"(\w+)":', lambda parsed: re.sub("[A-Z]", lambda c: f"_{c[0].lower()}", parsed[0]), printed)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory, shared_pair: Pair) -> Terminal:
    return Terminal(tmp_path_factory.mktemp("grpcurl"), shared_pair)


def test_the_commands_of_the_guide_work_as_written(terminal: Terminal) -> None:
    printed = terminal.run("\n".join(commands_for("grpcurl")))
    services, _, rest = printed.partition("shop.v1.RegisterUserRequest is a message")
    assert "shop.v1.CommandService" in services.splitlines()
    assert "diptych.v1.EventService" in services.splitlines()
    assert "string email = 3" in rest
    assert rest.count('"email": "tim@example.com"') == 1
    assert '"token": ' in rest
    assert '"projections"' in rest


def test_a_watch_works_by_grpcurl(terminal: Terminal) -> None:
    terminal.run("""
        grpcurl -plaintext -d '{"user_id": "ida", "email": "ida@example.com"}' \
            127.0.0.1:50051 shop.v1.CommandService/RegisterUser > ida.json
        TOKEN=$(sed -n 's/.*"token": "\\(.*\\)".*/\\1/p' ida.json)
        grpcurl -plaintext -d "{\\"view\\": \\"users\\", \\"token\\": \\"$TOKEN\\"}" \
            127.0.0.1:50052 diptych.v1.ReadModelService/WaitForVersion
    """)
    frames = terminal.run("""
        sed '/caught/q' < <(grpcurl -plaintext -max-time 30 -d '{"view": "users", "keys": {"keys": ["ida"]}}' \
            127.0.0.1:50052 diptych.v1.ReadModelService/Watch 2> /dev/null)
    """)
    assert '"@type": "type.googleapis.com/shop.v1.User"' in frames
    assert '"email": "ida@example.com"' in frames
    assert '"caught_up":' in named(frames)
