"""Wait pool and queues."""

from __future__ import annotations

import asyncio

import pytest

from query_server.freshness.waits import TooManyWaits, WaitPool
from tests.support.freshness import FreshnessStage, turns

NEVER = 1e9


async def test_a_wait_in_several_queues_is_woken_by_any() -> None:
    stage = FreshnessStage("p", "q")
    stage.feed(4, 4)
    stage.feed(4, 4, name="q")
    both = stage.projections
    news = asyncio.create_task(stage.tracker.wait_applied(both, 8, stage.until()))
    await turns()

    stage.feed(8, 4, name="q")
    await news

    assert stage.tracker.waits.count == 0
    assert [entry for tracked in both for entry in tracked.applied_waits.heap if not entry[2].future.done()] == []


async def test_waits_end_through_their_position() -> None:
    queue = WaitPool(10).queue()
    waits = [asyncio.ensure_future(queue.wait_for(position, NEVER)) for position in (3, 1, 2, 3)]
    await turns()
    queue.wake_through(2)
    await turns()
    assert [wait.done() for wait in waits] == [False, True, True, False]
    queue.wake_all()
    await asyncio.gather(*waits)
    assert not queue


async def test_a_wait_ends_at_its_time_limit() -> None:
    pool = WaitPool(10, lambda: 5.0)
    queue = pool.queue()
    await queue.wait_for(1, 5.01)
    assert (pool.count, queue.heap) == (0, [])


async def test_waits_beyond_the_limit_are_refused() -> None:
    pool = WaitPool(2)
    queue = pool.queue()
    waits = [asyncio.ensure_future(queue.wait_for(1, NEVER)) for _ in range(2)]
    await turns()
    with pytest.raises(TooManyWaits):
        await queue.wait_for(1, NEVER)
    pool.close()
    await asyncio.gather(*waits)
    await queue.wait_for(1, NEVER)  # A closed pool lets none begin.
    assert pool.count == 0
