"""LogService: the log as projectors and query servers follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, contextmanager

from command_server.event_tail import EventTail, TailClosed
from command_server.head_reader import HeadReader
from command_server.metrics import SUBSCRIPTIONS
from command_server.store.event_store import EventStore, StoreUnavailable
from diptych.contract.frames import recorded
from diptych.contract.identity_codec import identity_to_message
from diptych.contract.reasons import LogUnavailable, Overloaded
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
from diptych.server.settings import CommandServerSettings

SERVICE = "diptych.internal.v1.LogService"

_IDLE_SECONDS = 0.25
"""Interval at which an unchanged head is sent again, so that its receivers notice a silent server."""
_COALESCE_SECONDS = 0.01
"""Time in which changes of the head are gathered into one message."""
_WAIT_SECONDS = 60.0
_RETRY_SECONDS = 1.0


class _StreamLimit:
    """Limit on the streams of one kind.

    Args:
        what: Name of the streams in a refusal.
        limit: Greatest number of streams at once.
    """

    def __init__(self, what: str, limit: int) -> None:
        self._what = what
        self._limit = limit
        self._count = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count a stream, and raise `Overloaded` beyond the limit."""
        if self._count >= self._limit:
            raise Overloaded(what=self._what, limit=self._limit).with_details(retry_seconds=_RETRY_SECONDS)
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


class LogService:
    """Serves one log to the other servers.

    `Follow` and `WatchHead` follow the event tail. `GetHead` reads the store, so that it includes the commits of every
    writer.
    """

    def __init__(
        self,
        store: EventStore,
        tail: EventTail,
        head: HeadReader,
        router: Router,
        settings: CommandServerSettings,
        event_types: Iterable[str] = (),
    ) -> None:
        self._store = store
        self._tail = tail
        self._head = head
        self._event_types = sorted(event_types)
        self._followers = _StreamLimit("followers of the log", settings.followers_max)
        self._head_watches = _StreamLimit("watches of the head", settings.head_watches_max)
        router.bind_stream(SERVICE, "Follow", self._follow)
        router.bind_stream(SERVICE, "WatchHead", self._watch_head)
        router.bind_unary(SERVICE, "GetHead", self._get_head)

    async def _follow(self, data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        request = parse(FollowRequest, data)
        with self._followers.one():
            SUBSCRIPTIONS.inc()
            try:
                async with aclosing(self._frames(request.position, frozenset(request.event_types))) as frames:
                    async for frame in frames:
                        yield frame
            except StoreUnavailable as error:
                raise LogUnavailable(cause=str(error)) from error
            finally:
                SUBSCRIPTIONS.dec()

    async def _frames(self, position: int, types: frozenset[str]) -> AsyncGenerator[bytes, None]:
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
                response = b"".join(
                    (
                        *page.frames,
                        integer(2, position),
                        delimited(3, recorded(page.last_frame).event_id.encode()),
                        integer(4, self._tail.head),
                    )
                )
                del page  # A follower that reads nothing holds its response, and no events that the tail has dropped.
                yield response
                del response
            if position >= self._tail.head:
                await self._tail.wait_beyond(position, _WAIT_SECONDS)

    async def _watch_head(self, data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        with self._head_watches.one():
            async with aclosing(self._heads()) as heads:
                async for head in heads:
                    yield head

    async def _heads(self) -> AsyncGenerator[bytes, None]:
        head = self._tail.head
        yield WatchHeadResponse(
            identity=identity_to_message(self._tail.identity), head_position=head, event_types=self._event_types
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
