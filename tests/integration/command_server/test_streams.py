"""ReadStream and GetPosition."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from diptych.contract.token import Token
from diptych.v1.commands_pb2 import AggregateRef
from diptych.v1.events_pb2 import (
    GetPositionRequest,
    GetPositionResponse,
    ReadStreamRequest,
    ReadStreamResponse,
)
from shop.v1.user_commands_pb2 import (
    UpdateUserProfileRequest,
)
from tests.support.command_calls import (
    Client,
    envelopes,
    next_outcomes,
)
from tests.support.shop_commands import (
    ENGINE,
    GET_POSITION,
    READ_STREAM,
    login,
    register,
    user,
)


async def test_a_stream_is_read_in_pages(client: Client, me: str) -> None:
    await client.command(register(me))
    for _ in range(6):
        await client.command(login(me))
    versions: list[list[int]] = []
    token = ""
    while True:
        request = ReadStreamRequest(aggregate=user(me), from_version=2, page_size=4, page_token=token)
        answer = await client.call(READ_STREAM, request)
        page = ReadStreamResponse.FromString(answer.response)
        versions.append([one.version for one in page.events])
        token = page.next_page_token
        if not token:
            break
    assert versions == [[2, 3, 4, 5], [6, 7]]
    assert Token.parse(answer.token).position >= page.events[-1].position


async def test_a_page_token_belongs_to_its_query(client: Client, me: str) -> None:
    await client.command(register(me))
    await client.command(login(me))
    first = await client.call(READ_STREAM, ReadStreamRequest(aggregate=user(me), page_size=1))
    token = ReadStreamResponse.FromString(first.response).next_page_token
    for request in (
        ReadStreamRequest(aggregate=user(f"{me}-2"), page_token=token),
        ReadStreamRequest(aggregate=user(me), from_version=2, page_token=token),
        ReadStreamRequest(aggregate=user(me), page_token=token[:-3]),
        ReadStreamRequest(aggregate=user(me), page_token="é"),
        ReadStreamRequest(aggregate=user(me), page_token="AAAA"),
    ):
        answer = await client.call(READ_STREAM, request)
        assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "PAGE_TOKEN_INVALID")


async def test_a_stream_without_events_is_an_empty_page(client: Client) -> None:
    answer = await client.call(READ_STREAM, ReadStreamRequest(aggregate=user("nobody")))
    assert answer.code is grpc.StatusCode.OK
    assert answer.response == b""


async def test_large_events_make_small_pages(client: Client, me: str) -> None:
    call = client.execute()
    changes = [UpdateUserProfileRequest(user_id=me, bio=f"{n}" + "é" * 9000) for n in range(300)]
    await call.write(envelopes(register(me), *changes[:150]).SerializeToString())
    await call.write(envelopes(*changes[150:]).SerializeToString())
    await next_outcomes(call)
    assert (await next_outcomes(call))[-1].result.version == 301
    call.cancel()
    versions: list[int] = []
    token = ""
    while True:
        request = ReadStreamRequest(aggregate=user(me), page_size=1000, page_token=token)
        answer = await client.call(READ_STREAM, request)
        assert answer.code is grpc.StatusCode.OK, answer.message
        assert len(answer.response) < 1_100_000
        page = ReadStreamResponse.FromString(answer.response)
        versions += [one.version for one in page.events]
        token = page.next_page_token
        if not token:
            break
    assert versions == list(range(1, 302))


async def test_read_stream_refuses_invalid_requests(client: Client) -> None:
    for request, field in (
        (ReadStreamRequest(), "aggregate"),
        (ReadStreamRequest(aggregate=AggregateRef(type="nothing", id="x")), "aggregate.type"),
        (ReadStreamRequest(aggregate=AggregateRef(type="x" * 100_000, id="x")), "aggregate.type"),
        (ReadStreamRequest(aggregate=AggregateRef(type="user")), "aggregate.id"),
        (ReadStreamRequest(aggregate=user("x"), page_size=-1), "page_size"),
        (ReadStreamRequest(aggregate=user("x"), from_version=-1), "from_version"),
    ):
        answer = await client.call(READ_STREAM, request)
        assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "INVALID_REQUEST")
        assert answer.fields == [field]
    largest = ReadStreamRequest(aggregate=user("x"), from_version=(1 << 63) - 1, page_size=(1 << 31) - 1)
    assert (await client.call(READ_STREAM, largest)).code is grpc.StatusCode.OK


async def test_get_position_answers_when_the_version_exists(client: Client, me: str) -> None:
    waiting = asyncio.create_task(client.call(GET_POSITION, GetPositionRequest(aggregate=user(me), version=2)))
    await client.command(register(me))
    answer = await client.command(login(me))
    found = GetPositionResponse.FromString((await waiting).response)
    assert found.token == answer.token
    assert found.position == Token.parse(answer.token).position
    at_once = await client.call(GET_POSITION, GetPositionRequest(aggregate=user(me), version=1))
    assert GetPositionResponse.FromString(at_once.response).position < found.position
    assert at_once.token == GetPositionResponse.FromString(at_once.response).token


async def test_get_position_is_refused_before_the_deadline_when_the_version_is_absent(client: Client, me: str) -> None:
    await client.command(register(me))
    answer = await client.call(GET_POSITION, GetPositionRequest(aggregate=user(me), version=2), seconds=3)
    assert answer.reason == ("DEADLINE_EXCEEDED", ENGINE, "VERSION_NOT_REACHED")
    assert answer.metadata == {"aggregate": f"user/{me}", "version": "2"}
    assert answer.token
    assert (await client.call(GET_POSITION, GetPositionRequest(aggregate=user(me)))).fields == ["version"]
