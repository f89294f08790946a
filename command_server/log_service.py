"""LogService: the log as projectors and query servers follow it."""

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
"""Interval at which an unchanged head is sent again, so that its receivers notice a silent server."""
_COALESCE_SECONDS = 0.01
"""Time in which changes of the head are gathered into one message."""
_WAIT_SECONDS = 60.0


class LogService:
    """Serves one log to the other servers.

    `Follow` and `WatchHead` follow the event tail. `GetHead` reads the store, so that it includes the commits of every
    writer.
    """

    def __init__(self, store: EventStore, tail: EventTail, head: HeadReader, router: Router) -> None:
        self._store = store
        self._tail = tail
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
            identity=identity_to_message(self._tail.identity),
            checkpoint_event_id=event_id,
            position=position,
            event_id=event_id,
            head_position=self._tail.head,
        ).SerializeToString()
        while True:
            page = await self._tail.read(position, types)
            if page.last_frame:
                position = page.position
                failpoints.hit("publish.followed")
                yield b"".join(
                    (
                        *page.frames,
                        integer(2, position),
                        delimited(3, recorded(page.last_frame).event_id.encode()),
                        integer(4, self._tail.head),
                    )
                )
            if position >= self._tail.head:
                await self._tail.wait_beyond(position, _WAIT_SECONDS)

    async def _watch_head(self, data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        head = self._tail.head
        yield WatchHeadResponse(
            identity=identity_to_message(self._tail.identity), head_position=head
        ).SerializeToString()
        while True:
            try:
                changed = await self._tail.wait_beyond(head, _IDLE_SECONDS)
            except TailClosed as error:
                raise LogUnavailable(cause=str(error)) from error
            if changed:
                await asyncio.sleep(_COALESCE_SECONDS)
            head = self._tail.head
            yield WatchHeadResponse(head_position=head).SerializeToString()

    async def _get_head(self, data: bytes, context: RequestContext) -> bytes:
        try:
            log = await self._head.read()
        except StoreUnavailable as error:
            raise LogUnavailable(cause=str(error)) from error
        return GetHeadResponse(
            identity=identity_to_message(log.identity), head_position=log.position
        ).SerializeToString()
