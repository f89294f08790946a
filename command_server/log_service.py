"""LogService: the log as our other servers follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from command_server.event_tail import EventTail, TailClosed
from command_server.head_reader import HeadReader
from command_server.metrics import SUBSCRIPTIONS
from command_server.store.event_store import EventStore, StoreUnavailable
from diptych.contract.frames import recorded
from diptych.contract.identity_codec import identity_to_message
from diptych.contract.reasons import LogUnavailable
from diptych.contract.validation import parse
from diptych.contract.wire import delimited, integer
from diptych.internal.v1.log_pb2 import (
    FollowRequest,
    FollowResponse,
    GetHeadResponse,
    WatchHeadResponse,
)
from diptych.server import failpoints
from diptych.server.request_context import RequestContext
from diptych.server.router import Router

SERVICE = "diptych.internal.v1.LogService"
_IDLE_SECONDS = 0.25
"""How often an idle head is told again."""
_COALESCE_SECONDS = 0.01
"""How long changes of the head are gathered before they are told."""


class LogService:
    """Serves the log of one store to projectors and query servers."""

    def __init__(self, store: EventStore, stream: EventTail, head: HeadReader, router: Router) -> None:
        self._store = store
        self._stream = stream
        self._head = head
        router.bind_stream(SERVICE, "Follow", self._follow)
        router.bind_stream(SERVICE, "WatchHead", self._watch_head)
        router.bind_unary(SERVICE, "GetHead", self._get_head)

    async def _follow(self, data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        request = parse(FollowRequest, data)
        SUBSCRIPTIONS.inc()
        try:
            async for frame in self._frames(request.position, frozenset(request.event_types)):
                yield frame
        except StoreUnavailable as error:
            raise LogUnavailable(cause=str(error)) from error
        finally:
            SUBSCRIPTIONS.dec()

    async def _frames(self, position: int, types: frozenset[str]) -> AsyncIterator[bytes]:
        checkpoint = await self._store.frame_at(position) if position else None
        event_id = recorded(checkpoint).event_id if checkpoint is not None else ""
        yield FollowResponse(
            identity=identity_to_message(self._stream.identity),
            checkpoint_event_id=event_id,
            position=position,
            event_id=event_id,
            head_position=self._stream.head,
        ).SerializeToString()
        while True:
            page = await self._stream.read(position, types)
            if page.last_frame:
                position = page.position
                failpoints.hit("publish.followed")
                yield b"".join(
                    (
                        *page.frames,
                        integer(2, position),
                        delimited(3, recorded(page.last_frame).event_id.encode()),
                        integer(4, self._stream.head),
                    )
                )
            if position >= self._stream.head:
                await self._stream.wait_beyond(position, 60.0)

    async def _watch_head(self, data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        told = self._stream.head
        yield WatchHeadResponse(
            identity=identity_to_message(self._stream.identity), head_position=told
        ).SerializeToString()
        while True:
            try:
                changed = await self._stream.wait_beyond(told, _IDLE_SECONDS)
            except TailClosed as error:
                raise LogUnavailable(cause=str(error)) from error
            if changed:
                await asyncio.sleep(_COALESCE_SECONDS)
            told = self._stream.head
            yield WatchHeadResponse(head_position=told).SerializeToString()

    async def _get_head(self, data: bytes, context: RequestContext) -> bytes:
        try:
            log = await self._head.read()
        except StoreUnavailable as error:
            raise LogUnavailable(cause=str(error)) from error
        return GetHeadResponse(
            identity=identity_to_message(log.identity), head_position=log.position
        ).SerializeToString()
