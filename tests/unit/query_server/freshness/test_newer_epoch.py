"""Tokens of an epoch that the query server does not know yet: after a restore, before it has learnt of it."""

from __future__ import annotations

import asyncio

import pytest

from diptych.contract.identity_codec import identity_to_columns, identity_to_message
from diptych.contract.projection_state import PAUSED, STALLED
from diptych.contract.reasons import (
    ReadModelBehind,
    ReadModelPaused,
    ReadModelStalled,
    TokenAheadOfLog,
    TokenOfOlderEpoch,
)
from diptych.contract.token import Epoch, LogIdentity
from diptych.v1.read_model_pb2 import WaitOutcome
from query_server.freshness.log_head import HeadReport
from query_server.freshness.version_wait import VersionWaits
from query_server.queries.consistency import Requirement
from query_server.rows.row_source import StoredGeneration
from query_server.watch.change_reader import Page
from query_server.watch.resume_token import ResumeToken, Source
from tests.support.freshness import LOG, FreshnessStage, ReadAt, scripted_reads, turns

RESTORED = LogIdentity(LOG.log_id, (*LOG.epochs, Epoch(2, 81)))
"""The log after a restore that lost the events from 81 on."""
TOKEN = RESTORED.token(85)


def stage_before_the_restore() -> FreshnessStage:
    """Return a stage that knows head and rows up to 100, of the epoch before."""
    stage = FreshnessStage()
    stage.tracker.on_head(100, LOG)
    stage.feed(100, 100, identity=identity_to_message(LOG))
    stage.poll(100)
    return stage


async def test_bug_rows_of_the_lost_epoch_proved_a_token_of_the_new_one() -> None:
    stage = stage_before_the_restore()
    assert stage.tokens.position_at_once([LOG.token(85)], stage.projection) == 85
    assert stage.tokens.position_at_once([TOKEN], stage.projection) is None
    with pytest.raises(ReadModelBehind) as refused:
        await stage.tokens.position_of([TOKEN], stage.projections, stage.until(0.05))
    assert (refused.value.applied_position, refused.value.wanted_position) == (84, 85)
    assert stage.head.requests > 0


async def test_a_token_of_a_newer_epoch_is_judged_by_the_log_that_was_requested() -> None:
    stage = stage_before_the_restore()
    stage.head.head = HeadReport(RESTORED, 85)
    assert await stage.tokens.position_of([TOKEN], stage.projections, stage.until()) == (85, TOKEN)
    assert stage.projection.progress.includes(1, 100) == 80
    assert stage.head.requests == 1


async def test_a_token_of_an_epoch_that_the_log_does_not_have_is_ahead_of_it() -> None:
    stage = stage_before_the_restore()
    stage.head.head = HeadReport(LOG, 100)
    with pytest.raises(TokenAheadOfLog):
        await stage.tokens.position_of([TOKEN], stage.projections, stage.until())
    assert stage.tracker.head.identity == LOG, "a token alone changes nothing for other callers"


async def test_a_newer_epoch_is_learnt_from_the_feed_while_the_command_server_is_away() -> None:
    stage = stage_before_the_restore()
    judging = asyncio.create_task(stage.tokens.position_of([TOKEN], stage.projections, stage.until()))
    await turns()
    assert not judging.done()
    stage.feed(85, 85, generation=2, identity=identity_to_message(RESTORED))
    await asyncio.wait((judging,), timeout=5)
    assert judging.result() == (85, TOKEN)
    assert stage.projection.progress.includes(2, 85) == 85
    assert stage.projection.progress.includes(1, 100) == 80

    assert not stage.tracker.on_head(100, LOG), "a stream from before the restore"
    assert stage.tracker.head.identity == RESTORED
    assert stage.tracker.head.position is None
    assert stage.projection.progress.includes(1, 100) == 80


async def test_a_newer_epoch_is_learnt_from_the_store() -> None:
    stage = stage_before_the_restore()
    stage.tracker.on_store_poll([StoredGeneration("p", 2, 1, 85, RESTORED, False)])
    assert stage.tracker.head.identity == RESTORED
    assert stage.tokens.position_at_once([TOKEN], stage.projection) == 85
    assert stage.projection.progress.includes(2, 85) == 85


