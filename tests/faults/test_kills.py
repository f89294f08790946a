"""All faults at once: killed and frozen servers, full disks, paused, rebuilt and switched projections, cut, held and
slow links, set clocks, lost, doubled and late feed frames, and clients that read nothing. No acknowledged command may
be lost, and no read may be wrong.

`make faults KILLS=1000 SEED=7` runs until that many processes were killed, in parts of half a minute, which are judged
one by one. The same seed draws the same faults; their effect depends on timing.
"""

from __future__ import annotations

import random
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.extent import KILLS, SEED
from tests.history.run import Plan, run

PART_SECONDS = 30.0
TROUBLES = {"kill": 8, "freeze": 2, "fill": 1, "pause": 1, "cut": 1, "hold": 1, "slow": 1}
PLANTS = {
    "command-server": "clock-steps@700",
    "projector": "clock-steps@500,feed-dropped@7,feed-doubled@5,feed-late@3",
    "query-server": "clock-steps@300",
}


@pytest.mark.timeout(120 + KILLS * 20)
async def test_nothing_is_lost_under_all_faults_at_once(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    deaths = part = steps = 0
    began = time.monotonic()
    while deaths < KILLS:
        seed = rng.randrange(1 << 32) if part else SEED
        seconds = min(PART_SECONDS, max(3.0, 1.2 * (KILLS - deaths)))
        plan = Plan(seed=seed, seconds=seconds, clients=4, troubles=TROUBLES, plants=PLANTS, sleepers=2, rebuilds=True)
        outcome = await run(tmp_path / f"part-{part}", plan)
        part += 1
        deaths += outcome.deaths
        print(f"seed {SEED}, part {part} (seed {seed}): {outcome.summary()}", flush=True)
        assert not outcome.findings, f"seed {SEED}, part {part} (seed {seed}): {outcome.report()}"
        # A run in which nothing can be done would find nothing.
        assert len(outcome.history.log) > 10, outcome.summary()
        assert any(read.refused is None for read in outcome.history.reads), outcome.summary()
        times = [event.record_time.seconds for event in outcome.history.log]
        steps += sum(later < earlier - 3600 for earlier, later in pairwise(times))
    assert steps, "no clock was set"
    print(f"seed {SEED}: {deaths} deaths in {part} parts, {time.monotonic() - began:.0f} s, nothing lost", flush=True)
