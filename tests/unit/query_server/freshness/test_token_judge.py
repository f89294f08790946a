"""Token judge: positions of tokens and of staleness, and requests for the head."""

from __future__ import annotations

import asyncio

import pytest

from diptych.contract.projection_state import PAUSED, STALLED
from diptych.contract.reasons import (
    ReadModelBehind,
    ReadModelNotReady,
    ReadModelPaused,
    ReadModelStalled,
    TokenAheadOfLog,
    TokenOfAnotherLog,
    TokenOfOlderEpoch,
)
from diptych.contract.token import Epoch, LogIdentity
from diptych.v1.projections_pb2 import ProjectionState
from query_server.freshness.log_head import HeadReport
from tests.support.clock import Clock
from tests.support.freshness import LOG, FreshnessStage, ScriptedHead, turns


@pytest.mark.parametrize(("state", "refusal"), [(PAUSED, ReadModelPaused), (STALLED, ReadModelStalled)])
async def test_staleness_is_hopeless_when_a_projection_stopped_behind_the_head(
    state: ProjectionState, refusal: type[Exception]
) -> None:
    clock = Clock()
    stage = FreshnessStage(clock=clock)
    tracked = stage.projection
    stage.tracker.on_head(4, None)
    stage.feed(4, 4, state=state)
    clock.now += 5
    stage.head.head = HeadReport(LOG, 4)
    assert await stage.tokens.position_within(tracked, 1, stage.until()) == 4, "there is nothing newer"
    stage.tracker.on_head(9, None)
    clock.now += 2
    stage.feed(4, 4, state=state)
    assert await stage.tokens.position_within(tracked, 6, stage.until()) == 4, "it was the head 2 s ago"
    asked = stage.head.requests
    with pytest.raises(refusal) as told:
        await stage.tokens.position_within(tracked, 1, stage.until())
    assert (told.value.applied_position, told.value.wanted_position) == (4, 9)  # type: ignore[attr-defined]
    assert stage.head.requests == asked, "nobody need be asked"


async def test_a_pause_ends_the_wait_for_an_unreported_head() -> None:
    clock = Clock()
    stage = FreshnessStage(clock=clock)
    tracked = stage.projection
    stage.tracker.on_head(9, None)
    clock.now += 5
    stage.feed(4, 4)
    wait = asyncio.ensure_future(stage.tokens.position_within(tracked, 1, stage.until()))
    await turns()
    assert not wait.done()
    stage.feed(4, 4, state=PAUSED)
    with pytest.raises(ReadModelPaused):
        await wait


async def test_tokens_are_judged_by_log_and_epoch() -> None:
    stage = FreshnessStage()
    stage.tracker.on_head(9, None)
    tracked = stage.projection
    foreign = LogIdentity(bytes(8), LOG.epochs)

    assert await stage.tokens.position_of([LOG.token(3), LOG.token(7)], [tracked], 0) == (7, LOG.token(7))
    with pytest.raises(TokenOfAnotherLog):
        await stage.tokens.position_of([LOG.token(3), foreign.token(1)], [tracked], 0)

    stage.tracker.on_head(9, LogIdentity(LOG.log_id, (Epoch(1, 1), Epoch(2, 5))))
    assert (await stage.tokens.position_of([LOG.token(4)], [tracked], 0))[0] == 4
    with pytest.raises(TokenOfOlderEpoch):
        await stage.tokens.position_of([LOG.token(5)], [tracked], 0)


async def test_bug_a_token_was_refused_when_the_first_request_for_the_head_failed() -> None:
    class Starting(ScriptedHead):
        """A command server that is reached at the third attempt."""

        async def request_head(self) -> HeadReport | None:
            self.head = HeadReport(LOG, 5) if self.requests == 2 else None
            return await super().request_head()

    starting = Starting()
    stage = FreshnessStage(head=starting, log=None, waits_max=1)
    found = await stage.tokens.position_of([LOG.token(1)], stage.projections, stage.until())
    assert found[0] == 1
    assert starting.requests == 3


