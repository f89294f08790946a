"""Version waits: outcomes on a store that shows less than the feed reports."""

from __future__ import annotations

import asyncio

from diptych.v1.read_model_pb2 import WaitOutcome
from query_server.freshness.version_wait import VersionWaits
from tests.support.freshness import FreshnessStage, turns

REACHED = WaitOutcome.WAIT_OUTCOME_REACHED
TIMED_OUT = WaitOutcome.WAIT_OUTCOME_TIMED_OUT


async def test_a_position_is_reached_when_the_store_shows_it() -> None:
    """A replica: after REACHED a plain read of this server includes the position."""
    stage = FreshnessStage(shows_commits=False)
    stage.poll(5)
    stage.feed(9, 9)
    waits = VersionWaits(stage.tracker, stage.fresh)
    waiting = asyncio.ensure_future(waits.wait(stage.projections, 8, stage.until()))
    await turns()
    assert not waiting.done()
    assert stage.tracker.poll_needed.is_set()
    stage.poll(7)
    await turns()
    assert not waiting.done()
    stage.poll(8)
    outcome, _, position = await waiting
    assert (outcome, position) == (REACHED, 8)
    assert stage.projection.progress.plain_required == 8


async def test_a_position_is_reached_without_a_poll_when_nothing_changed_after_what_the_store_showed() -> None:
    stage = FreshnessStage(shows_commits=False)
    stage.poll(5)
    stage.feed(9, 4)
    result = await VersionWaits(stage.tracker, stage.fresh).wait(stage.projections, 8, stage.until())
    assert (result.outcome, result.position) == (REACHED, 9)
    assert not stage.tracker.poll_needed.is_set()


async def test_a_position_is_reached_by_the_feed_when_the_store_shows_every_commit() -> None:
    stage = FreshnessStage()
    stage.poll(5)
    stage.feed(9, 9)
    result = await VersionWaits(stage.tracker, stage.fresh).wait(stage.projections, 8, stage.until())
    assert (result.outcome, result.position) == (REACHED, 9)
    assert not stage.tracker.poll_needed.is_set()


async def test_a_wait_times_out_when_the_store_does_not_show_the_position() -> None:
    stage = FreshnessStage(shows_commits=False)
    stage.poll(5)
    stage.feed(9, 9)
    result = await VersionWaits(stage.tracker, stage.fresh).wait(stage.projections, 8, stage.until(0.02))
    assert (result.outcome, result.position) == (TIMED_OUT, 7)
