"""The head of the log, as the projector knows it, and how long a projection has not been there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from diptych.internal.v1 import log_pb2, log_pb2_grpc
from diptych.server.channels import CallError, Channel
from diptych.server.stream_log import StreamLog

_SILENCE_SECONDS = 3.0
"""After this long without a word from the log, which speaks every 250 ms, nobody is known to be at its head."""

RETRY_SECONDS = (0.1, 2.0)
"""The least and the longest pause before the log is asked again."""

_log = structlog.get_logger(__name__)


class Head:
    """The last position of the log, as last heard; `heard` is by the monotonic clock, None: never."""

    __slots__ = ("heard", "position")

    def __init__(self) -> None:
        self.position = 0
        self.heard: float | None = None

    def hear(self, position: int, *, at_least: bool = False) -> None:
        """Takes word of the head. `at_least`: it is from a stream that may be older than what is known."""
        self.position = max(self.position, position) if at_least else position
        self.heard = time.monotonic()


class Lag:
    """For how long a projection has not been at the head, by this process's clock.

    Under load the head moves on while a batch is folded, and a projection is never exactly there. So it counts
    from when the head that it has reached by now was the head.
    """

    __slots__ = ("_fresh", "_goal", "_goal_heard", "_head")

    def __init__(self, head: Head) -> None:
        self._head = head
        self._fresh = time.monotonic()
        self._goal: int | None = None
        self._goal_heard = 0.0

    def note(self, applied: int) -> None:
        """Takes word of how far the projection is."""
        head = self._head
        if head.heard is None:
            return
        if applied >= head.position:
            self._fresh = head.heard
            self._goal = None
            return
        if self._goal is not None and applied >= self._goal:
            self._fresh = self._goal_heard
            self._goal = None
        if self._goal is None:
            self._goal, self._goal_heard = head.position, head.heard

    def seconds(self, applied: int) -> float:
        """Zero: it is at the head."""
        now, head = time.monotonic(), self._head
        if head.heard is not None and applied >= head.position and now - head.heard < _SILENCE_SECONDS:
            return 0.0
        return now - self._fresh


class HeadFollower:
    """Follows the head for as long as the projector runs, also for projections that are stalled."""

    def __init__(self, channel: Channel, address: str, head: Head, heard: Callable[[], None]) -> None:
        self._stub = log_pb2_grpc.LogServiceStub(channel)
        self._address = address
        self._head = head
        self._heard = heard

    async def run(self) -> None:
        """Runs until it is cancelled."""
        pause = RETRY_SECONDS[0]
        stream_log = StreamLog(_log, stream="WatchHead", server="command-server", address=self._address)
        while True:
            try:
                async for frame in self._stub.WatchHead(log_pb2.WatchHeadRequest()):
                    stream_log.connected(head_position=frame.head_position)
                    pause = RETRY_SECONDS[0]
                    self._head.hear(frame.head_position)
                    self._heard()
                cause = "the server ended it"
            except CallError as failed:
                cause = f"{failed.code().name}: {failed.details()}"
            stream_log.lost(cause)
            self._heard()
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_SECONDS[1])
