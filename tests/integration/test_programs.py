"""The three programs, each as its own process: ready line, exit status, and what they say when they cannot start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pair import Pair, started_pair
from tests.support.programs import ROOT, Program

PROGRAMS = {"command-server": "command_server", "projector": "projector", "query-server": "query_server"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def stores(program: str, folder: Path) -> list[str]:
    """Return the options that put a program's files into a folder."""
    return [
        f"--log=sqlite:///{folder}/log.db" if program == "command-server" else f"--read-store=sqlite:///{folder}/r.db"
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_each_with_status_0(number: signal.Signals, tmp_path: Path) -> None:
    with started_pair(tmp_path / "data") as pair:
        for server in (pair.query, pair.projector, pair.command):
            server.signal(number)
            assert server.wait() == 0, server.logged()
            assert server.lines == [f"diptych {server.name} ready address={server.address}"]


def test_normal_start_logs_one_event_with_domain_and_stores_and_no_warning(tmp_path: Path) -> None:
    with started_pair(tmp_path / "data", options=("--log-format=json",)) as pair:
        stores = {"log": f"sqlite:///{pair.data}/log.db", "read_store": f"sqlite:///{pair.data}/read.db"}
        log, read_store = {"log": stores["log"], "head_position": 0}, {"read_store": stores["read_store"]}
        for server, expected in ((pair.command, log), (pair.projector, read_store), (pair.query, read_store)):
            lines = [json.loads(line) for line in server.log.read_text().splitlines()]
            (started,) = [line for line in lines if line["event"] == "started"]
            assert started.items() >= {"domain": "shop", "address": server.address, **expected}.items()
            assert Path(started["domain_path"], "__init__.py").is_file()
            assert started["domain_version"]
            assert [line for line in lines if line["level"] not in ("info", "debug")] == []


def test_each_can_stop_without_the_others(tmp_path: Path) -> None:
    with started_pair(tmp_path / "data") as pair:
        for server in (pair.command, pair.projector, pair.query):
            assert server.stop() == 0, server.logged()


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_command_line_and_the_module_are_the_same_program(program: str) -> None:
    assert run("diptych.cli", program, "--help").stdout == run(PROGRAMS[program], "--help").stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_bad_settings_are_status_2(program: str) -> None:
    done = run(PROGRAMS[program], "--stop-seconds", "never")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"diptych {program}: --stop-seconds: must be a valid number")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_port_in_use_is_named(program: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = run(PROGRAMS[program], f"--address={address}", *stores(program, tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"diptych {program}: Cannot listen on {address}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_bug_a_metrics_port_in_use_was_a_traceback(program: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ports = ("--address=127.0.0.1:0", f"--metrics-address={address}")
        done = run(PROGRAMS[program], *ports, *stores(program, tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"diptych {program}: Cannot listen on {address}: " in done.stderr
    assert f"(pid {os.getpid()}) uses the port. --metrics-address sets the address" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_address_beyond_loopback_needs_insecure(program: str, tmp_path: Path) -> None:
    done = run(PROGRAMS[program], "--address=0.0.0.0:0", *stores(program, tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "--insecure" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_unknown_domain_is_named(program: str, tmp_path: Path) -> None:
    done = run(PROGRAMS[program], "--domain=nobody", "--address=127.0.0.1:0", *stores(program, tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "nobody" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_command_server_on_one_log_is_refused_and_names_the_first(pair: Pair) -> None:
    log = f"--log=sqlite:///{pair.data / 'log.db'}"
    done = run("command_server", "--address=127.0.0.1:0", log)
    assert done.returncode == 1
    assert f"pid={pair.command.pid} address={pair.command.address}" in done.stderr


async def test_a_killed_server_starts_again_on_its_files(pair: Pair) -> None:
    for server in pair.servers:
        await server.restart()
        assert server.stop() == 0


def test_a_program_waits_for_the_others(tmp_path: Path) -> None:
    arguments = ["--address=127.0.0.1:0", "--commands=127.0.0.1:1", f"--read-store=sqlite:///{tmp_path / 'r.db'}"]
    projector = Program(["-m", "projector", *arguments], log=tmp_path / "projector.log")
    projector.spawn()
    projector.wait_for_line(lambda line: line.startswith("diptych projector ready address=127.0.0.1:"))
    assert projector.stop() == 0
