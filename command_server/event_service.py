"""EventService: the log as clients read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing

from command_server.event_tail import BATCH_BYTES_MAX, EventTail
from command_server.head_reader import HeadReader
from command_server.metrics import SUBSCRIPTIONS
from command_server.store.event_store import EventStore, StoreUnavailable
from command_server.store.records import Page
from diptych.contract.page_token import PageTokens
from diptych.contract.reasons import (
    InvalidRequest,
    LogUnavailable,
    Overloaded,
    PageTokenInvalid,
    TokenAheadOfStream,
    VersionNotReached,
)
from diptych.contract.suggestions import did_you_mean
from diptych.contract.token import Token
from diptych.contract.validation import parse
from diptych.contract.wire import delimited
from diptych.domain.aggregate import AggregateIdError, AggregateRef
from diptych.domain.loading import LoadedDomain
from diptych.server.request_context import RequestContext
from diptych.server.router import Router
from diptych.server.settings import CommandServerSettings
from diptych.v1.commands_pb2 import AggregateRef as AggregateRefMessage
from diptych.v1.events_pb2 import (
    CaughtUp,
    GetPositionRequest,
    GetPositionResponse,
    Progress,
    ReadStreamRequest,
    SubscribeRequest,
    SubscribeResponse,
)

SERVICE = "diptych.v1.EventService"

_PROGRESS_SECONDS = 1.0
"""Interval at which an idle subscription sends its progress."""
_WAIT_SECONDS = 30.0
"""Longest wait of a call without a deadline."""
_RETRY_SECONDS = 1.0
_PAGE_SIZE, _PAGE_SIZE_MAX = 50, 1000
_ID_CHARACTERS_MAX = 200


class EventService:
    """Serves one log to clients.

    A call's token is the greater of the presented token and that of the position at which it is answered; a refusal
    has one, too.
    """

    def __init__(
        self,
        domain: LoadedDomain,
        store: EventStore,
        tail: EventTail,
        head: HeadReader,
        router: Router,
        settings: CommandServerSettings,
    ) -> None:
        self._aggregates = domain.domain.aggregates
        self._event_types = domain.event_types
        self._store = store
        self._tail = tail
        self._head = head
        self._subscriptions = 0
        self._subscriptions_max = settings.subscriptions_max
        self._waits = 0
        self._waits_max = settings.waits_max
        router.bind_stream(SERVICE, "Subscribe", self._subscribe)
        router.bind_unary(SERVICE, "ReadStream", self._read_stream)
        router.bind_unary(SERVICE, "GetPosition", self._get_position)

    def _zero_token(self, context: RequestContext) -> str:
        """Return the presented token, or that of position 0: for a refusal without a position."""
        identity = self._tail.identity
        return context.presented_token(identity) or identity.zero_token

    def _token(self, context: RequestContext, position: int) -> str:
        """Return the greater of the presented token and that of a position."""
        identity = self._tail.identity
        return max(context.presented_token(identity), identity.token(position))

    async def _subscribe(self, data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        context.token = self._zero_token(context)  # For a refusal; a subscription ends in no other way.
        async with aclosing(self._subscription(data)) as frames:
            async for frame in frames:
                yield frame

    async def _subscription(self, data: bytes) -> AsyncGenerator[bytes, None]:
        request = parse(SubscribeRequest, data)
        try:
            position = await self._start(request)
            types = self._types(request.event_types)
            if self._subscriptions >= self._subscriptions_max:
                raise Overloaded(what="subscriptions", limit=self._subscriptions_max).with_details(
                    retry_seconds=_RETRY_SECONDS
                )
            self._subscriptions += 1
            SUBSCRIPTIONS.inc()
            try:
                async for frame in self._frames(position, types):
                    yield frame
            finally:
                self._subscriptions -= 1
                SUBSCRIPTIONS.dec()
        except StoreUnavailable as error:
            raise LogUnavailable(cause=str(error)) from error

    async def _frames(self, position: int, types: Collection[str]) -> AsyncIterator[bytes]:
        caught_up = False
        while True:
            page = await self._tail.read(position, types)
            position = page.position
            if page.frames:
                yield self._batch(page)
            elif page.last_frame:
                yield self._progress(position)
            if position < self._tail.head:
                continue
            if not caught_up:
                caught_up = True
                token = self._tail.identity.token(position)
                yield SubscribeResponse(caught_up=CaughtUp(token=token)).SerializeToString()
            if not await self._tail.wait_beyond(position, _PROGRESS_SECONDS):
                yield self._progress(position)

    def _batch(self, page: Page) -> bytes:
        batch = b"".join((*page.frames, delimited(2, self._tail.identity.token(page.position).encode())))
        return delimited(1, batch)

    def _progress(self, position: int) -> bytes:
        token = self._tail.identity.token(position)
        return SubscribeResponse(
            progress=Progress(token=token, position=position, head_position=self._tail.head)
        ).SerializeToString()

    async def _start(self, request: SubscribeRequest) -> int:
        """Return the position after which a subscription starts."""
        if request.WhichOneof("after") == "token":
            token = Token.parse(request.token)
            position = self._tail.identity.judge(token)
            if self._tail.identity.is_newer(token):
                raise TokenAheadOfStream(position=position, head_position=self._tail.head)
        else:
            position = request.position
        # Another server may have recorded events that the tail does not have yet.
        if position > self._tail.head and position > (head := (await self._head.read()).position):
            raise TokenAheadOfStream(position=position, head_position=head)
        return position

    def _types(self, names: Collection[str]) -> frozenset[str]:
        unknown = [
            (f"event_types[{index}]", f"'{name}' is no event type of this domain")
            for index, name in enumerate(names)
            if name not in self._event_types
        ]
        if unknown:
            field, description = unknown[0]  # One search for a similar name, however many are unknown.
            name = next(name for name in names if name not in self._event_types)
            unknown[0] = (field, f"{description}.{did_you_mean(name, self._event_types)}")
            raise InvalidRequest.of(*unknown)
        return frozenset(names)

    def _aggregate(self, message: AggregateRefMessage) -> AggregateRef:
        if message.type not in self._aggregates:
            raise InvalidRequest.of(("aggregate.type", f"'{message.type}' is no aggregate type of this domain"))
        if not 1 <= len(message.id) <= _ID_CHARACTERS_MAX:
            raise InvalidRequest.of(("aggregate.id", "must have 1 to 200 characters"))
        try:
            return AggregateRef(message.type, message.id)
        except AggregateIdError as error:
            raise InvalidRequest.of(("aggregate.id", str(error))) from error

    async def _read_stream(self, data: bytes, context: RequestContext) -> bytes:
        context.token = self._zero_token(context)
        request = parse(ReadStreamRequest, data)
        stream = str(self._aggregate(request.aggregate))
        tokens = PageTokens(f"{SERVICE}/ReadStream", request)
        first = max(1, request.from_version)
        if request.page_token:
            first = _first_version(tokens, request.page_token)
        size = min(request.page_size or _PAGE_SIZE, _PAGE_SIZE_MAX)
        head = self._tail.head
        try:
            frames = await self._store.read_stream(stream, first, size, BATCH_BYTES_MAX)
            following = first + len(frames)
            more = bool(frames) and await self._store.position_of(stream, following) is not None
        except StoreUnavailable as error:
            raise LogUnavailable(cause=str(error)) from error
        response = b"".join(frames)
        if more:
            response += delimited(2, tokens.encode((following,)).encode())
        context.token = self._token(context, head)
        return response

    async def _get_position(self, data: bytes, context: RequestContext) -> bytes:
        context.token = self._zero_token(context)
        request = parse(GetPositionRequest, data)
        ref = self._aggregate(request.aggregate)
        if self._waits >= self._waits_max:
            raise Overloaded(what="waits", limit=self._waits_max).with_details(retry_seconds=_RETRY_SECONDS)
        seconds = context.wait_seconds(_WAIT_SECONDS)
        self._waits += 1
        try:
            position = await self._wait_for_version(str(ref), request.version, seconds)
        except TimeoutError:
            context.token = self._token(context, self._tail.head)
            raise VersionNotReached(aggregate=str(ref), version=request.version) from None
        except StoreUnavailable as error:
            raise LogUnavailable(cause=str(error)) from error
        finally:
            self._waits -= 1
        context.token = self._token(context, position)
        token = self._tail.identity.token(position)
        return GetPositionResponse(position=position, token=token).SerializeToString()

    async def _wait_for_version(self, stream: str, version: int, seconds: float) -> int:
        async with asyncio.timeout(seconds):
            while True:
                with self._tail.version_wait(
                    stream, version
                ) as changed:  # Before the read, or a change could be missed.
                    position = await self._store.position_of(stream, version)
                    if position is not None:
                        return position
                    await changed


def _first_version(tokens: PageTokens, token: str) -> int:
    """Return the version at which the page of a token begins. Raise `PageTokenInvalid`."""
    (version,) = tokens.decode(token, (int,))
    assert isinstance(version, int)
    if version < 1:
        raise PageTokenInvalid
    return version
