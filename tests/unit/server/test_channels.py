"""Channels: the way to our servers, whatever the environment names as a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from diptych.server.channels import open_blocking_channel, open_client_channel, open_server_channel
from diptych.server.grpc_transport import GrpcHandlers
from diptych.server.health import Health
from diptych.server.router import Router

CHECK = "/grpc.health.v1.Health/Check"
ANSWER_SECONDS = 20.0


@pytest.fixture
async def address(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A health service, in an environment whose proxy answers nothing."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    health = Health("127.0.0.1:0")
    await health.set("", True)
    router = Router("test.v1")
    health.bind(router)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((GrpcHandlers(router),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    health.stop()
    await server.stop(None)


@pytest.mark.parametrize("open_channel", [open_client_channel, open_server_channel])
async def test_bug_proxy_of_the_environment_was_used_on_loopback(
    open_channel: Callable[[str], Any], address: str
) -> None:
    async with open_channel(address) as channel:
        await channel.unary_unary(CHECK)(b"", timeout=ANSWER_SECONDS)


async def test_blocking_channel_uses_no_proxy(address: str) -> None:
    def check() -> None:
        with open_blocking_channel(address) as channel:
            rpc: Any = channel.unary_unary(CHECK)
            rpc(b"", timeout=ANSWER_SECONDS)

    await asyncio.to_thread(check)
