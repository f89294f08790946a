"""EventService on a log with another writer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from google.rpc import code_pb2

from command_server import event_service, event_tail
from diptych.contract.token import TOKEN_KEY, Epoch, LogIdentity
from diptych.v1.commands_pb2 import AggregateRef
from diptych.v1.events_pb2 import (
    EventBatch,
    GetPositionRequest,
    ReadStreamRequest,
    ReadStreamResponse,
    SubscribeResponse,
)
from tests.support.batch_desk import login, register
from tests.support.transport_call import TransportCallStub
from tests.support.two_servers import Call, two_servers


async def test_subscribe_takes_a_token_of_another_server_and_goes_on_after_it(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as server:
        await server.other.batch(register("ada"))
        call = Call()
        token = server.tail.identity.token(1)
        frames = server.subscribe(call, token)
        assert SubscribeResponse.FromString(await anext(frames)).caught_up.token == token
        following = asyncio.create_task(server.tail.run())
        await server.other.batch(register("ben"))
        batch = EventBatch()
        async with asyncio.timeout(30):
            while not batch.events:
                batch = SubscribeResponse.FromString(await anext(frames)).batch
        assert [event.position for event in batch.events] == [2]
        following.cancel()
        await frames.aclose()  # type: ignore[attr-defined]


async def test_subscribe_refuses_a_token_beyond_the_log_with_the_presented_token(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as server:
        await server.other.batch(register("ada"))
        identity = server.tail.identity
        call = Call(identity.token(1))
        assert [frame async for frame in server.subscribe(call, identity.token(2))] == []
        assert call.code == code_pb2.OUT_OF_RANGE
        assert call.trailers[TOKEN_KEY] == identity.token(1)


async def test_bug_a_subscription_began_at_a_token_of_an_unknown_epoch(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as server:
        await server.other.batch(register("ada"))
        identity = server.tail.identity
        newer = LogIdentity(identity.log_id, (*identity.epochs, Epoch(2, 1)))
        call = Call(newer.token(1))
        assert [frame async for frame in server.subscribe(call, newer.token(1))] == []
        assert call.code == code_pb2.OUT_OF_RANGE
        assert call.trailers[TOKEN_KEY] == identity.zero_token, "a token that the log does not have is not sent back"


async def test_get_position_takes_a_version_that_is_recorded_while_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_servers(tmp_path) as server:
        position_of = server.desk.store.position_of
        lookups = 0

        async def record_after_the_lookup(stream: str, version: int) -> int | None:
            nonlocal lookups
            lookups += 1
            position = await position_of(stream, version)
            if lookups == 1:
                assert position is None
                await server.other.batch(register("ada"))
                await server.tail.take(await server.desk.store.read_log(0, events_max=10, bytes_max=1 << 20))
            return position

        monkeypatch.setattr(server.desk.store, "position_of", record_after_the_lookup)
        request = GetPositionRequest(aggregate=AggregateRef(type="user", id="ada"), version=1)
        async with asyncio.timeout(20):
            assert await server.position(Call(), request) == 1
        assert lookups == 2


async def test_pages_and_batches_are_limited_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_service, "BATCH_BYTES_MAX", 1000)
    monkeypatch.setattr(event_tail, "BATCH_BYTES_MAX", 1000)
    async with two_servers(tmp_path) as server:
        await server.desk.batch(register("ada"), *[login("ada")] * 30)
        request = ReadStreamRequest(aggregate=AggregateRef(type="user", id="ada"), page_size=1000)
        versions: list[int] = []
        while not versions or request.page_token:
            data = await server.call("/diptych.v1.EventService/ReadStream", request, TransportCallStub())
            assert 0 < len(data) < 1200
            page = ReadStreamResponse.FromString(data)
            versions += [event.version for event in page.events]
            request.page_token = page.next_page_token
        assert versions == list(range(1, 32))
        following = asyncio.create_task(server.tail.run())
        frames = server.subscribe(Call(), server.tail.identity.zero_token)
        positions: list[int] = []
        async with asyncio.timeout(30):
            while len(positions) < 31:
                data = await anext(frames)
                assert len(data) < 1200
                positions += [event.position for event in SubscribeResponse.FromString(data).batch.events]
        assert positions == list(range(1, 32))
        following.cancel()
        await frames.aclose()  # type: ignore[attr-defined]


async def test_versions_beyond_every_stream_are_an_empty_page_and_never_reached(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as server:
        await server.desk.batch(register("ada"))
        ada, last = AggregateRef(type="user", id="ada"), 2**63 - 1
        path = "/diptych.v1.EventService"
        call = TransportCallStub()
        assert await server.call(f"{path}/ReadStream", ReadStreamRequest(aggregate=ada, from_version=last), call) == b""
        assert call.code == code_pb2.OK
        call = TransportCallStub(seconds=0.05)
        await server.call(f"{path}/GetPosition", GetPositionRequest(aggregate=ada, version=last), call)
        assert call.reason == "VERSION_NOT_REACHED"
