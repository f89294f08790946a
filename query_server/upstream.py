"""Upstreams: the projector's feed and the head of the command server's log, followed until the server stops.

A stream that ends or falls silent is opened again with a bounded backoff. Frames go to the freshness tracker, which
also sends its requests through here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import grpc
import structlog

from diptych.contract.identity_codec import identity_from_message
from diptych.contract.token import LogIdentity
from diptych.internal.v1 import feed_pb2, feed_pb2_grpc, log_pb2, log_pb2_grpc
from diptych.server import failpoints
from diptych.server.channels import END, CallError, StreamCall, open_server_channel
from diptych.server.status import retry_delay
from diptych.server.stream_log import StreamLog
from diptych.server.supervise import TaskSupervisor
from diptych.v1 import commands_pb2, events_pb2, events_pb2_grpc
from query_server.freshness.log_head import HeadReport
from query_server.freshness.tracked_projection import UNKNOWN_AFTER_SECONDS
from query_server.freshness.tracker import FreshnessTracker

REQUEST_SECONDS = 2.0
"""Limit of a call to another server that many callers share."""

_RESERVE_SECONDS = 0.5  # More than the command server keeps for its answer.
_BACKOFF_FIRST, _BACKOFF_MAX = 0.05, 1.0

_log = structlog.get_logger(__name__)
F = TypeVar("F")


class NotReachable(Exception):
    """The other server cannot be reached, or is overloaded."""

    def __init__(self, retry_seconds: float = 0.0) -> None:
        super().__init__()
        self.retry_seconds = retry_seconds
        """Delay that the server named for the next request; 0: none."""


class NotInTime(Exception):
    """The version did not come to exist in time."""


class NoSuchVersion(Exception):
    """The command server refuses the request; the message names the cause."""


class Upstreams:
    """The channels to the command server and to the projector, and the streams that are followed on them."""

    def __init__(self, commands: str, projector: str) -> None:
        """Open the channels. Both addresses are `HOST:PORT`."""
        self._commands = open_server_channel(commands)
        self._projector = open_server_channel(projector)
        self._log = log_pb2_grpc.LogServiceStub(self._commands)
        self._events = events_pb2_grpc.EventServiceStub(self._commands)
        self._feed = feed_pb2_grpc.FeedServiceStub(self._projector)
        self._checkpoints: dict[str, asyncio.Future[None]] = {}
        self._feed_call: StreamCall[object, object] | None = None

    def follow(self, tracker: FreshnessTracker, tasks: TaskSupervisor) -> None:
        """Start to follow the feed and the head in the supervisor's tasks, until it closes."""
        feed = _follow("FollowFeed", "projector", lambda: self._follow_feed(tracker))
        head = _follow("WatchHead", "command-server", lambda: self._follow_head(tracker))
        tasks.start(feed, name="projector's feed")
        tasks.start(head, name="head of the log")

    def reconnect_feed(self) -> None:
        """End the feed, so that the next one sends the state of every projection again."""
        if self._feed_call is not None:
            self._feed_call.cancel()

    async def close(self) -> None:
        """End the calls under way and close the channels."""
        await asyncio.gather(*self._checkpoints.values(), return_exceptions=True)
        await self._commands.close()
        await self._projector.close()

    async def _follow_feed(self, tracker: FreshnessTracker) -> AsyncIterator[None]:
        call = self._feed_call = self._feed.FollowFeed(feed_pb2.FollowFeedRequest())
        try:
            async for frame in _until_silent(call):
                failpoints.hit("feed.received")
                tracker.on_feed_frame(frame)
                yield
        finally:
            call.cancel()
            tracker.on_feed_lost()

    async def _follow_head(self, tracker: FreshnessTracker) -> AsyncIterator[None]:
        call = self._log.WatchHead(log_pb2.WatchHeadRequest())
        identity: LogIdentity | None = None
        try:
            async for frame in _until_silent(call):
                # Only the first frame has the identity, but each head is of that epoch of the log alone.
                identity = identity_from_message(frame.identity) or identity
                tracker.on_head(frame.head_position, identity)
                yield
        finally:
            call.cancel()

    async def request_head(self) -> HeadReport | None:
        """Return the head now; None if the command server cannot be reached within `REQUEST_SECONDS`."""
        try:
            head = await self._log.GetHead(log_pb2.GetHeadRequest(), timeout=REQUEST_SECONDS)
        except CallError:
            return None
        identity = identity_from_message(head.identity)
        return None if identity is None else HeadReport(identity, head.head_position)

    def request_checkpoint(self, projection: str) -> None:
        """Ask the projector to write a projection's checkpoint. Do not wait, and have one call under way at most."""
        call = self._checkpoints.get(projection)
        if call is None or call.done():
            self._checkpoints[projection] = asyncio.ensure_future(self._write_checkpoint(projection))

    async def _write_checkpoint(self, projection: str) -> None:
        try:
            await self._feed.WriteCheckpoint(
                feed_pb2.WriteCheckpointRequest(projection=projection), timeout=REQUEST_SECONDS
            )
        except CallError as error:
            _log.debug("checkpoint not written", projection=projection, cause=error.details())

    async def token_of(self, aggregate: commands_pb2.AggregateRef, version: int, seconds: float) -> str:
        """Return the token of an aggregate's version as soon as it exists. Cancelling it cancels the call.

        Args:
            aggregate: The aggregate.
            version: Its version, from 1.
            seconds: Limit on the wait.

        Raises:
            NotReachable: The command server cannot be reached, or is overloaded.
            NotInTime: The version did not come to exist.
            NoSuchVersion: Waiting is useless, such as for an unknown type of aggregate.
        """
        request = events_pb2.GetPositionRequest(aggregate=aggregate, version=version)
        try:
            # The command server answers shortly before its deadline as well, so its deadline is later than ours.
            async with asyncio.timeout(seconds):
                response = await self._events.GetPosition(request, timeout=seconds + _RESERVE_SECONDS)
        except TimeoutError:
            raise NotInTime from None
        except CallError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NotInTime from None
            if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED):
                raise NoSuchVersion(error.details() or "") from None
            raise NotReachable(retry_delay(error.trailing_metadata())) from None
        return str(response.token)


async def _until_silent(call: StreamCall[object, F]) -> AsyncIterator[F]:
    """Yield the frames of a stream. Raise `TimeoutError` after `UNKNOWN_AFTER_SECONDS` without one."""
    while True:
        async with asyncio.timeout(UNKNOWN_AFTER_SECONDS):
            frame = await call.read()
        if frame is END:
            return
        yield frame  # type: ignore[misc]


async def _follow(stream: str, server: str, open_stream: Callable[[], AsyncIterator[None]]) -> None:
    """Open a stream again whenever it ends, until cancelled; sooner if it carried frames."""
    attempt = 0
    stream_log = StreamLog(_log, stream=stream, server=server)
    while True:
        cause = "the server ended it"
        try:
            async for _ in open_stream():
                stream_log.connected()
                attempt = 1
        except CallError as error:
            cause = error.details() or error.code().name
        except TimeoutError:
            cause = f"no frame for {UNKNOWN_AFTER_SECONDS:g} s"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            cause = "the read store was replaced"  # `reconnect_feed` cancelled the call, and not this task.
        stream_log.lost(cause)
        await asyncio.sleep(min(_BACKOFF_FIRST * (1 << min(attempt, 10)), _BACKOFF_MAX))
        attempt += 1
