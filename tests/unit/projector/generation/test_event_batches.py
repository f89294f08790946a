"""EventBatches: the events that are read ahead of folding, and the batches they are cut into."""

from __future__ import annotations

import asyncio

from diptych.internal.v1.log_pb2 import FollowResponse
from projector.generation.event_batches import Batch, EventBatches
from projector.generation.throttle import FoldingLoad, LiveThrottle

IDLE = FoldingLoad(lambda: 0.0, lambda: False, lambda: False)


class Frames:
    """Stream that yields these frames, then none, and counts its reads."""

    def __init__(self, frames: list[FollowResponse]) -> None:
        self._frames = frames
        self.read_count = 0

    async def read(self) -> object:
        if self.read_count == len(self._frames):
            await asyncio.Event().wait()
        self.read_count += 1
        return self._frames[self.read_count - 1]


def frame(position: int, kib: int = 0) -> FollowResponse:
    """Return a frame with one event."""
    response = FollowResponse(position=position, event_id=f"e-{position}", head_position=position)
    event = response.events.add(position=position, event_id=f"e-{position}")
    event.event.value = b"x" * (kib << 10)
    return response


async def test_bug_a_batch_took_only_four_of_the_frames_that_had_arrived() -> None:
    # At the head a frame holds one event. Many arrive while another projection commits; a projection that took four
    # at a time never caught up.
    stream = Frames([frame(position) for position in range(1, 301)])
    batches = EventBatches(stream, LiveThrottle(IDLE, 1000))
    taken: list[Batch] = []
    while not taken or taken[-1].position < 300:
        batch = await batches.next(5)
        assert batch is not None
        taken.append(batch)
        for _ in range(400):  # The frames that are there are read during a commit.
            await asyncio.sleep(0)
    assert len(taken) <= 2
    assert [event.position for batch in taken for event in batch.events] == list(range(1, 301))
    assert (taken[-1].position, taken[-1].checkpoint) == (300, (300, "e-300"))
    await batches.close()


async def test_batches_read_only_a_few_mib_ahead() -> None:
    stream = Frames([frame(position, kib=512) for position in range(1, 101)])
    batches = EventBatches(stream, LiveThrottle(IDLE, 1))
    before = -1
    while stream.read_count != before:
        before = stream.read_count
        for _ in range(10):
            await asyncio.sleep(0)
    assert stream.read_count <= 10
    for position in range(1, 101):  # Each taken batch makes room, so that all arrive.
        batch = await batches.next(5)
        assert batch is not None
        assert [event.position for event in batch.events] == [position]
    await batches.close()
