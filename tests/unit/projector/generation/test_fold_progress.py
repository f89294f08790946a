"""FoldProgress: positions that never fall, and the wait for another follower."""

from __future__ import annotations

import asyncio

from diptych.storage.read_store_schema import Checkpoint
from projector.generation.fold_progress import FoldProgress
from projector.log_head import LogHead


def test_positions_never_fall() -> None:
    progress = FoldProgress(Checkpoint(5, "e-5"), LogHead())
    progress.advance(9, Checkpoint(8, "e-8"))
    progress.advance(7, Checkpoint(7, "e-7"))
    assert (progress.applied_position, progress.checkpoint) == (9, (8, "e-8"))


def test_lag_is_measured_from_the_first_report_of_the_head() -> None:
    head = LogHead()
    progress = FoldProgress(Checkpoint(5, "e-5"), head)
    unmeasured = progress.measured_lag
    head.observe(8)
    progress.observe_head()
    assert unmeasured is None
    assert progress.lag_events == 3
    assert (progress.measured_lag or 0.0) > 0.0
    progress.advance(8, Checkpoint(8, "e-8"))
    assert (progress.lag_events, progress.measured_lag, progress.lag_seconds) == (0, 0.0, 0.0)


async def test_wait_for_ends_when_position_and_checkpoint_are_reached() -> None:
    head = LogHead()
    live, new = FoldProgress(Checkpoint(0, ""), head), FoldProgress(Checkpoint(0, ""), head)
    live.advance(10, Checkpoint(9, "e-9"))
    waiting = asyncio.create_task(new.wait_for(live))
    new.advance(10, Checkpoint(5, "e-5"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done(), "the checkpoint is not reached"
    new.advance(10, Checkpoint(9, "e-9"))
    async with asyncio.timeout(10):
        await waiting
