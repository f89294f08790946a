"""Log head: the last position of the log, and the task that follows it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable

import structlog

from diptych.internal.v1 import log_pb2, log_pb2_grpc
from diptych.server.channels import CallError, Channel
from diptych.server.stream_log import StreamLog

RETRY_SECONDS = (0.1, 2.0)
"""Shortest and longest backoff before a stream of the log is opened again."""

_log = structlog.get_logger(__name__)


class LogHead:
    """Newest known head of the log."""

    __slots__ = ("observed_at", "position")

    def __init__(self) -> None:
        self.position = 0
        """Position of the last event."""
        self.observed_at: float | None = None
        """Time of the last report by the monotonic clock, in seconds; None before the first."""

    def observe(self, position: int, *, at_least: bool = False) -> None:
        """Record a reported head.

        Args:
            position: Position of the last event.
            at_least: True for a report from a stream that may be older than the known head.
        """
        self.position = max(self.position, position) if at_least else position
        self.observed_at = time.monotonic()


class LogHeadFollower:
    """Task that follows the head while the projector runs, for stalled projections too."""

    def __init__(
        self, channel: Channel, head: LogHead, on_change: Callable[[], None], event_types: Collection[str] = ()
    ) -> None:
        """Create the follower.

        Args:
            channel: Channel to the command server.
            head: Head to keep up to date.
            on_change: Function to call after each report of the head and after each loss of the stream.
            event_types: Event types of the domain. The command server's are compared with them. Empty: they are not.
        """
        self._event_types = frozenset(event_types)
        self._stub = log_pb2_grpc.LogServiceStub(channel)
        self._head = head
        self._on_change = on_change
        self._stream_log = StreamLog(_log, stream="WatchHead", server="command-server")

    async def run(self) -> None:
        """Follow the head until the task is cancelled."""
        backoff = RETRY_SECONDS[0]
        while True:
            try:
                async for frame in self._stub.WatchHead(log_pb2.WatchHeadRequest()):
                    self._stream_log.connected(head_position=frame.head_position)
                    backoff = RETRY_SECONDS[0]
                    self._check_event_types(frame.event_types)
                    self._head.observe(frame.head_position)
                    self._on_change()
                cause = "the server ended the stream"
            except CallError as error:
                cause = f"{error.code().name}: {error.details()}"
            self._stream_log.lost(cause)
            self._on_change()
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, RETRY_SECONDS[1])

    def _check_event_types(self, event_types: Iterable[str]) -> None:
        """Log event types of the command server's domain that are not in this one: its views leave them out."""
        unknown = sorted(self._event_types and frozenset(event_types) - self._event_types)
        if unknown:
            _log.error(
                "event types of the command server are not in the projector's domain",
                event_types=unknown,
                remedy="run the projector with the command server's code; rebuild projections that fold these events",
            )
