"""Fresh reads: waiting, repeating, and refusals."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from diptych.contract.projection_state import PAUSED, REBUILDING, STALLED
from diptych.contract.reasons import (
    Overloaded,
    ReadModelBehind,
    ReadModelNotReady,
    ReadModelPaused,
    ReadModelRebuilding,
    ReadModelStalled,
)
from query_server.freshness.fresh_read import absent
from tests.support.freshness import FreshnessStage, ReadAt, scripted_reads, turns


async def test_reads_wake_in_order_of_their_positions() -> None:
    stage = FreshnessStage()
    stage.tracker.on_head(10, None)
    stage.feed(0, 0)
    read, done = scripted_reads(ReadAt(1, 4), ReadAt(1, 4), ReadAt(1, 9))
    tracked = stage.projection
    waits = {
        required: asyncio.ensure_future(stage.fresh.read(tracked, required, stage.until(), read))
        for required in (5, 3, 9, 1)
    }
    await turns()
    assert done == []
    assert stage.tracker.waits.count == 4

    stage.feed(4, 4)
    await turns()
    assert {required for required, wait in waits.items() if wait.done()} == {1, 3}

    stage.feed(9, 9)
    await turns()
    assert all(wait.done() for wait in waits.values())
    assert (stage.tracker.waits.count, tracked.applied_waits.heap) == (0, [])
    assert len(done) == 4


async def test_a_read_returns_at_once_when_the_position_is_included() -> None:
    stage = FreshnessStage()
    stage.feed(9, 4)
    read, done = scripted_reads(ReadAt(1, 5))

    got, position = await stage.fresh.read(stage.projection, 9, stage.until(), read)

    assert (got, position, done) == (ReadAt(1, 5), 9, [ReadAt(1, 5)])


async def test_a_read_repeats_when_a_poll_shows_the_position() -> None:
    stage = FreshnessStage()
    stage.feed(9, 9)
    read, done = scripted_reads(ReadAt(1, 5), ReadAt(1, 9))
    reading = asyncio.ensure_future(stage.fresh.read(stage.projection, 9, stage.until(), read))
    await turns()
    assert stage.tracker.poll_needed.is_set()
    assert stage.projection.waits_for_store
    stage.poll(6)
    await turns()
    assert not reading.done()
    stage.poll(9)

    assert (await reading)[1] == 9
    assert len(done) == 2, "polls are shared, and show when it is worth to read again"
    assert not stage.projection.waits_for_store


async def test_many_reads_share_the_polls_of_a_store_that_lags() -> None:
    stage = FreshnessStage(shows_commits=False)
    stage.poll(5)
    stage.feed(9, 9)
    read, done = scripted_reads(*[ReadAt(1, 5)] * 50, ReadAt(1, 9))
    readings = [asyncio.ensure_future(stage.fresh.read(stage.projection, 9, stage.until(), read)) for _ in range(50)]
    await turns()
    assert len(done) == 50
    stage.poll(8)
    await turns()
    assert len(done) == 50
    stage.poll(9)
    assert {position for _, position in await asyncio.gather(*readings)} == {9}
    assert len(done) == 100


async def test_a_read_of_a_store_that_lags_is_refused_in_time() -> None:
    stage = FreshnessStage(shows_commits=False)
    stage.poll(5)
    stage.feed(9, 9)
    read, _ = scripted_reads(ReadAt(1, 5))
    with pytest.raises(ReadModelBehind):
        await stage.fresh.read(stage.projection, 9, stage.until(0.02), read)
    assert not stage.projection.waits_for_store


async def test_a_poll_wakes_a_read_when_a_frame_was_lost() -> None:
    stage = FreshnessStage()
    stage.feed(4, 4)  # And never again, though the feed lives.
    read, _ = scripted_reads(ReadAt(1, 8))
    wait = asyncio.ensure_future(stage.fresh.read(stage.projection, 8, stage.until(), read))
    await turns()
    assert not wait.done()

    stage.poll(8)
    await turns()

    assert wait.done()
    assert (await wait)[1] == 8


async def test_a_waiting_read_requests_polls_when_the_feed_is_lost() -> None:
    stage = FreshnessStage()
    stage.feed(4, 4)
    read, done = scripted_reads(ReadAt(1, 4), ReadAt(1, 8))
    stage.tracker.on_feed_lost()
    assert not stage.tracker.poll_needed.is_set()

    wait = asyncio.ensure_future(stage.fresh.read(stage.projection, 8, stage.until(), read))
    await turns()
    assert stage.tracker.poll_needed.is_set()
    assert done == [ReadAt(1, 4)]  # Without a feed the store is looked at first.

    stage.poll(8)
    assert (await wait)[1] == 8


async def test_a_stall_refuses_reads_beyond_it_at_once() -> None:
    stage = FreshnessStage()
    stage.feed(4, 4)
    tracked = stage.projection
    read, _ = scripted_reads(ReadAt(1, 4))
    wait = asyncio.ensure_future(stage.fresh.read(tracked, 8, stage.until(), read))
    await turns()

    stage.feed(4, 4, state=STALLED, reason="FOLD_FAILED: it broke.")

    with pytest.raises(ReadModelStalled) as refused:
        await wait
    assert refused.value.stall_reason == "FOLD_FAILED: it broke."
    assert (await stage.fresh.read(tracked, 4, stage.until(), read))[1] == 4


async def test_a_pause_refuses_reads_beyond_it_until_it_is_resumed() -> None:
    stage = FreshnessStage()
    stage.feed(4, 4)
    tracked = stage.projection
    read, _ = scripted_reads(ReadAt(1, 4), ReadAt(1, 4), ReadAt(1, 8))
    wait = asyncio.ensure_future(stage.fresh.read(tracked, 8, stage.until(), read))
    await turns()

    stage.feed(4, 4, state=PAUSED)

    paused = ReadModelPaused(projection="p", applied_position=4, wanted_position=8)
    for refused in (wait, stage.fresh.read(tracked, 8, stage.until(), read)):
        with pytest.raises(ReadModelPaused) as told:
            await refused
        assert told.value == paused
    assert (await stage.fresh.read(tracked, 4, stage.until(), read))[1] == 4
    assert not tracked.serving(stage.tracker.now)

    stage.feed(4, 4)
    wait = asyncio.ensure_future(stage.fresh.read(tracked, 8, stage.until(), read))
    await turns()
    assert not wait.done()
    stage.feed(8, 8)
    await turns()
    assert not wait.done(), "the store does not show it yet"
    stage.poll(8)
    assert (await wait)[1] == 8


async def test_a_stall_after_a_resumed_pause_refuses_reads_that_wait_again() -> None:
    stage = FreshnessStage()
    for state, refusal in ((PAUSED, ReadModelPaused), (STALLED, ReadModelStalled)):
        stage.feed(4, 4)
        read, _ = scripted_reads(ReadAt(1, 4))
        wait = asyncio.ensure_future(stage.fresh.read(stage.projection, 8, stage.until(), read))
        await turns()
        stage.feed(4, 4, state=state)
        with pytest.raises(refusal):
            await wait


async def test_a_read_is_refused_when_the_position_is_not_applied_in_time() -> None:
    stage = FreshnessStage()
    stage.tracker.on_head(12, None)
    stage.feed(4, 4)
    read, _ = scripted_reads(ReadAt(1, 4))

    with pytest.raises(ReadModelBehind) as refused:
        await stage.fresh.read(stage.projection, 8, stage.until(0.02), read)

    assert refused.value == ReadModelBehind(projection="p", applied_position=4, wanted_position=8, lag_events=8)
    assert stage.projection.applied_waits.heap == []


async def test_waiting_reads_are_bounded_and_cancelled_ones_leave_nothing() -> None:
    stage = FreshnessStage(waits_max=10)
    stage.feed(4, 4)
    tracked = stage.projection
    read, _ = scripted_reads(ReadAt(1, 4))

    def wait(required: int) -> asyncio.Task[Any]:
        return asyncio.create_task(stage.fresh.read(tracked, required, stage.until(), read))

    held = [wait(8) for _ in range(9)]
    await turns()
    for number in range(2000):
        cancelled = wait(1000 - number)
        await turns(2)
        cancelled.cancel()
        await turns(2)
    assert stage.tracker.waits.count == 9
    assert len(tracked.applied_waits.heap) <= 2 * 9 + 65

    held.append(wait(8))
    await turns()
    with pytest.raises(Overloaded):
        await stage.fresh.read(tracked, 8, stage.until(), read)
    stage.tracker.close()
    for refused in await asyncio.gather(*held, return_exceptions=True):
        assert isinstance(refused, ReadModelBehind)


async def test_an_absent_projection_is_refused_as_rebuilding_when_it_is_filling() -> None:
    stage = FreshnessStage()
    assert isinstance(absent(stage.tracker, stage.projection), ReadModelNotReady)
    stage.feed(9, 9, generation=2, version=2, state=REBUILDING, filling_up=True)
    assert isinstance(absent(stage.tracker, stage.projection), ReadModelRebuilding)
