"""Steps of the wall clock, forth and back, while servers run: they must cause no harm.

Lag, deadlines, waits and leases use the monotonic clock. This file lists all readers of the wall clock.
`test_kills.py` sets the clock all the time in real servers.
"""

from __future__ import annotations

import ast
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from diptych.domain.ids import new_id
from projector.store.tombstones import Tombstones
from tests.support.notes import Erased, Noted
from tests.support.sources import ROOT, modules
from tests.support.watch_stage import Stage

READERS = {
    "command_server/writer.py": "the record time and the event ids, which are for people and need not ascend",
    "command_server/request_sweep.py": "the age of request ids, by the clock of their acceptance",
    "command_server/store/upgrades.py": "acceptance times of a log that has none",
    "command_server/processes/": "timers, which are due at a time of day, and since when something is waited for",
    "diptych/domain/ids.py": "ids that the server makes, which are unique by their random part",
    "projector/store/parked_streams.py": "when a stream was parked, which is for people",
    "projector/store/tombstones.py": "where its own steady clock begins",
    "query_server/queries/cached_list.py": "the time that a query's finder is given",
}
"""Modules or whole packages that may read the wall clock, with their purpose. A step of the clock could harm any other
reader.
"""


def test_only_listed_modules_read_the_wall_clock() -> None:
    found: set[str] = set()
    for package in ("command_server", "projector", "query_server", "diptych"):
        for path in [module.path for module in modules(package)]:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                    "time.time",
                    "time.time_ns",
                    "datetime.now",
                    "datetime.utcnow",
                ):
                    found.add(str(path.relative_to(ROOT)))
    assert {path for path in found if not path.startswith(tuple(READERS))} == set()
    assert "command_server/writer.py" in found, "The search finds nothing."


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = await Stage(tmp_path / "read.db").open()
    yield stage
    await stage.close()


async def test_bug_a_wall_clock_set_forth_made_tombstones_old_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed watch was refused with RESUME_TOKEN_EXPIRED, although the row had been deleted just before."""
    tombstones = Tombstones(stage.writer.store, keep_seconds=3600)
    await stage.put(Noted(key="a", text="x"), Erased(key="a"))
    await tombstones.purge()
    await stage.put(Noted(key="b", text="x"))
    real = time.time
    for step in (172_800.0, -172_800.0):
        monkeypatch.setattr(time, "time", lambda step=step: real() + step)
        assert await tombstones.purge() == 0


def test_ids_are_unique_after_steps_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    monkeypatch.setattr(time, "time_ns", lambda: rng.randrange(10**18, 10**18 + 10**7))
    assert len({new_id() for _ in range(10_000)}) == 10_000
