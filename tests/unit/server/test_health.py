"""Health: its answers, and its limits against callers that would harm the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2 as untyped_health_pb2

from diptych.client import CallRefused
from diptych.server import health as module
from diptych.server.grpc_transport import GrpcHandlers
from diptych.server.health import HEALTH, Health
from diptych.server.router import Router

health_pb2: Any = untyped_health_pb2
SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3


@asynccontextmanager
async def served(health: Health) -> AsyncIterator[grpc.aio.Channel]:
    router = Router("test.v1")
    health.bind(router)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((GrpcHandlers(router),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            yield channel
        finally:
            health.stop()
            await server.stop(None)


async def check(channel: grpc.aio.Channel, service: str) -> int:
    call: Any = channel.unary_unary(f"/{HEALTH}/Check")
    data = await call(health_pb2.HealthCheckRequest(service=service).SerializeToString(), timeout=30)
    return int(health_pb2.HealthCheckResponse.FromString(data).status)


def watch(channel: grpc.aio.Channel, service: str) -> Any:
    call: Any = channel.unary_stream(
        f"/{HEALTH}/Watch", response_deserializer=health_pb2.HealthCheckResponse.FromString
    )
    return call(health_pb2.HealthCheckRequest(service=service).SerializeToString(), timeout=60)


async def test_health_is_the_one_that_was_set() -> None:
    health = Health("here")
    await health.set("", True)
    await health.set("shop.v1.QueryService", False)
    async with served(health) as channel:
        assert [await check(channel, name) for name in ("", "shop.v1.QueryService")] == [SERVING, NOT_SERVING]
        call: Any = channel.unary_unary(f"/{HEALTH}/List")
        listed = health_pb2.HealthListResponse.FromString(await call(b"", timeout=30)).statuses
        assert {name: one.status for name, one in listed.items()} == {"": 1, "shop.v1.QueryService": 2}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check(channel, "shop.v1.Nothing")
        assert CallRefused.of(refused.value).reason == "SERVICE_UNKNOWN"
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watch_gets_changes_until_the_server_stops() -> None:
    health = Health("here")
    async with served(health) as channel:
        call = watch(channel, "one")
        assert (await call.read()).status == UNKNOWN
        for serving in (True, False, True):
            await health.set("other", serving)
            await health.set("one", serving)
            assert (await call.read()).status == (SERVING if serving else NOT_SERVING)
        health.stop()
        await health.set("one", True)
        assert (await call.read()).status == NOT_SERVING
        assert await call.read() is grpc.aio.EOF


async def test_watches_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCHES_MAX", 1)
    async with served(Health("here")) as channel:
        first = watch(channel, "one")
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watch(channel, "one").read()
        assert CallRefused.of(refused.value).reason == "OVERLOADED"
        first.cancel()


@pytest.mark.parametrize("path", [f"/{HEALTH}/Check", f"/{HEALTH}/List", f"/{HEALTH}/Watch"])
async def test_bug_malformed_request_was_answered_with_an_error_of_python(path: str) -> None:
    """UNKNOWN, `Unexpected <class 'google.protobuf.message.DecodeError'>`; `List` was `Method not implemented!`."""
    async with served(Health("here")) as channel:
        call: Any = channel.unary_stream(path)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in call(b"\x0a\x05ab", timeout=30):
                pass
        assert CallRefused.of(refused.value).reason == "MALFORMED_MESSAGE"


async def test_bug_watch_that_is_not_read_blocked_set() -> None:
    """The servicer that gRPC ships sends a frame under the lock that `set` takes, so a projection stood still too."""
    health = Health("here")
    watching = health._watch(health_pb2.HealthCheckRequest(service="one").SerializeToString(), None)  # type: ignore[arg-type]
    await anext(watching)  # And it never comes back for more.
    for number in range(1000):
        await health.set("one", bool(number % 2))
    assert health_pb2.HealthCheckResponse.FromString(await anext(watching)).status == SERVING
