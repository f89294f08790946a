"""Pace: how rebuilds leave time to what is live, and what is live to each other."""

from __future__ import annotations

import asyncio

from projector.generation.throttle import BATCH_SECONDS, LAG_SECONDS, LIVE_BATCH_SECONDS, LivePace, Share, SharedPace


class Live:
    """What is live, as told by hand."""

    def __init__(self) -> None:
        self.lag = 0.0
        self.busy = False
        self.at_head = False
        self.share = Share(lambda: self.lag, lambda: self.busy, lambda: self.at_head)


async def turn(pace: SharedPace | LivePace, events: int, seconds: float = 0.0) -> float:
    """Takes a turn that works so long; returns how long all of it took."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with pace.turn(events):
        await asyncio.sleep(seconds)
    return loop.time() - started


async def test_batches_come_to_take_the_time_they_should() -> None:
    pace = SharedPace(Live().share, 1000)
    for _ in range(8):
        await turn(pace, pace.events_max)
    assert pace.events_max == 1000, "what takes no time is as large as it may be"
    for _ in range(8):
        await turn(pace, pace.events_max, BATCH_SECONDS * 4)
    assert pace.events_max <= 32


async def test_as_much_time_is_left_as_was_taken_if_somebody_has_use_for_it() -> None:
    live = Live()
    pace = SharedPace(live.share, 1000)
    live.busy = True
    assert await turn(pace, 10, 0.1) >= 0.19


async def test_a_rebuild_stands_back_behind_a_live_lag_but_not_for_ever() -> None:
    live = Live()
    pace = SharedPace(live.share, 1000)
    live.lag = LAG_SECONDS * 2
    assert await turn(pace, 10) >= 0.2
    waiting = asyncio.create_task(turn(pace, 10))
    await asyncio.sleep(0.03)
    live.lag = 0.0
    async with asyncio.timeout(10):
        await waiting


async def test_what_is_hurried_or_released_waits_for_nothing() -> None:
    live = Live()
    live.lag, live.busy = 1e9, True
    pace = SharedPace(live.share, 1000)
    pace.hurried = True
    async with asyncio.timeout(10):
        for _ in range(100):
            await turn(pace, 10)
    pace.release()
    assert pace.events_max == 1000
    async with live.share.turns, asyncio.timeout(10):
        await turn(pace, 10)


async def test_bug_a_live_projection_that_caught_up_kept_those_at_the_head_waiting() -> None:
    live = Live()
    pace = LivePace(live.share, 1000)
    assert pace.events_max == 1000, "nobody else is at the head"
    live.at_head = True
    for _ in range(8):
        await turn(pace, pace.events_max, LIVE_BATCH_SECONDS * 4)
    assert pace.events_max <= 32
    live.at_head = False
    assert pace.events_max == 1000, "nobody has use for less"


async def test_a_live_batch_smaller_than_it_might_be_says_nothing_of_larger_ones() -> None:
    live = Live()
    live.at_head = True
    pace = LivePace(live.share, 1000)
    before = pace.events_max
    for _ in range(8):
        await turn(pace, 1, LIVE_BATCH_SECONDS / 4)  # A commit has its price, with however few events.
    assert pace.events_max == before


async def test_one_rebuild_has_its_turn_at_a_time() -> None:
    live = Live()
    one, other = SharedPace(live.share, 1000), SharedPace(live.share, 1000)
    order: list[str] = []

    async def work(name: str, pace: SharedPace) -> None:
        for _ in range(3):
            async with pace.turn(10):
                order.append(f"{name} begins")
                await asyncio.sleep(0.001)
                order.append(f"{name} ends")

    await asyncio.gather(work("one", one), work("other", other))
    assert len(order) == 12
    assert all(order[at].endswith("begins") and order[at + 1].endswith("ends") for at in range(0, 12, 2))
