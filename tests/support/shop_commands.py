"""Builders of the shop's commands, and reads of the log, for tests of the command server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from diptych.contract.token import Token
from diptych.internal.v1.log_pb2 import (
    GetHeadRequest,
    GetHeadResponse,
)
from diptych.v1.commands_pb2 import AggregateRef, CommandContext
from diptych.v1.events_pb2 import (
    ReadStreamRequest,
    ReadStreamResponse,
    RecordedEvent,
    SubscribeResponse,
)
from shop.v1.user_commands_pb2 import (
    RecordLoginRequest,
    RegisterUserRequest,
)
from shop.v1.user_events_pb2 import LoginRecorded, UserRegistered
from tests.support.command_calls import (
    Client,
)

REGISTERED = UserRegistered.DESCRIPTOR.full_name
LOGGED_IN = LoginRecorded.DESCRIPTOR.full_name
SUBSCRIBE = "diptych.v1.EventService/Subscribe"
READ_STREAM = "diptych.v1.EventService/ReadStream"
GET_POSITION = "diptych.v1.EventService/GetPosition"
FOLLOW = "diptych.internal.v1.LogService/Follow"
WATCH_HEAD = "diptych.internal.v1.LogService/WatchHead"
GET_HEAD = "diptych.internal.v1.LogService/GetHead"
ENGINE = "diptych.v1"


def register(user_id: str, email: str = "", **context: Any) -> RegisterUserRequest:
    email = email or f"{user_id or uuid.uuid4().hex}@example.com"
    return RegisterUserRequest(context=CommandContext(**context), user_id=user_id, email=email)


def login(user_id: str, **context: Any) -> RecordLoginRequest:
    return RecordLoginRequest(context=CommandContext(**context), user_id=user_id)


def user(user_id: str) -> AggregateRef:
    return AggregateRef(type="user", id=user_id)


async def head_of(client: Client) -> tuple[int, Any]:
    answer = await client.call(GET_HEAD, GetHeadRequest())
    head = GetHeadResponse.FromString(answer.response)
    return head.head_position, head.identity


def token_at(identity: Any, position: int) -> str:
    return str(Token(identity.log_id, identity.epochs[-1].epoch, position))


async def stream_of(client: Client, user_id: str) -> list[RecordedEvent]:
    answer = await client.call(READ_STREAM, ReadStreamRequest(aggregate=user(user_id), page_size=1000))
    assert answer.code is grpc.StatusCode.OK, answer.message
    return list(ReadStreamResponse.FromString(answer.response).events)


async def ended(call: Any) -> Any:
    """Return the call after its stream has ended."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass
    return call


async def frames(call: Any, seconds: float = 15) -> AsyncIterator[SubscribeResponse]:
    async with asyncio.timeout(seconds):
        while (data := await call.read()) is not grpc.aio.EOF:
            yield SubscribeResponse.FromString(data)


async def caught_up(call: Any) -> tuple[list[RecordedEvent], str]:
    """Return the events until `caught_up`, and its token."""
    events: list[RecordedEvent] = []
    async for frame in frames(call):
        events += frame.batch.events
        if frame.HasField("caught_up"):
            return events, frame.caught_up.token
    raise AssertionError(f"the stream ended: {await call.details()}")
