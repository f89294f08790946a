"""Process launcher: ready lines, signals, restarts, and the message when a program fails."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.polling import eventually_blocking
from tests.support.programs import LOG_TAIL_CHARACTERS, Program, ProgramFailed, Server, environment

READY = "import sys; print('ready', flush=True); sys.stdin.read()"


def program(folder: Path, code: str, *, ready: str = "ready") -> Program:
    """Return a Python program that is not started yet."""
    return Program(["-c", code], log=folder / "program.log", ready=ready)


def test_start_waits_for_the_ready_line_and_stop_returns_the_exit_status(tmp_path: Path) -> None:
    with program(tmp_path, READY) as started:
        started.start()
        assert started.running
        assert started.lines == ["ready"]
        assert started.stop() == -signal.SIGTERM
        assert not started.running


def test_start_fails_with_stdout_and_the_end_of_the_log_when_the_program_ends(tmp_path: Path) -> None:
    code = "import sys; print('hello'); sys.stderr.write('old ' + 'x' * 5000 + ' no such port\\n'); sys.exit(3)"
    with pytest.raises(ProgramFailed) as failed:
        program(tmp_path, code).start()
    message = str(failed.value)
    assert "ended with status 3; stdout: ['hello']; end of program.log:\n" in message
    assert message.endswith("x no such port\n")
    assert "old" not in message.partition("end of program.log:")[2]
    assert len(message) < LOG_TAIL_CHARACTERS + 500


def test_wait_for_line_fails_at_its_limit_while_the_program_runs(tmp_path: Path) -> None:
    with program(tmp_path, READY) as started:
        started.start()
        with pytest.raises(ProgramFailed, match=r"wrote no such line within 0.1 s; stdout: \['ready'\]"):
            started.wait_for_line(lambda line: line == "never", 0.1)


async def test_restart_waits_for_the_ready_line_of_the_new_process(tmp_path: Path) -> None:
    with program(tmp_path, READY) as started:
        started.start()
        first = started.pid
        await started.restart()
        assert started.pid != first
        assert started.lines == ["ready", "ready"]


def test_a_frozen_program_goes_on_when_thawed_and_dies_when_killed(tmp_path: Path) -> None:
    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    with program(tmp_path, READY) as started:
        started.start()
        started.freeze()
        eventually_blocking(lambda: state(started.pid) == "T")
        started.thaw()
        eventually_blocking(lambda: state(started.pid) == "S")
        started.freeze()
        started.kill()
        assert started.wait() == -signal.SIGKILL


def test_a_program_reads_the_end_of_its_input_when_its_starter_is_gone(tmp_path: Path) -> None:
    with program(tmp_path, READY) as started:
        started.start()
        assert started._started.stdin is not None
        started._started.stdin.close()  # As the operating system does when the starting process dies.
        assert started.wait() == 0


def test_close_does_nothing_for_a_program_that_was_never_started(tmp_path: Path) -> None:
    program(tmp_path, READY).close()


def test_two_servers_have_ports_of_their_own(tmp_path: Path) -> None:
    first, second = (Server("query-server", log=tmp_path / f"{number}.log") for number in range(2))
    assert first.address != second.address
    assert first.ready == f"diptych query-server ready address={first.address}"
    first.close()
    second.close()


def test_environment_has_no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("SHOP_PAYMENTS", "127.0.0.1:2")
    made = environment({"DIPTYCH_LOG": "x"})
    assert {name for name in made if name.startswith(("DIPTYCH_", "SHOP_"))} == {"DIPTYCH_LOG"}
