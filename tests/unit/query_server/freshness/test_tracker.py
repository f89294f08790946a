"""Tracker: frames, polls and head reports of feed, store and command server, and the state they make."""

from __future__ import annotations

import asyncio

import pytest

from diptych.contract.identity_codec import identity_to_message
from diptych.contract.projection_state import PAUSED, REBUILDING, RUNNING, UNKNOWN
from diptych.contract.reasons import ReadModelPaused, ReadModelRebuilding
from diptych.contract.token import Epoch, LogIdentity
from query_server.freshness.fresh_read import hopeless
from tests.support.clock import Clock
from tests.support.freshness import LOG, FreshnessStage, ReadAt, scripted_reads, turns


async def test_progress_keeps_the_greater_position_when_a_projector_restarts() -> None:
    stage = FreshnessStage()
    tracked = stage.projection
    stage.feed(50, 20)
    stage.feed(30, 30)

    assert tracked.progress.includes(1, 30) == 50
    assert tracked.progress.applied == 50


async def test_progress_of_one_generation_proves_nothing_about_another() -> None:
    stage = FreshnessStage()
    tracked = stage.projection

    stage.feed(50, 20)
    stage.feed(10, 10, generation=2)
    assert (tracked.progress.includes(1, 30), tracked.progress.includes(2, 10)) == (30, 10)

    stage.feed(50, 20)
    stage.poll(30, version=2)  # Another filling by other folds, under the same number.
    assert tracked.progress.includes(1, 30) == 30

    stage.feed(50, 20)
    stage.tracker.on_store_replaced()
    assert (tracked.progress.includes(1, 30), tracked.progress.applied, tracked.progress.is_stored) == (30, 0, False)

    stage.feed(50, 20)
    stage.tracker.on_head(40, LogIdentity(LOG.log_id, (Epoch(1, 1), Epoch(2, 25))))
    assert tracked.progress.includes(1, 30) == 30


async def test_feed_is_not_live_while_silent() -> None:
    clock = Clock()
    stage = FreshnessStage(clock=clock)
    stage.feed(4, 4)

    def now() -> tuple[bool, bool]:
        return stage.tracker.is_feed_live, stage.projection.serving(clock.now)

    assert now() == (True, True)
    clock.now += 1.5
    assert now() == (False, True)
    clock.now += 2
    assert now() == (False, False)
    stage.heartbeat()
    assert now() == (True, True)


async def test_state_is_paused_by_the_store_when_there_is_no_feed() -> None:
    clock = Clock()
    stage = FreshnessStage(clock=clock)
    tracked = stage.projection
    stage.poll(4)
    assert tracked.state(clock()) == UNKNOWN
    read, _ = scripted_reads(ReadAt(1, 4))
    wait = asyncio.ensure_future(stage.fresh.read(tracked, 8, stage.until(), read))
    await turns()

    stage.poll(4, paused=True)

    assert tracked.state(clock()) == PAUSED
    with pytest.raises(ReadModelPaused):
        await wait
    stage.poll(4)
    assert tracked.state(clock()) == UNKNOWN
    stage.poll(4, paused=True)
    stage.tracker.on_store_replaced()
    assert tracked.state(clock()) == UNKNOWN


async def test_state_of_a_live_feed_overrules_the_store() -> None:
    clock = Clock()
    stage = FreshnessStage(clock=clock)
    tracked = stage.projection
    stage.poll(4, paused=True)
    stage.feed(4, 4)
    assert tracked.state(clock()) == RUNNING
    clock.now += 1.5
    assert tracked.state(clock()) == PAUSED, "a silent feed is none"
    stage.heartbeat()
    assert tracked.state(clock()) == RUNNING
    stage.tracker.on_feed_lost()
    assert tracked.state(clock()) == PAUSED

    stage.feed(4, 4, state=PAUSED)
    stage.poll(4)
    assert tracked.state(clock()) == PAUSED
    stage.tracker.on_feed_lost()
    assert tracked.state(clock()) == UNKNOWN, "it was resumed, and nobody says what it does"


async def test_a_filling_generation_does_not_move_the_active_one() -> None:
    """A newer version is filled beside what answers here, which stays where it is until the switch."""
    stage = FreshnessStage()
    tracked = stage.projection
    stage.poll(90)
    waiting = asyncio.create_task(stage.tracker.wait_applied((tracked,), 100, stage.until()))
    await turns()
    stage.feed(120, 110, generation=2, version=2, state=REBUILDING, filling_up=True)
    await waiting
    assert tracked.progress.applied == 90
    assert tracked.state(stage.tracker.now) == REBUILDING
    assert tracked.progress.includes(2, 110) == 110
    assert hopeless(stage.tracker, tracked, 90) is None
    assert hopeless(stage.tracker, tracked, 100) == ReadModelRebuilding(
        projection="p", applied_position=90, wanted_position=100
    )
    stage.feed(121, 110, generation=2, version=2)
    assert (tracked.progress.applied, tracked.progress.includes(2, 110)) == (121, 121)
    stage.poll(95)  # A look that began before the switch.
    assert (tracked.progress.applied, tracked.progress.includes(2, 110)) == (121, 121)


async def test_waiting_is_not_hopeless_when_a_rebuild_runs_beside_the_active_generation() -> None:
    stage = FreshnessStage()
    stage.feed(90, 90, state=REBUILDING)
    assert stage.projection.serving(stage.tracker.now)
    assert hopeless(stage.tracker, stage.projection, 100) is None


async def test_frames_about_another_shape_do_not_move_the_position() -> None:
    stage = FreshnessStage()
    stage.poll(90)
    stage.feed(120, 120, generation=2, version=2, shape="another")
    tracked = stage.projection
    assert (tracked.progress.applied, tracked.state(stage.tracker.now)) == (90, REBUILDING)
    assert isinstance(hopeless(stage.tracker, tracked, 100), ReadModelRebuilding)


async def test_frames_of_an_older_version_prove_nothing_about_the_newer_one() -> None:
    """Both have the same shape, and the feed is still that of the older one's projector."""
    stage = FreshnessStage()
    tracked = stage.projection
    stage.feed(100, 80)
    stage.poll(90)
    stage.poll(98, generation=2, version=2)
    assert tracked.progress.includes(2, 98) == 98
    stage.feed(130, 80)
    assert tracked.progress.includes(2, 98) == 98
    assert tracked.progress.applied == 100, "the applied position stays; reads reach it within a moment"
    read, _ = scripted_reads(ReadAt(2, 98), ReadAt(2, 103))
    reading = asyncio.ensure_future(stage.fresh.read(tracked, 100, stage.until(), read))
    await turns()
    assert not reading.done()
    stage.poll(103, generation=2, version=2)
    assert await reading == (ReadAt(2, 103), 103)


async def test_a_generation_of_a_later_epoch_starts_at_its_own_position() -> None:
    """The active generation has events that a restore lost; a rebuild replaces it at a lower position."""
    later = LogIdentity(LOG.log_id, (Epoch(1, 1), Epoch(2, 51)))
    stage = FreshnessStage()
    tracked = stage.projection
    stage.feed(90, 90, identity=identity_to_message(LOG))
    stage.poll(90)
    stage.tracker.on_head(60, later)
    assert tracked.progress.applied == 50
    stage.feed(60, 60, generation=2, identity=identity_to_message(later))
    assert tracked.progress.applied == 60
    stage.poll(90)  # A look that began before the switch.
    assert tracked.progress.applied == 60
