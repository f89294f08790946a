"""The command line: its commands, and the sources of settings."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from pydantic_settings import BaseSettings

from command_server import server
from diptych.cli import COMMANDS as NAMES
from diptych.cli import main
from diptych.cli.server_children import UpSettings
from diptych.server.settings import CommandServerSettings, ProjectorSettings, QueryServerSettings

PROGRAMS: dict[str, type[BaseSettings]] = {
    "up": UpSettings,
    "command-server": CommandServerSettings,
    "projector": ProjectorSettings,
    "query-server": QueryServerSettings,
}

COMMANDS = [
    *("up", "command-server", "projector", "query-server"),
    *("status", "processes", "pause", "resume", "rebuild", "events", "watch", "call"),
    *("verify", "backup", "restore", "health", "contracts", "generate"),
    "parked",  # typer lists a group of commands last.
]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("DIPTYCH_"):
            monkeypatch.delenv(name)


@pytest.fixture
def run_command_server(monkeypatch: pytest.MonkeyPatch) -> Callable[..., CommandServerSettings]:
    """Run `diptych command-server` without starting the server; return its settings."""
    started: list[CommandServerSettings] = []

    def record(settings: CommandServerSettings) -> int:
        started.append(settings)
        return 0

    monkeypatch.setattr(server, "run", record)
    # Restores the variable after the test; the program sets it for its child processes.
    monkeypatch.setenv("DIPTYCH_CONFIG", "")

    def run(*arguments: str) -> CommandServerSettings:
        assert main(["command-server", *arguments]) == 0
        assert isinstance(started[-1], CommandServerSettings)
        return started[-1]

    return run


def test_every_command_is_tested() -> None:
    assert sorted(NAMES) == sorted(COMMANDS)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", capsys.readouterr().out, re.MULTILINE)
    assert listed == COMMANDS


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"diptych {version('diptych')}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"diptych {command}" in capsys.readouterr().out


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_lists_every_setting_with_variable_and_default(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([program, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in PROGRAMS[program].model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert f"[env var: DIPTYCH_{name.upper()}]" in text
        if field.default is not None and field.annotation is not bool:
            assert f"Default: {field.default}." in text
    assert "--config FILE" in text


def test_without_arguments_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "query-server" in "".join(capsys.readouterr())


def test_an_unknown_command_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upp"]) == 2
    assert "upp" in capsys.readouterr().err


def test_a_flag_wins_over_environment_file_and_default(
    run_command_server: Callable[..., CommandServerSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "diptych.toml"
    file.write_text("batch_commands_max = 3\nqueue_commands_max = 3\nsnapshot_events = 30\n")
    assert run_command_server().batch_commands_max == 1000
    monkeypatch.setenv("DIPTYCH_CONFIG", str(file))
    assert run_command_server().batch_commands_max == 3
    monkeypatch.setenv("DIPTYCH_BATCH_COMMANDS_MAX", "2")
    monkeypatch.setenv("DIPTYCH_QUEUE_COMMANDS_MAX", "2")
    settings = run_command_server("--batch-commands-max", "1")
    assert (settings.batch_commands_max, settings.queue_commands_max, settings.snapshot_events) == (1, 2, 30)


def test_a_file_can_serve_several_programs(
    run_command_server: Callable[..., CommandServerSettings], tmp_path: Path
) -> None:
    file = tmp_path / "diptych.toml"
    file.write_text(
        'log_level = "warning"\nread_store = "sqlite:///r.db"\n'
        '[command-server]\naddress = "127.0.0.1:1"\n[projector]\naddress = "127.0.0.1:2"\n'
    )
    settings = run_command_server("--config", str(file))
    assert (settings.log_level, settings.address) == ("warning", "127.0.0.1:1")


def test_an_empty_variable_is_unset(
    run_command_server: Callable[..., CommandServerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIPTYCH_METRICS_ADDRESS", "")
    assert run_command_server().metrics_address is None


def test_a_switch_comes_from_flag_file_or_environment(
    run_command_server: Callable[..., CommandServerSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "diptych.toml"
    file.write_text("insecure = true\n")
    assert not run_command_server().insecure
    assert run_command_server("--insecure").insecure
    assert run_command_server("--config", str(file)).insecure
    monkeypatch.setenv("DIPTYCH_INSECURE", "true")
    assert run_command_server().insecure


BAD = [
    (
        ["--batch-commands-max", "0"],
        {},
        "",
        "--batch-commands-max: must be greater than or equal to 1, not '0'.",
    ),
    (
        ["--address", "nowhere"],
        {},
        "",
        "--address: must be HOST:PORT, such as 127.0.0.1:50051, not 'nowhere'.",
    ),
    (["--log", "mysql://x/y"], {}, "", "--log: mysql is not served; use sqlite:///FILE, not 'mysql://x/y'."),
    (
        ["--log-level", "loud"],
        {},
        "",
        "--log-level: must be 'debug', 'info', 'warning' or 'error', not 'loud'.",
    ),
    ([], {"DIPTYCH_STOP_SECONDS": "soon"}, "", "DIPTYCH_STOP_SECONDS: must be a valid number"),
    ([], {}, "subscriptions_max = 0", "subscriptions_max in "),
    ([], {}, "batch_max = 5", "batch_max in "),
    ([], {}, "[command-server]\nread_store = 'sqlite:///r.db'", "read_store in [command-server] of "),
    ([], {}, "subscriptions_max = ", "--config: "),
    (["--config", "/does/not/exist.toml"], {}, "", "--config: /does/not/exist.toml cannot be read: "),
    (["--no-such-thing"], {}, "", "--no-such-thing"),
]


@pytest.mark.parametrize(("arguments", "env", "file", "sentence"), BAD)
def test_bad_settings_are_named_with_status_2(
    arguments: list[str],
    env: dict[str, str],
    file: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DIPTYCH_CONFIG", "")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    if file:
        path = tmp_path / "diptych.toml"
        path.write_text(file)
        arguments = [*arguments, "--config", str(path)]
    assert main(["command-server", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_all_bad_settings_are_named_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["projector", "--address", "x", "--batch-events-max", "many"]) == 2
    error = capsys.readouterr().err
    assert "--address: " in error
    assert "--batch-events-max: " in error


def test_up_names_a_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        arguments = [f"--data={tmp_path}", "--command-address=127.0.0.1:0", f"--query-address={address}"]
        assert main(["up", *arguments]) == 1
    error = capsys.readouterr().err
    assert f"Cannot listen on {address}: " in error
    assert "uses the port. --query-address sets the address" in error


def test_contracts_writes_a_descriptor_set(tmp_path: Path) -> None:
    whole, plain = tmp_path / "contracts.binpb", tmp_path / "plain.binpb"
    assert main(["contracts", "--out", str(whole)]) == 0
    assert main(["contracts", "--plain", "--out", str(plain)]) == 0
    names = {file.name for file in descriptor_pb2.FileDescriptorSet.FromString(whole.read_bytes()).file}
    assert {
        "diptych/v1/commands.proto",
        "google/rpc/error_details.proto",
        "buf/validate/validate.proto",
    } <= names
    names = {file.name for file in descriptor_pb2.FileDescriptorSet.FromString(plain.read_bytes()).file}
    assert "buf/validate/validate.proto" not in names


def test_contracts_compiles_a_folder_and_names_the_line_of_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p" / "zoo" / "v1").mkdir(parents=True)
    proto = tmp_path / "p" / "zoo" / "v1" / "zoo.proto"
    proto.write_text('syntax = "proto3";\npackage zoo.v1;\nmessage Ape {}\n')
    out = tmp_path / "zoo.binpb"
    assert main(["contracts", "--protos", str(tmp_path / "p"), "--out", str(out)]) == 0
    names = {file.name for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file}
    assert {"zoo/v1/zoo.proto", "diptych/v1/commands.proto"} <= names
    proto.write_text('syntax = "proto3";\npackage zoo.v1;\nmessage Ape { Bar bar = 1; }\n')
    assert main(["contracts", "--protos", str(tmp_path / "p"), "--out", str(out)]) == 1
    assert "zoo/v1/zoo.proto:3" in capsys.readouterr().err


def test_generate_makes_python_of_contracts_and_names_the_line_of_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p" / "zoo" / "v1").mkdir(parents=True)
    proto = tmp_path / "p" / "zoo" / "v1" / "zoo.proto"
    head = 'syntax = "proto3";\npackage zoo.v1;\nimport "diptych/v1/commands.proto";\n'
    text = f"{head}message Ape {{ CONTEXT context = 1; }}\n"
    proto.write_text(text.replace("CONTEXT", "diptych.v1.CommandContext"))
    assert main(["generate", str(tmp_path / "p"), "--out", str(tmp_path / "src")]) == 0
    printed = capsys.readouterr().out.split()
    assert printed == [str(tmp_path / "src" / "zoo" / "v1" / name) for name in ("zoo_pb2.py", "zoo_pb2.pyi")]
    assert all(Path(name).is_file() for name in printed)
    proto.write_text(text)
    assert main(["generate", str(tmp_path / "p"), "--out", str(tmp_path / "src")]) == 1
    assert "zoo/v1/zoo.proto:4" in capsys.readouterr().err
    assert main(["generate", str(tmp_path / "none")]) == 1
    assert "which should hold .proto files, does not exist" in capsys.readouterr().err


def test_contracts_prints_the_folder_of_the_engines_contracts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contracts", "--path"]) == 0
    assert (Path(capsys.readouterr().out.strip()) / "diptych" / "v1" / "commands.proto").is_file()


def test_contracts_goes_to_stdout() -> None:
    done = subprocess.run([sys.executable, "-m", "diptych.cli", "contracts"], capture_output=True, check=True)
    assert descriptor_pb2.FileDescriptorSet.FromString(done.stdout).file


@pytest.mark.parametrize("command", [["status"], ["events", "--commands", "127.0.0.1:1"]])
def test_a_server_that_does_not_answer_is_named(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*command, *(["--query", "127.0.0.1:1"] if command == ["status"] else [])]
    assert main(arguments) == 1
    assert "server at 127.0.0.1:1" in capsys.readouterr().err


def modules_after(*arguments: str) -> set[str]:
    """Return the names of the modules that a run of the command line has imported."""
    code = f"import sys; from diptych.cli import main; main({list(arguments)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_help_imports_no_server_and_no_domain() -> None:
    top = {"command_server", "projector", "query_server", "shop"}
    imported = {name for name in modules_after("--help") if name.split(".")[0] in top}
    # The options of a server's program, and nothing that serves.
    assert imported == top - {"shop"} | {f"{name}.program" for name in top - {"shop"}}


def test_a_server_imports_neither_the_supervisor_nor_other_commands() -> None:
    modules = modules_after("command-server", "--help")
    assert modules & {"diptych.cli.up", "diptych.client", "rich", "diptych.contract.generate"} == set()
    assert modules & {"projector", "query_server"} == set()


@pytest.mark.parametrize("program", ["command_server", "projector", "query_server"])
def test_a_server_run_as_a_module_does_not_import_the_command_line(program: str) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module({program!r}, run_name='__main__')\n"
        f"except SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1].split()
    assert f"{program}.program" in modules
    assert [name for name in modules if name.startswith("diptych.cli")] == []
