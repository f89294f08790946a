"""Event batches: frames of the log, read ahead of folding and cut into batches of the events that have arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from diptych.internal.v1.log_pb2 import FollowResponse
from diptych.storage.read_store_schema import Checkpoint
from diptych.v1.events_pb2 import RecordedEvent
from projector.generation.throttle import Throttle

_AHEAD_KIB_MAX = 4096
"""KiB that are read ahead of folding; one more frame may exceed it.

The limit is not a number of frames, because a frame at the head holds an event or two. A projection that waited for
another one's commit must take all frames that arrived meanwhile in one batch.
"""


class FollowStream(Protocol):
    """Stream of the log."""

    async def read(self) -> object:
        """Return the next frame; any other object is the end of the stream."""
        ...


class Batch:
    """Consecutive events of a projection, and the stretch of the log that they cover."""

    __slots__ = ("checkpoint", "events", "head_position", "position")

    def __init__(self) -> None:
        self.events: list[RecordedEvent] = []
        self.position = 0
        """Last position covered: every matching event up to it is in this batch or an earlier one."""
        self.checkpoint: Checkpoint | None = None
        """Last covered position whose event id was sent; None if none was."""
        self.head_position = 0
        """Head of the log when the batch was sent."""


class _FrameAhead(NamedTuple):
    """Frame that was read ahead, and its size."""

    frame: FollowResponse
    kib: int


class StreamEndedError(Exception):
    """The log ended the stream without an error."""


class EventBatches:
    """Batches of one stream.

    A task reads frames ahead, 4 MiB at most. `next` takes the frames that have arrived, up to as many events as the
    throttle allows.
    """

    def __init__(self, stream: FollowStream, throttle: Throttle) -> None:
        self._stream = stream
        self._throttle = throttle
        self._events_max = throttle.events_max
        self._frames: asyncio.Queue[_FrameAhead] = asyncio.Queue()
        self._ahead_kib = 0
        self._room = asyncio.Event()
        self._frame: FollowResponse | None = None
        self._events: Sequence[RecordedEvent] = ()
        self._taken = 0
        self._reader = asyncio.ensure_future(self._read())

    async def next(self, timeout_seconds: float) -> Batch | None:
        """Return the next batch; None if no frame arrived in time.

        Cancelling this call loses no frame but one that arrives at the same moment: close the batches then.

        Raises:
            StreamEndedError: The log ended the stream, and every batch before the end was returned.
            CallError: The stream failed, and every batch before that was returned.
        """
        if self._frame is None:
            ahead = await self._wait(timeout_seconds)
            if ahead is None:
                return None
            self._open(ahead)
        batch = Batch()
        self._events_max = self._throttle.events_max
        while self._take(batch) and len(batch.events) < self._events_max and not self._frames.empty():
            self._open(self._frames.get_nowait())
        return batch

    async def close(self) -> None:
        """Stop reading ahead."""
        self._reader.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._reader

    async def _wait(self, timeout_seconds: float) -> _FrameAhead | None:
        if self._frames.empty():
            if self._reader.done():
                self._reader.result()
                raise StreamEndedError("the log ended the stream")
            getting = asyncio.ensure_future(self._frames.get())
            try:
                await asyncio.wait(
                    {getting, self._reader}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if getting.done():
                    return getting.result()
            finally:
                getting.cancel()
            return None
        return self._frames.get_nowait()

    async def _read(self) -> None:
        while True:
            frame = await self._stream.read()
            if not isinstance(frame, FollowResponse):
                return
            while self._ahead_kib >= _AHEAD_KIB_MAX:
                self._room.clear()
                await self._room.wait()
            ahead = _FrameAhead(frame, 1 + (frame.ByteSize() >> 10))
            self._ahead_kib += ahead.kib
            self._frames.put_nowait(ahead)

    def _open(self, ahead: _FrameAhead) -> None:
        self._ahead_kib -= ahead.kib
        self._room.set()
        self._frame = frame = ahead.frame
        self._events = frame.events
        self._taken = 0

    def _take(self, batch: Batch) -> bool:
        """Move events from the open frame into the batch; return True if the frame is used up."""
        frame = self._frame
        assert frame is not None
        room = self._events_max - len(batch.events)
        events = self._events[self._taken : self._taken + room]
        batch.events.extend(events)
        batch.head_position = max(batch.head_position, frame.head_position)
        self._taken += len(events)
        if events:
            batch.position = events[-1].position
            batch.checkpoint = Checkpoint(events[-1].position, events[-1].event_id)
        if self._taken < len(self._events):
            return False
        if frame.position > batch.position:
            batch.position = frame.position
            if frame.event_id:
                batch.checkpoint = Checkpoint(frame.position, frame.event_id)
        self._frame = None
        return True
