"""Throttles: the time that rebuilds leave to live projections, and live projections to each other."""

from __future__ import annotations

import asyncio

from projector.generation.throttle import (
    BATCH_SECONDS,
    LAG_SECONDS,
    LIVE_BATCH_SECONDS,
    FoldingLoad,
    LiveThrottle,
    RebuildThrottle,
)


class Live:
    """Load that a test sets."""

    def __init__(self) -> None:
        self.lag = 0.0
        self.busy = False
        self.at_head = False
        self.load = FoldingLoad(lambda: self.lag, lambda: self.busy, lambda: self.at_head)


async def turn(throttle: RebuildThrottle | LiveThrottle, events: int, seconds: float = 0.0) -> float:
    """Take a turn that folds for some seconds; return the seconds that it took with all waits."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with throttle.turn(events):
        await asyncio.sleep(seconds)
    return loop.time() - started


async def test_batch_size_fits_the_target_duration() -> None:
    throttle = RebuildThrottle(Live().load, 1000)
    for _ in range(8):
        await turn(throttle, throttle.events_max)
    assert throttle.events_max == 1000, "batches that take no time have the largest size"
    for _ in range(8):
        await turn(throttle, throttle.events_max, BATCH_SECONDS * 4)
    assert throttle.events_max <= 32


async def test_rebuild_waits_as_long_as_its_batch_took_when_a_live_projection_is_busy() -> None:
    live = Live()
    throttle = RebuildThrottle(live.load, 1000)
    live.busy = True
    assert await turn(throttle, 10, 0.1) >= 0.19


async def test_rebuild_waits_for_a_lagging_live_projection_for_a_limited_time() -> None:
    live = Live()
    throttle = RebuildThrottle(live.load, 1000)
    live.lag = LAG_SECONDS * 2
    assert await turn(throttle, 10) >= 0.2
    waiting = asyncio.create_task(turn(throttle, 10))
    await asyncio.sleep(0.03)
    live.lag = 0.0
    async with asyncio.timeout(10):
        await waiting


async def test_hurried_or_released_rebuild_does_not_wait() -> None:
    live = Live()
    live.lag, live.busy = 1e9, True
    throttle = RebuildThrottle(live.load, 1000)
    throttle.hurried = True
    async with asyncio.timeout(10):
        for _ in range(100):
            await turn(throttle, 10)
    throttle.release()
    assert throttle.events_max == 1000
    async with live.load.rebuild_turn, asyncio.timeout(10):
        await turn(throttle, 10)


async def test_bug_live_projection_that_caught_up_delayed_those_at_the_head() -> None:
    live = Live()
    throttle = LiveThrottle(live.load, 1000)
    assert throttle.events_max == 1000, "no other projection is at the head"
    live.at_head = True
    for _ in range(8):
        await turn(throttle, throttle.events_max, LIVE_BATCH_SECONDS * 4)
    assert throttle.events_max <= 32
    live.at_head = False
    assert throttle.events_max == 1000, "no other projection needs the time"


async def test_small_live_batch_does_not_change_the_batch_size() -> None:
    live = Live()
    live.at_head = True
    throttle = LiveThrottle(live.load, 1000)
    before = throttle.events_max
    for _ in range(8):
        await turn(throttle, 1, LIVE_BATCH_SECONDS / 4)  # Each commit has a fixed cost.
    assert throttle.events_max == before


async def test_rebuilds_fold_one_at_a_time() -> None:
    live = Live()
    one, other = RebuildThrottle(live.load, 1000), RebuildThrottle(live.load, 1000)
    order: list[str] = []

    async def work(name: str, throttle: RebuildThrottle) -> None:
        for _ in range(3):
            async with throttle.turn(10):
                order.append(f"{name} begins")
                await asyncio.sleep(0.001)
                order.append(f"{name} ends")

    await asyncio.gather(work("one", one), work("other", other))
    assert len(order) == 12
    assert all(order[at].endswith("begins") and order[at + 1].endswith("ends") for at in range(0, 12, 2))
