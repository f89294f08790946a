"""Waits for versions: an event wakes the waits that it satisfies, and no other."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

from command_server.version_waits import VersionWaits
from diptych.v1.commands_pb2 import AggregateRef
from diptych.v1.events_pb2 import GetPositionRequest
from tests.support.batch_desk import register
from tests.support.freshness import turns
from tests.support.two_servers import Call, two_servers


async def test_an_event_wakes_waits_through_its_version_alone() -> None:
    waits = VersionWaits()
    with ExitStack() as stack:
        futures = [stack.enter_context(waits.wait("a", version)) for version in (3, 1, 2)]
        other = stack.enter_context(waits.wait("b", 1))
        waits.wake({"a": 2, "c": 9})
        assert [future.done() for future in (*futures, other)] == [False, True, True, False]
        waits.wake_all()
        assert futures[0].done()
        assert other.done()
    assert not waits


async def test_ended_waits_are_dropped() -> None:
    waits = VersionWaits()
    with waits.wait("a", 1):
        for _ in range(1000):
            with waits.wait("a", 2):
                pass
        assert len(waits._streams["a"].heap) <= 70
    assert not waits._streams


async def test_bug_each_event_woke_all_waits_for_later_versions(tmp_path: Path) -> None:
    """Each woken wait reads the store: 2,000 waits for one aggregate made its commands 27 times as dear."""
    async with two_servers(tmp_path) as server:
        reads = 0
        position_of = server.desk.store.position_of

        async def counted(stream: str, version: int) -> int | None:
            nonlocal reads
            reads += 1
            return await position_of(stream, version)

        server.desk.store.position_of = counted  # type: ignore[method-assign]
        ada = AggregateRef(type="user", id="ada")
        far = GetPositionRequest(aggregate=ada, version=1 << 40)
        waiting = [asyncio.create_task(server.position(Call(), far)) for _ in range(20)]
        first = asyncio.create_task(server.position(Call(), GetPositionRequest(aggregate=ada, version=1)))
        following = asyncio.create_task(server.tail.run())
        async with asyncio.timeout(30):
            while reads < 21:
                await asyncio.sleep(0)
            await server.other.batch(register("ada"))
            assert await first == 1
        await turns()
        assert reads == 22, "the wait for version 1 read once more"
        for task in (following, *waiting):
            task.cancel()
        await asyncio.gather(following, *waiting, return_exceptions=True)
