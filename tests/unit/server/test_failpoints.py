"""Failpoints: their arming, their actions, and one step of a server for each."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych.server import failpoints
from tests.history.stage import PROGRAMS, failpoints_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_every_failpoint_is_hit_at_one_step() -> None:
    hits = Counter(
        name
        for package in ("command_server", "projector", "query_server", "diptych")
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r'failpoints\.hit\("([a-z.]+)"\)', path.read_text("utf-8"))
    )
    assert hits == Counter(list(failpoints.NAMES))


def test_history_kills_a_server_at_every_failpoint() -> None:
    assert sorted(name for program in set(PROGRAMS.values()) for name in failpoints_of(program)) == sorted(
        failpoints.NAMES
    )


def test_failpoint_acts_at_its_hit_alone() -> None:
    failpoints.arm("fold.taken=raise@2; commit.taken=pause(1)")
    failpoints.hit("fold.taken")
    failpoints.hit("fold.published")
    failpoints.hit("commit.taken")
    with pytest.raises(failpoints.FailpointError):
        failpoints.hit("fold.taken")
    failpoints.hit("fold.taken")


def test_unarmed_failpoint_does_nothing() -> None:
    for name in failpoints.NAMES:
        failpoints.hit(name)


@pytest.mark.parametrize("points", ["fold.taken", "fold.taken=die", "no.such=kill", "fold.taken=kill@x", "=kill"])
def test_malformed_failpoint_is_refused(points: str) -> None:
    with pytest.raises(ValueError, match="is no failpoint"):
        failpoints.arm(points)


@pytest.mark.parametrize(("action", "number"), [("kill", signal.SIGKILL), ("stop", signal.SIGSTOP)])
def test_process_kills_or_stops_itself(action: str, number: signal.Signals) -> None:
    hits = f"f.arm('fold.taken={action}@2'); [f.hit('fold.taken') for _ in '12']"
    code = f"from diptych.server import failpoints as f; {hits}"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        if number is signal.SIGKILL:
            assert process.wait(60) == -number
        else:
            state = Path(f"/proc/{process.pid}/stat")
            while state.read_text().rpartition(")")[2].split()[0] != "T":
                assert process.poll() is None, "it ended instead"
    finally:
        process.kill()
        process.wait()
