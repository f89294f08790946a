"""Every command block of the README and of the pages it links to works as it stands, in one shell.

Only what a test must change is changed: ports, folders, and the name of a file that the reader has. A block of
expected output may leave out lines and parts of lines by `...`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from diptych.cli.ports import Reservation
from tests.support.programs import ROOT

README = (ROOT / "README.md").read_text()
RUNNING = (ROOT / "docs" / "running.md").read_text()
SHOP = (ROOT / "docs" / "shop.md").read_text()
PORTS = ("50051", "50052", "50053")
RETAIL = """\
InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,85123A,WHITE HANGING HEART T-LIGHT HOLDER,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom
C536379,D,Discount,-1,2010-12-01 09:41:00,27.5,14527.0,United Kingdom
"""


class Block(NamedTuple):
    kind: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


class Reader:
    """Reader who follows the README: a folder, free ports, and a shell that keeps its variables."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reservations = [Reservation("127.0.0.1:0") for _ in PORTS]
        self._addresses = [reservation.address for reservation in self._reservations]
        command, query, projector = self._addresses
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = kept | {
            "PATH": tools,
            "PYTHONPATH": str(ROOT),
            "DATA": str(folder / "data"),
            "DIPTYCH_COMMAND_ADDRESS": command,
            "DIPTYCH_QUERY_ADDRESS": query,
            "DIPTYCH_PROJECTOR_ADDRESS": projector,
            "DIPTYCH_COMMANDS": command,
            "DIPTYCH_QUERY": query,
            "DIPTYCH_PROJECTOR": projector,
        }
        self._before = ""

    def adapted(self, text: str) -> str:
        for port, address in zip(PORTS, self._addresses, strict=True):
            text = text.replace(f"127.0.0.1:{port}", address)
        return text.replace("source .venv/bin/activate\n", "")

    def spawn(self, command: str, *, output: str = "out") -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=ROOT if command.startswith("make") else self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / output).open("w"),
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, text: str) -> str:
        """Run a block after all blocks before it, whose output is discarded, and return its output."""
        block = self.adapted(text)
        script = f"set -euo pipefail\nexec 3>&1 1>/dev/null\n{self._before}\nexec 1>&3\n{block}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        if "TOKEN=" in block:
            self._before += "".join(line + "\n" for line in block.splitlines() if line.startswith("TOKEN="))
        return done.stdout + done.stderr

    def close(self) -> None:
        for reservation in self._reservations:
            reservation.close()


def matches(expected: str, printed: str) -> bool:
    """Return True if output is as expected; `...` matches any text, and indentation is ignored."""

    def plain(text: str) -> str:
        return "\n".join(line.strip() for line in text.strip().splitlines())

    pattern = re.escape(plain(expected)).replace(re.escape("..."), ".*")
    return re.fullmatch(pattern, plain(printed), re.DOTALL) is not None


def wait_for(path: Path, text: str, process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while text not in (said := path.read_text()):
        assert process.poll() is None, f"it ended early:\n{said}"
        assert time.monotonic() < deadline, f"it did not say {text!r} in time:\n{said}"
        time.sleep(0.05)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    someone = Reader(tmp_path)
    yield someone
    someone.close()


def test_the_first_screen_works_as_it_stands(reader: Reader) -> None:
    first_screen = README.partition("\n## ")[0]
    screen = [block for block in blocks(first_screen) if block.kind in ("sh", "json", "text")]
    assert screen[0].text == "make run\n"
    running = reader.spawn("make run")
    try:
        wait_for(reader.folder / "out", "Try ", running)
        printed = ""
        for kind, text in screen[1:]:
            if kind == "sh":
                printed = reader.run(text)
            else:
                assert matches(text, printed), f"expected\n{text}\nand it printed\n{printed}"
        (watch,) = (block for block in blocks(README) if block.kind == "shell" and "watch" in block.text)
        watching = reader.spawn(watch.text, output="watched")
        wait_for(reader.folder / "watched", '"firstName": "Lin"', watching)
        os.killpg(watching.pid, signal.SIGINT)
        assert watching.wait(30) == 0
    finally:
        os.killpg(running.pid, signal.SIGINT)
        running.wait(30)


def test_the_servers_start_one_by_one_and_take_the_import(reader: Reader) -> None:
    (retail,) = (block for block in blocks(SHOP) if block.kind == "shell")
    (servers,) = (block for block in blocks(RUNNING) if block.kind == "shell")
    (reader.folder / "data").mkdir()
    (reader.folder / "online_retail.csv").write_text(RETAIL)
    running = []
    try:
        for line in servers.text.splitlines():
            running.append(reader.spawn(reader.adapted(line)))
            wait_for(reader.folder / "out", "ready address=", running[-1])
        reader.run(retail.text)
        for process in running:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(30) for process in running] == [0, 0, 0]
    finally:
        for process in running:
            process.kill()


def test_every_command_block_is_run_by_a_test() -> None:
    """Blocks of other kinds are not commands."""
    for page in (README, RUNNING, SHOP):
        assert {block.kind for block in blocks(page)} <= {"sh", "shell", "json", "python", "text"}
        assert sum(block.kind == "shell" for block in blocks(page)) == 1


def test_the_contributing_guide_names_existing_folders() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert shutil.which("make") is not None
    for place in re.findall(r"^\| ([^|]*`[^|]*) \|", guide, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", place):
            assert (ROOT / name).exists(), f"CONTRIBUTING.md names {name}, which is not there"
