"""What a query server hears from the others: the projector's feed, and the head of the command server's log.

Both are followed for ever, and a server that is away is sought with a bounded backoff. What is heard goes to
`Freshness`, and what that asks is asked here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import grpc
import structlog

from diptych.contract.identity_codec import identity_from_message
from diptych.internal.v1 import feed_pb2, feed_pb2_grpc, log_pb2, log_pb2_grpc
from diptych.server import failpoints
from diptych.server.channels import END, CallError, StreamCall, open_server_channel
from diptych.server.supervise import TaskSupervisor
from diptych.v1 import commands_pb2, events_pb2, events_pb2_grpc
from query_server.freshness.tracker import GONE_SECONDS, Freshness, HeadHeard

ASK_SECONDS = 2.0
"""How long another server may take for an answer that is asked for on behalf of many."""

_LATER_SECONDS = 0.5  # More than the command server keeps for its answer.
_BACKOFF_FIRST, _BACKOFF_MAX = 0.05, 1.0

_log = structlog.get_logger(__name__)
F = TypeVar("F")


class NotReachable(Exception):
    """The other server cannot be reached."""


class NotInTime(Exception):
    """The version did not come to exist in time."""


class NoSuchVersion(Exception):
    """The command server refuses the question; the message says why."""


class Upstreams:
    """The channels to the command server and to the projector, and the streams that are followed on them."""

    def __init__(self, commands: str, projector: str) -> None:
        self._commands = open_server_channel(commands)
        self._projector = open_server_channel(projector)
        self._log = log_pb2_grpc.LogServiceStub(self._commands)
        self._events = events_pb2_grpc.EventServiceStub(self._commands)
        self._feed = feed_pb2_grpc.FeedServiceStub(self._projector)
        self._checkpoints: dict[str, asyncio.Future[None]] = {}
        self._feed_call: StreamCall[object, object] | None = None

    def follow(self, freshness: Freshness, tasks: TaskSupervisor) -> None:
        """Start to follow the feed and the head in the supervisor's tasks, until it closes."""
        tasks.start(_for_ever("the projector's feed", lambda: self._follow_feed(freshness)), name="projector's feed")
        tasks.start(_for_ever("the head of the log", lambda: self._follow_head(freshness)), name="head of the log")

    def follow_feed_anew(self) -> None:
        """Ends the feed, so that the next one tells everything again."""
        if self._feed_call is not None:
            self._feed_call.cancel()

    async def close(self) -> None:
        """Ends the streams and closes the channels."""
        await asyncio.gather(*self._checkpoints.values(), return_exceptions=True)
        await self._commands.close()
        await self._projector.close()

    async def _follow_feed(self, freshness: Freshness) -> AsyncIterator[None]:
        call = self._feed_call = self._feed.FollowFeed(feed_pb2.FollowFeedRequest())
        try:
            async for frame in _with_life(call):
                failpoints.hit("feed.heard")
                freshness.heard_feed(frame)
                yield
        finally:
            call.cancel()
            freshness.lost_feed()

    async def _follow_head(self, freshness: Freshness) -> AsyncIterator[None]:
        call = self._log.WatchHead(log_pb2.WatchHeadRequest())
        try:
            async for frame in _with_life(call):
                freshness.heard_head(frame.head_position, identity_from_message(frame.identity))
                yield
        finally:
            call.cancel()

    async def ask_head(self) -> HeadHeard | None:
        """The head now; None: the command server cannot be reached."""
        try:
            told = await self._log.GetHead(log_pb2.GetHeadRequest(), timeout=ASK_SECONDS)
        except CallError:
            return None
        identity = identity_from_message(told.identity)
        return None if identity is None else HeadHeard(identity, told.head_position)

    def ask_checkpoint(self, projection: str) -> None:
        """Has the projector write a projection's checkpoint, by one call at a time. Nobody waits for it here."""
        asking = self._checkpoints.get(projection)
        if asking is None or asking.done():
            self._checkpoints[projection] = asyncio.ensure_future(self._write_checkpoint(projection))

    async def _write_checkpoint(self, projection: str) -> None:
        try:
            await self._feed.WriteCheckpoint(
                feed_pb2.WriteCheckpointRequest(projection=projection), timeout=ASK_SECONDS
            )
        except CallError as error:
            _log.debug("no checkpoint was written", projection=projection, error=error.details())

    async def position_of(self, aggregate: commands_pb2.AggregateRef, version: int, seconds: float) -> int:
        """Where in the log an aggregate's version is, as soon as it is there.

        Raises `NotReachable`, `NotInTime`, and `NoSuchVersion` where it is no use to wait.
        """
        request = events_pb2.GetPositionRequest(aggregate=aggregate, version=version)
        try:
            # The command server answers shortly before its deadline as well, so it gets a later one than ours.
            async with asyncio.timeout(seconds):
                found = await self._events.GetPosition(request, timeout=seconds + _LATER_SECONDS)
        except TimeoutError:
            raise NotInTime from None
        except CallError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NotInTime from None
            if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED):
                raise NoSuchVersion(error.details() or "") from None
            raise NotReachable from None
        return int(found.position)


async def _with_life(call: StreamCall[object, F]) -> AsyncIterator[F]:
    """The frames of a stream, which ends when it gave no sign of life for too long."""
    while True:
        async with asyncio.timeout(GONE_SECONDS):
            frame = await call.read()
        if frame is END:
            return
        yield frame  # type: ignore[misc]


async def _for_ever(what: str, follow: Callable[[], AsyncIterator[None]]) -> None:
    """Follows a stream again whenever it ends, sooner if it gave something."""
    attempt = 0
    lost = False
    while True:
        cause = "it ended"
        try:
            async for _ in follow():
                if lost or attempt == 0:
                    _log.info("following", what=what)
                attempt, lost = 1, False
        except CallError as error:
            cause = error.details() or error.code().name
        except TimeoutError:
            cause = "it fell silent"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            cause = "it is followed anew"  # The call was cancelled, and not we.
        if not lost:
            _log.warning("lost", what=what, cause=cause)
        lost = True
        await asyncio.sleep(_pause(attempt))
        attempt += 1


def _pause(attempt: int) -> float:
    return min(_BACKOFF_FIRST * (1 << min(attempt, 10)), _BACKOFF_MAX)
