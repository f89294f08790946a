"""The log services of one command server, beside another server that writes the same log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from command_server.event_service import EventService
from command_server.event_tail import EventTail
from command_server.head_reader import HeadReader
from command_server.log_service import LogService
from diptych.contract.token import TOKEN_KEY
from diptych.internal.v1.log_pb2 import GetHeadResponse
from diptych.server.router import Router
from diptych.server.settings import CommandServerSettings
from diptych.v1.events_pb2 import GetPositionRequest, GetPositionResponse, SubscribeRequest
from tests.support.batch_desk import SHOP, Desk


class Call:
    """A call whose status and trailers a test reads."""

    def __init__(self, *tokens: str) -> None:
        self._metadata = tuple((TOKEN_KEY, token) for token in tokens)
        self.code = 0
        self.trailers: dict[str, str | bytes] = {}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def time_remaining(self) -> float | None:
        return None

    def set_trailing_metadata(self, trailers: Any) -> None:
        self.trailers = dict(trailers)

    def set_code(self, code: int) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        return


class Server:
    """The services of one command server, whose tail follows nothing yet, beside the desk of another server."""

    def __init__(self, desk: Desk, other: Desk, tail: EventTail, settings: CommandServerSettings) -> None:
        self.desk = desk
        self.other = other
        self.tail = tail
        self._router = Router("shop")
        head = HeadReader(desk.store)
        EventService(SHOP, desk.store, tail, head, self._router, settings)
        LogService(desk.store, tail, head, self._router, settings)

    async def head(self) -> tuple[Call, int]:
        """Call GetHead; return the call and the position."""
        call = Call()
        data = await self._router.methods["/diptych.internal.v1.LogService/GetHead"].serve(b"", call)
        return call, GetHeadResponse.FromString(data).head_position

    async def position(self, call: Call, request: GetPositionRequest) -> int:
        """Call GetPosition; return the position."""
        path = "/diptych.v1.EventService/GetPosition"
        data = await self._router.methods[path].serve(request.SerializeToString(), call)
        return GetPositionResponse.FromString(data).position

    async def call(self, path: str, request: Message, call: Any) -> bytes:
        """Call a unary method."""
        response: bytes = await self._router.methods[path].serve(request.SerializeToString(), call)
        return response

    def stream(self, path: str, call: Call) -> AsyncIterator[bytes]:
        """Call a method that answers with a stream, with an empty request."""
        frames: AsyncIterator[bytes] = self._router.methods[path].serve(b"", call)
        return frames

    def subscribe(self, call: Call, token: str) -> AsyncIterator[bytes]:
        """Call Subscribe after a token."""
        request = SubscribeRequest(token=token).SerializeToString()
        frames: AsyncIterator[bytes] = self._router.methods["/diptych.v1.EventService/Subscribe"].serve(request, call)
        return frames


@asynccontextmanager
async def two_servers(folder: Path, **limits: int) -> AsyncIterator[Server]:
    async with Desk(folder, exclusive=False) as desk, Desk(folder, exclusive=False) as other:
        settings = CommandServerSettings.model_validate(limits)
        tail = EventTail(desk.store, await desk.store.head(), settings)
        yield Server(desk, other, tail, settings)
