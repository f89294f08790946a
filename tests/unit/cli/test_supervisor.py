"""The supervisor, with scripts in place of servers."""

from __future__ import annotations

import asyncio
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from diptych.cli import child as child_module
from diptych.cli import supervisor as supervisor_module
from diptych.cli.child import Child, State
from diptych.cli.supervisor import ChildFailed, Supervisor

SERVES = """
    import signal, sys
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("diptych {name} ready address=127.0.0.1:1", flush=True)
    signal.pause()
"""
FAILS = """
    import sys
    sys.exit("the disk is full")
"""
IGNORES_SIGTERM = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("diptych {name} ready address=127.0.0.1:1", flush=True)
    while True: time.sleep(60)
"""


class Scripts:
    """Children that run scripts, and the lines that their supervisor printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.supervisor: Supervisor | None = None

    def supervise(self, **scripts: str) -> Supervisor:
        self.supervisor = Supervisor([self._child(name, script) for name, script in scripts.items()], self.lines.append)
        return self.supervisor

    def _child(self, name: str, script: str) -> Child:
        async def healthy() -> None:
            return None

        path = self.folder / f"{name}.py"
        path.write_text(textwrap.dedent(script).replace("{name}", name))
        log = self.folder / f"{name}.log"
        return Child(name, [sys.executable, str(path)], address="127.0.0.1:1", log=log, healthy=healthy)


@pytest.fixture
async def scripts(tmp_path: Path) -> AsyncIterator[Scripts]:
    scripts = Scripts(tmp_path)
    yield scripts
    if scripts.supervisor is not None:
        scripts.supervisor.kill()
        await scripts.supervisor.stop(5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_start_returns_when_all_children_are_healthy(scripts: Scripts) -> None:
    supervisor = scripts.supervise(one=SERVES, two=SERVES)
    await supervisor.start()
    assert [child.state for child in supervisor.children] == [State.SERVING, State.SERVING]


async def test_a_killed_child_is_named_and_restarted(scripts: Scripts) -> None:
    supervisor = scripts.supervise(one=SERVES, two=SERVES)
    await supervisor.start()
    first = supervisor.children[1].pid
    supervisor.children[1].signal(signal.SIGKILL)
    await until(lambda: any("two is serving again" in line for line in scripts.lines))
    assert any("two was killed by SIGKILL; it starts again in 0.1 s" in line for line in scripts.lines)
    assert supervisor.children[1].pid not in (None, first)
    assert (supervisor.children[0].restarts, supervisor.children[1].restarts) == (0, 1)


async def test_the_backoff_doubles_while_a_child_keeps_ending(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "BACKOFF_SECONDS", (0.1, 0.4))
    dies_the_second_time = f"""
        import pathlib, sys
        mark = pathlib.Path(sys.argv[0] + ".mark")
        if mark.exists():
            sys.exit(7)
        mark.touch()
        {SERVES.strip()}
    """
    supervisor = scripts.supervise(one=textwrap.dedent(dies_the_second_time).replace("\n    ", "\n"))
    await supervisor.start()
    supervisor.children[0].signal(signal.SIGKILL)
    await until(lambda: len(scripts.lines) >= 4)
    pauses = [line.split("starts again in ")[1].split(" s")[0] for line in scripts.lines[:4]]
    assert pauses == ["0.1", "0.2", "0.4", "0.4"]
    assert "ended with status 7" in scripts.lines[1]


async def test_a_settled_child_restarts_with_the_first_backoff(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "SETTLED_SECONDS", 0.0)
    supervisor = scripts.supervise(one=SERVES)
    await supervisor.start()
    for again in (1, 2, 3):
        supervisor.children[0].signal(signal.SIGKILL)
        await until(lambda again=again: len([line for line in scripts.lines if "serving again" in line]) == again)  # type: ignore[misc]
    assert [line for line in scripts.lines if "killed" in line and "in 0.1 s" not in line] == []


async def test_a_child_that_ends_before_it_is_healthy_fails_the_start_with_its_log(scripts: Scripts) -> None:
    supervisor = scripts.supervise(one=SERVES, two=FAILS)
    with pytest.raises(ChildFailed, match=r"two ended with status 1 before it was healthy:\nthe disk is full"):
        await supervisor.start()


async def test_a_failed_start_quotes_only_lines_of_this_run(scripts: Scripts) -> None:
    (scripts.folder / "one.log").write_text("a line of an earlier run\n")
    supervisor = scripts.supervise(one=FAILS)
    with pytest.raises(ChildFailed) as failed:
        await supervisor.start()
    assert "line of an earlier run" not in str(failed.value)
    assert "line of an earlier run" in (scripts.folder / "one.log").read_text()


async def test_the_first_child_stops_last(scripts: Scripts) -> None:
    notes = f"""
        import pathlib, signal, sys, time
        def stop(*_):
            with open({str(scripts.folder / "order")!r}, "a") as file: file.write("{{name}} ")
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        print("diptych {{name}} ready address=127.0.0.1:1", flush=True)
        signal.pause()
    """
    supervisor = scripts.supervise(one=notes, two=notes, three=notes)
    await supervisor.start()
    await supervisor.stop(5)
    assert (scripts.folder / "order").read_text().split()[-1] == "one"
    assert {child.state for child in supervisor.children} == {State.STOPPED}


async def test_a_child_that_does_not_stop_is_killed(scripts: Scripts) -> None:
    supervisor = scripts.supervise(one=IGNORES_SIGTERM)
    await supervisor.start()
    started = time.monotonic()
    await supervisor.stop(0.2)
    assert time.monotonic() - started < 5
    assert supervisor.children[0].pid is None


async def test_stopping_during_the_start_leaves_no_child(scripts: Scripts) -> None:
    supervisor = scripts.supervise(one=SERVES, two=SERVES)
    starting = asyncio.create_task(supervisor.start())
    await until(lambda: supervisor.children[0].state is State.STARTING)
    starting.cancel()
    await supervisor.stop(5)
    assert [child.pid for child in supervisor.children] == [None, None]


async def test_a_long_log_is_renamed_at_the_next_start(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "LOG_BYTES_MAX", 10)
    (scripts.folder / "one.log").write_text("many lines of earlier runs\n")
    await scripts.supervise(one=SERVES).start()
    assert (scripts.folder / "one.log.1").read_text() == "many lines of earlier runs\n"
    assert (scripts.folder / "one.log").read_text() == ""
