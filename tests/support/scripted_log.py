"""Scripted log: a real LogService on a port. Tests set its content, identity and failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from diptych.internal.v1 import log_pb2, log_pb2_grpc
from diptych.v1.events_pb2 import RecordedEvent
from tests.support.notes import recorded


class ScriptedLog(log_pb2_grpc.LogServiceServicer):
    """Events in memory. A change without a running follower is seen by the next follower."""

    def __init__(self, log_id: bytes = b"scripted", *, life: str = "a", frame_events: int = 100) -> None:
        self.log_id = log_id
        self.life = life
        self.epochs = [(1, 1)]
        self.events: list[RecordedEvent] = []
        self.followed: list[log_pb2.FollowRequest] = []
        self.refusal: grpc.StatusCode | None = None
        self.mute = False
        self.port = 0
        self._frame_events = frame_events
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start, or start again on the same port."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        log_pb2_grpc.add_LogServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """Stop at once."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def append(self, *events: Any, by_key: bool = False) -> int:
        """Record events, in one stream or each in that of its key; return the head."""
        for event in events:
            stream = f"note/{event.key}" if by_key else "note/1"
            self.events.append(recorded(len(self.events) + 1, event, stream=stream, life=self.life))
        async with self._changed:
            self._changed.notify_all()
        return len(self.events)

    async def Follow(  # noqa: N802 - gRPC's name.
        self, request: log_pb2.FollowRequest, context: Any
    ) -> AsyncIterator[log_pb2.FollowResponse]:
        self.followed.append(request)
        if self.refusal is not None:
            await context.abort(self.refusal, "scripted")
        position = request.position
        there = self.events[position - 1].event_id if 0 < position <= len(self.events) else ""
        yield log_pb2.FollowResponse(
            identity=self._identity(), checkpoint_event_id=there, head_position=len(self.events)
        )
        types = set(request.event_types)
        while True:
            page = self.events[position : position + self._frame_events]
            if page and not self.mute:
                position = page[-1].position
                yield log_pb2.FollowResponse(
                    events=[event for event in page if event.event.type_url.rpartition("/")[2] in types],
                    position=position,
                    event_id=page[-1].event_id,
                    head_position=len(self.events),
                )
            else:
                await self._change(10)

    async def WatchHead(  # noqa: N802
        self, request: log_pb2.WatchHeadRequest, context: Any
    ) -> AsyncIterator[log_pb2.WatchHeadResponse]:
        while True:
            yield log_pb2.WatchHeadResponse(identity=self._identity(), head_position=len(self.events))
            await self._change(0.25)

    def _identity(self) -> log_pb2.LogIdentity:
        epochs = [log_pb2.Epoch(epoch=epoch, first_position=first) for epoch, first in self.epochs]
        return log_pb2.LogIdentity(log_id=self.log_id, epochs=epochs)

    async def _change(self, timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait()
        except TimeoutError:
            pass
