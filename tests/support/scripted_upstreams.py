"""Scripted command server and projector for tests of the query server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from diptych.contract.identity_codec import identity_to_message
from diptych.contract.reasons import Overloaded
from diptych.contract.token import LogIdentity
from diptych.internal.v1 import feed_pb2, feed_pb2_grpc, log_pb2, log_pb2_grpc
from diptych.server.status import to_status, trailers_of
from diptych.v1 import events_pb2, events_pb2_grpc
from diptych.v1.projections_pb2 import ProjectionState

RUNNING = ProjectionState.PROJECTION_STATE_RUNNING
LIFE_SECONDS = 0.1


class ScriptedUpstreams(
    log_pb2_grpc.LogServiceServicer, feed_pb2_grpc.FeedServiceServicer, events_pb2_grpc.EventServiceServicer
):
    """Both servers at one address. Use it in `async with`."""

    def __init__(self, identity: LogIdentity) -> None:
        self.identity = identity
        self.head = 0
        self.head_told: int | None = None
        """Head that WatchHead reports in place of the real one, for a stream that lags."""
        self.heads_asked = 0
        self.checkpoints_asked: list[str] = []
        self.feeds = 0
        self.silent = False
        """True while the streams send nothing, not even signs of life."""
        self.position_requests = 0
        """Number of calls of GetPosition."""
        self.is_overloaded = False
        """True while GetPosition refuses calls as overloaded, to be repeated after 30 s."""
        self.positions: dict[tuple[str, int], int] = {}
        """Positions by stream and version."""
        self.address = "127.0.0.1:0"
        self._projections: dict[str, feed_pb2.ProjectionFeed] = {}
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> ScriptedUpstreams:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start, at the same address as before."""
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        log_pb2_grpc.add_LogServiceServicer_to_server(self, server)
        feed_pb2_grpc.add_FeedServiceServicer_to_server(self, server)
        events_pb2_grpc.add_EventServiceServicer_to_server(self, server)
        self.address = f"127.0.0.1:{server.add_insecure_port(self.address)}"
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Stop at once, like a killed server."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def feed(self, name: str, applied: int, changed: int, **more: Any) -> None:
        """Send a projection's progress to all feeds."""
        more = {"state": RUNNING, "version": 1, "generation": 1, **more}
        said = feed_pb2.ProjectionFeed(
            name=name,
            applied_position=applied,
            changed_position=changed,
            identity=identity_to_message(self.identity),
            **more,
        )
        async with self._changed:
            self._projections[name] = said
            self._changed.notify_all()

    async def at(self, head: int) -> None:
        """Move the head."""
        async with self._changed:
            self.head = head
            self._changed.notify_all()

    async def _news(self) -> None:
        async with self._changed:
            try:
                async with asyncio.timeout(LIFE_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def FollowFeed(  # noqa: N802
        self, request: feed_pb2.FollowFeedRequest, context: Any
    ) -> AsyncIterator[feed_pb2.FollowFeedResponse]:
        self.feeds += 1
        told: dict[str, feed_pb2.ProjectionFeed] = {}
        while True:
            if not self.silent:
                news = {name: said for name, said in self._projections.items() if told.get(name) is not said}
                yield feed_pb2.FollowFeedResponse(projections=list(news.values()))
                told |= news
            await self._news()

    async def WriteCheckpoint(  # noqa: N802
        self, request: feed_pb2.WriteCheckpointRequest, context: Any
    ) -> feed_pb2.WriteCheckpointResponse:
        self.checkpoints_asked.append(request.projection)
        while self.silent:
            await self._news()
        return feed_pb2.WriteCheckpointResponse()

    async def WatchHead(  # noqa: N802
        self, request: log_pb2.WatchHeadRequest, context: Any
    ) -> AsyncIterator[log_pb2.WatchHeadResponse]:
        identity: log_pb2.LogIdentity | None = identity_to_message(self.identity)
        while True:
            if not self.silent:
                head = self.head if self.head_told is None else self.head_told
                yield log_pb2.WatchHeadResponse(identity=identity, head_position=head)
                identity = None
            await self._news()

    async def GetHead(  # noqa: N802
        self, request: log_pb2.GetHeadRequest, context: Any
    ) -> log_pb2.GetHeadResponse:
        self.heads_asked += 1
        return log_pb2.GetHeadResponse(identity=identity_to_message(self.identity), head_position=self.head)

    async def GetPosition(  # noqa: N802
        self, request: events_pb2.GetPositionRequest, context: Any
    ) -> events_pb2.GetPositionResponse:
        self.position_requests += 1
        if self.is_overloaded:
            refusal = Overloaded(what="waits", limit=1).with_details(retry_seconds=30)
            context.set_trailing_metadata(trailers_of("", to_status(refusal, "library.v1")))
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        wanted = (f"{request.aggregate.type}/{request.aggregate.id}", request.version)
        while wanted not in self.positions:
            await self._news()
        position = self.positions[wanted]
        return events_pb2.GetPositionResponse(position=position, token=self.identity.token(position))
