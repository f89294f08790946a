"""A log that is backed up under load, restored, and written on: the judge checks both epochs and their boundary.

Commands of the backup stay at their positions, and a repeat gets its first answer with the same token. Later commands
are lost as a whole, and can be sent again under their request ids.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from diptych.contract.token import Token
from diptych.domain.loading import load
from tests.history.clients import RecordingClient, whole_log
from tests.history.judge import Case, judge
from tests.history.records import History, Write, WriteStatus
from tests.history.shop import ShopEffects
from tests.history.shopping import Board, Shopper, open_shop
from tests.history.stage import Stage
from tests.integration.test_backup import diptych
from tests.support.polling import eventually

SEED = 5
WRITES = 80
SECONDS = 120.0
"""Limit in seconds; the test ends much earlier, after enough writes."""
REPEATS = 12


async def shopping(stage: Stage, board: Board, name: str) -> RecordingClient:
    """Run clients until the board is over and no outcome is unknown; return one of them, still open."""
    clients = [RecordingClient(f"{name}{number}", stage.history, stage.commands, stage.queries) for number in range(3)]
    if not board.users:
        await open_shop(clients[0], board)
    shoppers = [Shopper(client, board, random.Random(f"{SEED}/{client.name}")) for client in clients]
    await asyncio.gather(*(shopper.shop(SECONDS) for shopper in shoppers))
    await asyncio.gather(*(shopper.settle(30.0) for shopper in shoppers))
    for client in clients[1:]:
        await client.close()
    return clients[0]


@pytest.mark.timeout(240)
async def test_a_restored_log_goes_on_where_the_backup_ends(tmp_path: Path) -> None:
    domain, data, rng = load("shop").domain, tmp_path / "data", random.Random(SEED)
    log, backup = f"--log=sqlite:///{data / 'log.db'}", tmp_path / "backup.db"
    first, second = History(), History()

    async with Stage(data, domain, first, random.Random(SEED)) as stage:
        board = Board()
        working = asyncio.create_task(shopping(stage, board, "c"))
        await enough(first, WRITES)
        done = await diptych("backup", log, f"--to={backup}")
        assert done.returncode == 0, done.stderr
        await enough(first, len(first.writes) + WRITES)
        board.over = True
        await (await working).close()
        first.log = await whole_log(stage.commands)
    assert judge(Case(first, domain, ShopEffects())) == []

    done = await diptych("restore", str(backup), log, "--force")
    assert done.returncode == 0, done.stderr
    for file in data.glob("read.db*"):
        file.unlink()  # What it was filled from is not the log any more.

    async with Stage(data, domain, second, random.Random(SEED)) as stage:
        restored = await whole_log(stage.commands)
        kept = len(restored)
        assert 0 < kept < len(first.log)
        assert restored == first.log[:kept]
        board = Board()
        board.users = [
            event.aggregate.id for event in restored if event.aggregate.type == "user" and event.version == 1
        ]
        working = asyncio.create_task(shopping(stage, board, "d"))
        await enough(second, WRITES)
        board.over = True
        client = await working
        accepted = [write for write in first.writes if write.status is WriteStatus.ACKNOWLEDGED and not write.duplicate]
        # Of those that recorded nothing, the token does not tell on which side of the backup they were.
        remembered = {event.metadata.request_id for event in restored}
        before = [write for write in accepted if write.request_id in remembered]
        after = [write for write in accepted if Token.parse(write.token).position > kept]
        for write in rng.sample(before, REPEATS):
            again = await _repeated(client, write)
            assert (again.version, again.token, again.duplicate) == (write.version, write.token, True)
        for write in rng.sample(after, REPEATS):
            again = await _repeated(client, write)
            # It may be refused, by what is there now; it is no repeat, and belongs to the new epoch.
            if again.status is WriteStatus.ACKNOWLEDGED:
                assert not again.duplicate
                assert Token.parse(again.token).epoch == 2 or Token.parse(again.token).position <= kept
        second.log = await whole_log(stage.commands)
        await client.close()
    assert second.log[:kept] == restored
    second.writes += before
    assert judge(Case(second, domain, ShopEffects())) == []


async def enough(history: History, writes: int) -> None:
    await eventually(lambda: len(history.writes) >= writes, seconds=SECONDS)


async def _repeated(client: RecordingClient, write: Write) -> Write:
    return await client.write(
        write.command, write.stream, write.request_id, expected_version=write.expected_version, timeout=30
    )
