"""The intake: frames of the log as they come, cut into batches of those that are already there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from diptych.internal.v1.log_pb2 import FollowResponse
from diptych.storage.read_store_schema import Checkpoint
from diptych.v1.events_pb2 import RecordedEvent
from projector.generation.throttle import Pace

_AHEAD_KIB_MAX = 4096
"""What is read ahead of folding, and a frame more at most. It is no number of frames: at the head each holds an event
or two, and a projection that had to wait for another one's commit must find in one batch all that came meanwhile."""


class FollowStream(Protocol):
    """What the log sends."""

    async def read(self) -> object:
        """The next frame; anything else is the end."""
        ...


class Batch:
    """Consecutive events, and how far they reach."""

    __slots__ = ("events", "head_position", "position", "through")

    def __init__(self) -> None:
        self.events: list[RecordedEvent] = []
        self.position = 0
        """Everything up to here is in the batch, or did not match."""
        self.through: Checkpoint | None = None
        """The last place up to there that has a known event id, if there is one."""
        self.head_position = 0
        """The head of the log when the batch was sent."""


class _Ahead(NamedTuple):
    """A frame that was read ahead, and the room that it takes."""

    frame: FollowResponse
    kib: int


class LogEndedError(Exception):
    """The log ended the stream, without an error."""


class Intake:
    """Reads ahead, a few MiB at most, and gives out what is there in batches as large as the pace allows."""

    def __init__(self, stream: FollowStream, pace: Pace) -> None:
        self._stream = stream
        self._pace = pace
        self._max = pace.events_max
        self._frames: asyncio.Queue[_Ahead] = asyncio.Queue()
        self._ahead_kib = 0
        self._room = asyncio.Event()
        self._frame: FollowResponse | None = None
        self._events: Sequence[RecordedEvent] = ()
        self._taken = 0
        self._reader = asyncio.ensure_future(self._read())

    async def next(self, timeout_seconds: float) -> Batch | None:
        """The next batch; None if nothing came in time. Raises what ended the stream, when all before it is out."""
        if self._frame is None:
            ahead = await self._wait(timeout_seconds)
            if ahead is None:
                return None
            self._open(ahead)
        batch = Batch()
        self._max = self._pace.events_max
        while self._take(batch) and len(batch.events) < self._max and not self._frames.empty():
            self._open(self._frames.get_nowait())
        return batch

    async def close(self) -> None:
        """Stops reading."""
        self._reader.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._reader

    async def _wait(self, timeout_seconds: float) -> _Ahead | None:
        if self._frames.empty():
            if self._reader.done():
                self._reader.result()
                raise LogEndedError("the log ended the stream")
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
            ahead = _Ahead(frame, 1 + (frame.ByteSize() >> 10))
            self._ahead_kib += ahead.kib
            self._frames.put_nowait(ahead)

    def _open(self, ahead: _Ahead) -> None:
        self._ahead_kib -= ahead.kib
        self._room.set()
        self._frame = frame = ahead.frame
        self._events = frame.events
        self._taken = 0

    def _take(self, batch: Batch) -> bool:
        """Moves events from the frame into the batch, as many as both allow; whether that was all of the frame."""
        frame = self._frame
        assert frame is not None
        room = self._max - len(batch.events)
        events = self._events[self._taken : self._taken + room]
        batch.events.extend(events)
        batch.head_position = max(batch.head_position, frame.head_position)
        self._taken += len(events)
        if events:
            batch.position = events[-1].position
            batch.through = Checkpoint(events[-1].position, events[-1].event_id)
        if self._taken < len(self._events):
            return False
        if frame.position > batch.position:
            batch.position = frame.position
            if frame.event_id:
                batch.through = Checkpoint(frame.position, frame.event_id)
        self._frame = None
        return True