async def test_a_token_is_refused_while_no_log_is_known() -> None:
    stage = FreshnessStage(log=None, waits_max=1)

    with pytest.raises(ReadModelNotReady):
        await stage.tokens.position_of([LOG.token(1)], stage.projections, stage.until(0.01))

    stage.head.head = HeadReport(LOG, 5)
    found = await stage.tokens.position_of([LOG.token(1)], stage.projections, stage.until())
    assert found[0] == 1


async def test_calls_with_tokens_ahead_share_requests_for_the_head() -> None:
    stage = FreshnessStage()
    stage.head.head, stage.head.gate = HeadReport(LOG, 5), asyncio.Event()
    projections = stage.projections
    asking = [
        asyncio.ensure_future(stage.tokens.position_of([LOG.token(position)], projections, stage.until()))
        for position in [5] * 50 + [6] * 20
    ]
    await asyncio.wait(asking, timeout=0.2)
    stage.head.gate.set()
    found = await asyncio.gather(*asking, return_exceptions=True)

    assert found[:50] == [(5, LOG.token(5))] * 50
    assert set(found[50:]) == {TokenAheadOfLog(position=6, head_position=5)}
    assert stage.head.requests == 2  # Those who came while the first call was under way share the second.


async def test_a_token_is_not_refused_by_an_answer_that_began_before_it() -> None:
    """A call for the head is under way when an event is recorded whose token then comes in."""
    stage = FreshnessStage()
    projections = stage.projections
    stage.head.head, stage.head.gate = HeadReport(LOG, 5), asyncio.Event()
    first = asyncio.create_task(stage.tokens._request_head(stage.until()))
    await turns()
    stage.head.head = HeadReport(LOG, 6)
    second = asyncio.create_task(stage.tokens.position_of([LOG.token(6)], projections, stage.until()))
    await asyncio.wait((second,), timeout=0.1)
    stage.head.gate.set()

    assert await first
    assert (await second)[0] == 6
    assert stage.head.requests == 2


async def test_the_head_is_not_requested_when_it_is_reported_in_time() -> None:
    stage = FreshnessStage()
    found = asyncio.create_task(stage.tokens.position_of([LOG.token(6)], stage.projections, stage.until()))
    await turns()
    stage.tracker.on_head(6, None)

    assert (await found)[0] == 6
    assert stage.head.requests == 0


async def test_staleness_is_turned_into_a_position() -> None:
    clock = Clock()
    stage = FreshnessStage(clock=clock)
    tracked = stage.projection
    for position in range(1, 11):
        clock.now += 1
        stage.tracker.on_head(position, None, clock.now)

    assert await stage.tokens.position_within(tracked, 3.0, stage.until()) == 7
    assert await stage.tokens.position_within(tracked, 0.0, stage.until()) == 10
    assert stage.head.requests == 0
    clock.now += 1
    stage.head.head = HeadReport(LOG, 12)
    assert await stage.tokens.position_within(tracked, 0.5, stage.until()) == 12
    assert stage.head.requests == 1


async def test_staleness_is_refused_in_time_when_the_head_is_unreachable() -> None:
    stage = FreshnessStage()

    with pytest.raises(ReadModelBehind):
        await stage.tokens.position_within(stage.projection, 0.0, stage.until(0.05))


async def test_bug_max_staleness_believed_a_frame_that_was_under_way_for_long() -> None:
    """The link stalls. The frame that arrives first was sent before the call began."""
    clock = Clock()
    stage = FreshnessStage(clock=clock)
    stage.head.gate = asyncio.Event()
    asking = asyncio.create_task(stage.tokens.position_within(stage.projection, 0.5, stage.until()))
    await turns()
    clock.now += 1
    stage.tracker.on_head(1, None)
    await turns()
    assert not asking.done(), "nothing proves the head of now"

    stage.head.head = HeadReport(LOG, 2)
    stage.head.gate.set()
    await asyncio.wait((asking,), timeout=5)
    assert asking.result() == 2


async def test_a_request_for_the_head_bounds_the_staleness_of_later_calls() -> None:
    clock = Clock()
    stage = FreshnessStage(clock=clock)
    stage.head.head = HeadReport(LOG, 3)
    for _ in range(5):
        assert await stage.tokens.position_within(stage.projection, 5, stage.until()) == 3
        clock.now += 0.9
    assert stage.head.requests == 1
