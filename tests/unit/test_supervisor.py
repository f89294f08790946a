"""The supervisor, with scripted children in place of servers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from diptych.cli import supervisor as supervising
from diptych.cli.ports import PortTaken, Reservation
from diptych.cli.supervisor import Child, ChildFailed, State, Supervisor

SERVES = """
    import signal, sys
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("diptych {name} ready address=127.0.0.1:1", flush=True)
    signal.pause()
"""
FAILS = """
    import sys
    sys.exit("the disk is on fire")
"""
DEAF = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("diptych {name} ready address=127.0.0.1:1", flush=True)
    while True: time.sleep(60)
"""


class Family:
    """Children that run scripts, and what the supervisor said of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        self.supervisor: Supervisor | None = None

    def of(self, **scripts: str) -> Supervisor:
        self.supervisor = Supervisor([self._child(name, script) for name, script in scripts.items()], self.told.append)
        return self.supervisor

    def _child(self, name: str, script: str) -> Child:
        async def healthy() -> None:
            return None

        path = self.folder / f"{name}.py"
        path.write_text(textwrap.dedent(script).replace("{name}", name))
        log = self.folder / f"{name}.log"
        return Child(name, [sys.executable, str(path)], address="127.0.0.1:1", log=log, healthy=healthy)


@pytest.fixture
async def family(tmp_path: Path) -> AsyncIterator[Family]:
    family = Family(tmp_path)
    yield family
    if family.supervisor is not None:
        family.supervisor.kill()
        await family.supervisor.stop(5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_start_returns_when_all_children_are_healthy(family: Family) -> None:
    supervisor = family.of(one=SERVES, two=SERVES)
    await supervisor.start()
    assert [child.state for child in supervisor.children] == [State.SERVING, State.SERVING]


async def test_a_child_that_was_killed_is_named_and_started_again(family: Family) -> None:
    supervisor = family.of(one=SERVES, two=SERVES)
    await supervisor.start()
    first = supervisor.children[1].pid
    supervisor.children[1].signal(signal.SIGKILL)
    await until(lambda: any("two is serving again" in line for line in family.told))
    assert any("two was killed by SIGKILL; it starts again in 0.1 s" in line for line in family.told)
    assert supervisor.children[1].pid not in (None, first)
    assert (supervisor.children[0].restarts, supervisor.children[1].restarts) == (0, 1)


async def test_a_child_that_dies_again_and_again_is_started_ever_later(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "BACKOFF_SECONDS", (0.1, 0.4))
    dies_the_second_time = f"""
        import pathlib, sys
        mark = pathlib.Path(sys.argv[0] + ".mark")
        if mark.exists():
            sys.exit(7)
        mark.touch()
        {SERVES.strip()}
    """
    supervisor = family.of(one=textwrap.dedent(dies_the_second_time).replace("\n    ", "\n"))
    await supervisor.start()
    supervisor.children[0].signal(signal.SIGKILL)
    await until(lambda: len(family.told) >= 4)
    pauses = [line.split("starts again in ")[1].split(" s")[0] for line in family.told[:4]]
    assert pauses == ["0.1", "0.2", "0.4", "0.4"]
    assert "ended with status 7" in family.told[1]


async def test_a_child_that_settled_starts_again_soon(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "SETTLED_SECONDS", 0.0)
    supervisor = family.of(one=SERVES)
    await supervisor.start()
    for again in (1, 2, 3):
        supervisor.children[0].signal(signal.SIGKILL)
        await until(lambda again=again: len([line for line in family.told if "serving again" in line]) == again)  # type: ignore[misc]
    assert [line for line in family.told if "killed" in line and "in 0.1 s" not in line] == []


async def test_a_child_that_fails_before_its_first_health_ends_all_with_what_it_said(family: Family) -> None:
    supervisor = family.of(one=SERVES, two=FAILS)
    with pytest.raises(ChildFailed, match=r"two ended with status 1 before it was healthy:\nthe disk is on fire"):
        await supervisor.start()


async def test_a_failure_tells_only_what_this_run_said(family: Family) -> None:
    (family.folder / "one.log").write_text("an older story\n")
    supervisor = family.of(one=FAILS)
    with pytest.raises(ChildFailed) as failed:
        await supervisor.start()
    assert "older story" not in str(failed.value)
    assert "older story" in (family.folder / "one.log").read_text()


async def test_the_child_named_first_stops_last(family: Family) -> None:
    notes = f"""
        import pathlib, signal, sys, time
        def stop(*_):
            with open({str(family.folder / "order")!r}, "a") as file: file.write("{{name}} ")
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        print("diptych {{name}} ready address=127.0.0.1:1", flush=True)
        signal.pause()
    """
    supervisor = family.of(one=notes, two=notes, three=notes)
    await supervisor.start()
    await supervisor.stop(5)
    assert (family.folder / "order").read_text().split()[-1] == "one"
    assert {child.state for child in supervisor.children} == {State.STOPPED}


async def test_a_child_that_does_not_stop_is_killed(family: Family) -> None:
    supervisor = family.of(one=DEAF)
    await supervisor.start()
    started = time.monotonic()
    await supervisor.stop(0.2)
    assert time.monotonic() - started < 5
    assert supervisor.children[0].pid is None


async def test_stopping_while_children_start_leaves_none(family: Family) -> None:
    supervisor = family.of(one=SERVES, two=SERVES)
    starting = asyncio.create_task(supervisor.start())
    await until(lambda: supervisor.children[0].state is State.STARTING)
    starting.cancel()
    await supervisor.stop(5)
    assert [child.pid for child in supervisor.children] == [None, None]


async def test_a_long_log_is_put_aside(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "LOG_BYTES_MAX", 10)
    (family.folder / "one.log").write_text("much that was said before\n")
    await family.of(one=SERVES).start()
    assert (family.folder / "one.log.1").read_text() == "much that was said before\n"
    assert (family.folder / "one.log").read_text() == ""


HOLDS_A_LEASH = """
    import os, subprocess, sys
    script = "from diptych.server.leash import hold_leash; hold_leash(); print(1, flush=True); "
    script += "import time; time.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "DIPTYCH_LEASH": "1"}, start_new_session=True,
    )
    child.stdout.readline()
    print(child.pid, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_process_on_the_leash_dies_with_its_holder() -> None:
    command = [sys.executable, "-c", textwrap.dedent(HOLDS_A_LEASH)]
    holder = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=30)
    assert holder.returncode == -signal.SIGKILL
    pid = int(holder.stdout)
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline, "the child outlived its holder"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_a_taken_port_is_named() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(PortTaken, match=f"Cannot listen on {address}: another program uses the port"):
            Reservation(address)


def test_a_host_that_is_not_ours_is_named() -> None:
    with pytest.raises(PortTaken, match=r"Cannot listen on 192\.0\.2\.1:1234: Cannot assign requested address"):
        Reservation("192.0.2.1:1234")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port cannot be kept")
def test_a_reserved_port_is_free_for_our_server_alone() -> None:
    import socket

    reservation = Reservation("127.0.0.1:0")
    host, _, port = reservation.address.rpartition(":")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((host, int(port)))
    with socket.create_server((host, int(port))):  # It sets SO_REUSEADDR, as gRPC does.
        pass
    reservation.close()
