"""Servers killed at every named step of commit, publish, fold and feed, while clients write, read and watch.

The judge checks clients' records, log and read store after all servers are back.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.faults.extent import SEED
from tests.history.run import Plan, run
from tests.history.stage import PROGRAMS, Stage, failpoints_of

SECONDS = 30.0
"""Limit in seconds on reaching a failpoint while clients work."""


async def unsettle(stage: Stage) -> None:
    """Cut the clients' connections to the second query server every second."""
    while True:
        await stage.cut("clients>query-2", 0.3)
        await asyncio.sleep(1.0)


@pytest.mark.parametrize("server", ["command-server", "projector", "query-1"])
@pytest.mark.timeout(400)
async def test_a_server_that_dies_at_a_step_loses_nothing(tmp_path: Path, server: str) -> None:
    rng = random.Random(SEED)
    missed: list[str] = []

    async def die_everywhere(stage: Stage) -> None:
        points = [f"{name}=kill@{rng.randint(1, 12)}" for name in failpoints_of(PROGRAMS[server])]
        async with asyncio.TaskGroup() as group:
            # Or watches would stay with the server that lives.
            unsettling = group.create_task(unsettle(stage))
            missed.extend(await stage.die_at(server, points, SECONDS))
            unsettling.cancel()

    outcome = await run(
        tmp_path / "data",
        Plan(seed=SEED, seconds=300.0, clients=3, trouble=die_everywhere, rebuilds=server == "projector"),
    )
    print(f"seed {SEED}: {outcome.summary()}")
    assert not outcome.findings, f"seed {SEED}: {outcome.report()}"
    assert not missed, f"seed {SEED}: never came to {missed}"