@pytest.mark.parametrize(("state", "refusal"), [(PAUSED, ReadModelPaused), (STALLED, ReadModelStalled)])
async def test_a_stopped_projection_refuses_a_token_of_an_unknown_epoch_at_once(state: int, refusal: type) -> None:
    stage = stage_before_the_restore()
    stage.feed(100, 100, identity=identity_to_message(LOG), state=state)
    with pytest.raises(refusal):
        await stage.tokens.position_of([TOKEN], stage.projections, stage.until())


async def test_bug_a_read_that_waited_was_proved_by_rows_of_another_epoch() -> None:
    """The read waits for position 110 of the epoch before, which the restored log has with another event."""
    stage = stage_before_the_restore()
    token = LOG.token(110)
    stage.tracker.on_head(110, LOG)
    read, done = scripted_reads(ReadAt(2, 110))

    async def judge() -> int:
        return (await stage.tokens.position_of([token], stage.projections, stage.until()))[0]

    reading = asyncio.create_task(stage.fresh.read(stage.projection, await judge(), stage.until(), read, judge=judge))
    waits = VersionWaits(stage.tracker, stage.fresh)
    waiting = asyncio.create_task(waits.wait(stage.projections, 110, stage.until(), judge))
    await turns()
    assert not reading.done()
    assert not waiting.done()
    stage.feed(110, 110, generation=2, identity=identity_to_message(RESTORED))
    stage.tracker.on_store_poll([StoredGeneration("p", 2, 1, 110, RESTORED, False)])
    for call in (reading, waiting):
        with pytest.raises(TokenOfOlderEpoch):
            await asyncio.wait_for(call, 5)
    assert not done


async def test_bug_a_log_that_changed_during_a_read_left_the_read_proved() -> None:
    stage = stage_before_the_restore()
    gate = asyncio.Event()

    async def read() -> ReadAt:
        await gate.wait()
        return ReadAt(2, 90)

    async def judge() -> int:
        return (await stage.tokens.position_of([LOG.token(90)], stage.projections, stage.until()))[0]

    reading = asyncio.create_task(stage.fresh.read(stage.projection, 90, stage.until(), read, judge=judge))
    await turns()
    stage.feed(90, 90, generation=2, identity=identity_to_message(RESTORED))
    gate.set()
    with pytest.raises(TokenOfOlderEpoch):
        await asyncio.wait_for(reading, 5)


def test_a_wait_reports_an_unproved_token_as_its_outcome() -> None:
    stage = stage_before_the_restore()
    waits = VersionWaits(stage.tracker, stage.fresh)
    late = ReadModelBehind(projection="p", applied_position=84, wanted_position=85, lag_events=1)
    assert waits.unproved(late) == (WaitOutcome.WAIT_OUTCOME_TIMED_OUT, stage.projection, 84)
    paused = ReadModelPaused(projection="p", applied_position=84, wanted_position=85)
    assert waits.unproved(paused) == (WaitOutcome.WAIT_OUTCOME_PAUSED, stage.projection, 84)


def test_bug_a_watch_resumed_on_rows_of_an_earlier_epoch() -> None:
    """Rows of before the restore, such as those of a replica that lags, do not continue a cut of after it."""
    source = Source(1, 1, "00" * 8)
    before = Page(source, 100, 0, identity_to_columns(LOG))
    after = Page(source, 90, 0, identity_to_columns(RESTORED))
    assert not before.continues(ResumeToken(source, 2, 85))
    assert not after.continues(ResumeToken(source, 1, 81))
    assert after.continues(ResumeToken(source, 1, 80))
    assert after.continues(ResumeToken(source, 2, 85))


def test_tokens_in_a_requirement_are_judged_by_the_latest() -> None:
    stage = stage_before_the_restore()
    requirement = Requirement((LOG.token(3), TOKEN), None)
    assert stage.tokens.position_at_once(requirement.tokens, stage.projection) is None
