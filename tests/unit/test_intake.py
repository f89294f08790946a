"""The intake: what is read ahead of folding, and how it is cut into batches."""

from __future__ import annotations

import asyncio

from diptych.internal.v1.log_pb2 import FollowResponse
from projector.generation.event_batches import Batch, Intake
from projector.generation.throttle import LivePace, Share

NOBODY_ELSE = Share(lambda: 0.0, lambda: False, lambda: False)


class Frames:
    """A stream that brings these frames and then nothing, and tells how many were read."""

    def __init__(self, frames: list[FollowResponse]) -> None:
        self._frames = frames
        self.read_count = 0

    async def read(self) -> object:
        if self.read_count == len(self._frames):
            await asyncio.Event().wait()
        self.read_count += 1
        return self._frames[self.read_count - 1]


def frame(position: int, kib: int = 0) -> FollowResponse:
    """A frame with one event."""
    response = FollowResponse(position=position, event_id=f"e-{position}", head_position=position)
    event = response.events.add(position=position, event_id=f"e-{position}")
    event.event.value = b"x" * (kib << 10)
    return response


async def test_bug_a_batch_took_only_four_of_the_frames_that_had_come() -> None:
    # At the head a frame holds one event. While another projection's commit takes its time, many come; a projection
    # that took four at a time never caught up with what went on.
    stream = Frames([frame(position) for position in range(1, 301)])
    intake = Intake(stream, LivePace(NOBODY_ELSE, 1000))
    batches: list[Batch] = []
    while not batches or batches[-1].position < 300:
        batch = await intake.next(5)
        assert batch is not None
        batches.append(batch)
        for _ in range(400):  # As long as a commit takes, all that is there is read.
            await asyncio.sleep(0)
    assert len(batches) <= 2
    assert [event.position for batch in batches for event in batch.events] == list(range(1, 301))
    assert (batches[-1].position, batches[-1].through) == (300, (300, "e-300"))
    await intake.close()


async def test_no_more_than_a_few_mib_are_read_ahead() -> None:
    stream = Frames([frame(position, kib=512) for position in range(1, 101)])
    intake = Intake(stream, LivePace(NOBODY_ELSE, 1))
    before = -1
    while stream.read_count != before:
        before = stream.read_count
        for _ in range(10):
            await asyncio.sleep(0)
    assert stream.read_count <= 10
    for position in range(1, 101):  # All of them come, as there is room again.
        batch = await intake.next(5)
        assert batch is not None
        assert [event.position for event in batch.events] == [position]
    await intake.close()
