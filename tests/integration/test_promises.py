"""Promises 1 to 4 with real processes: clients write and read while servers are killed, frozen and cut off.

`DIPTYCH_TEST_SEEDS=7,8,9 DIPTYCH_TEST_SECONDS=60 pytest tests/integration/test_promises.py` makes other, longer runs.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from diptych.domain.loading import load
from diptych.v1.read_model_pb2 import WaitOutcome
from shop.v1.user_commands_pb2 import RecordLoginRequest
from tests.history.clients import RecordingClient, whole_log
from tests.history.judge import Case, judge
from tests.history.records import History
from tests.history.run import Plan, run, seeds
from tests.history.shop import ShopEffects
from tests.history.shopping import Board, Shopper, open_shop
from tests.history.stage import Stage

SECONDS = float(os.environ.get("DIPTYCH_TEST_SECONDS", "5"))


@pytest.mark.parametrize("seed", seeds("1,2,3"))
@pytest.mark.timeout(SECONDS * 8 + 90)
async def test_the_promises_hold_under_kills_and_network_faults(tmp_path: Path, seed: int) -> None:
    outcome = await run(tmp_path / "data", Plan(seed=seed, seconds=SECONDS, reads_min=31, writes_min=101))
    print(f"seed {seed}: {outcome.summary()}")
    assert not outcome.findings, f"seed {seed}: {outcome.report()}"
    # A run in which nothing can be done would find nothing.
    assert len(outcome.history.log) > 100, outcome.summary()
    assert sum(read.refused is None for read in outcome.history.reads) > 30, outcome.summary()


async def test_a_plain_read_after_reached_includes_the_version_while_the_feed_hangs(tmp_path: Path) -> None:
    history = History()
    stage = Stage(tmp_path / "data", load("shop").domain, history, random.Random(1))
    async with stage:
        client = RecordingClient("c", history, stage.commands, stage.queries)
        try:
            shopper = Shopper(client, Board(), random.Random(1))
            await open_shop(client, shopper.board)
            await shopper.get_user("first-0", server="query-1", token=client.token)
            await shopper.get_user("first-0", server="query-1", token="")  # Kept in memory by now, if ever.
            stage.links["query-1>projector"].hold()
            write = await client.write(RecordLoginRequest(user_id="first-0"), "user/first-0", "r")
            for view in ("users", ""):  # With and without a view.
                wait = await client.wait("query-1", view, token=write.token, timeout=10)
                assert wait.outcome == WaitOutcome.WAIT_OUTCOME_REACHED
                await shopper.get_user("first-0", server="query-1", token="")
            history.log = await whole_log(stage.commands)
        finally:
            await client.close()
    assert judge(Case(history, stage.domain, ShopEffects())) == []
