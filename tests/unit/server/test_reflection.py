"""Reflection: both versions describe every symbol of the services bound."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

import shop.v1.command_service_pb2  # noqa: F401 - its descriptors are reflected.
from diptych.client import CallRefused
from diptych.server.grpc_transport import GrpcHandlers
from diptych.server.health import HEALTH
from diptych.server.reflection import REFLECTION, REFLECTION_ALPHA, bind_reflection
from diptych.server.router import Router

VERSIONS = pytest.mark.parametrize("version", [REFLECTION, REFLECTION_ALPHA])


@asynccontextmanager
async def connected(version: str) -> AsyncIterator[Any]:
    """A call of the reflection service of a server that lists `HEALTH`."""
    router = Router("test.v1")
    bind_reflection(router, (HEALTH,))
    router.check_complete()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((GrpcHandlers(router),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.stream_stream(f"/{version}/ServerReflectionInfo")
        try:
            yield method(timeout=30)
        finally:
            await server.stop(None)


async def ask(call: Any, **request: Any) -> reflection_pb2.ServerReflectionResponse:
    await call.write(reflection_pb2.ServerReflectionRequest(**request).SerializeToString())
    return reflection_pb2.ServerReflectionResponse.FromString(await call.read())


@VERSIONS
async def test_services_are_listed_with_reflection_itself(version: str) -> None:
    async with connected(version) as call:
        answer = await ask(call, list_services="*")
        listed = sorted(one.name for one in answer.list_services_response.service)
        assert listed == sorted([HEALTH, REFLECTION, REFLECTION_ALPHA])


@VERSIONS
@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("shop.v1.CommandService", "shop/v1/command_service.proto"),
        ("shop.v1.CommandService.RegisterUser", "shop/v1/command_service.proto"),
        ("shop.v1.RegisterUserRequest", "shop/v1/user_commands.proto"),
        ("shop.v1.RegisterUserRequest.email", "shop/v1/user_commands.proto"),
        ("diptych.v1.SubscribeRequest.after", "diptych/v1/events.proto"),
        ("diptych.v1.WaitOutcome.WAIT_OUTCOME_PAUSED", "diptych/v1/read_model.proto"),
        (REFLECTION, "grpc/reflection/v1/reflection.proto"),
        (f"{REFLECTION}.ServerReflectionInfo", "grpc/reflection/v1/reflection.proto"),
        (REFLECTION_ALPHA, "grpc_reflection/v1alpha/reflection.proto"),
    ],
)
async def test_file_is_found_by_a_symbol_in_it(version: str, symbol: str, file: str) -> None:
    async with connected(version) as call:
        answer = await ask(call, file_containing_symbol=symbol)
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(one)
            for one in answer.file_descriptor_response.file_descriptor_proto
        ]
        assert files[0].name == file


@VERSIONS
@pytest.mark.parametrize(
    "symbol", ["", "shop.v1.CommandService.Nothing", "shop.v1.RegisterUserRequest.nothing", "nothing.v1.Service.Method"]
)
async def test_unknown_symbol_is_not_found(version: str, symbol: str) -> None:
    async with connected(version) as call:
        answer = await ask(call, file_containing_symbol=symbol)
        assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@VERSIONS
async def test_bug_malformed_request_was_answered_with_an_error_of_python(version: str) -> None:
    async with connected(version) as call:
        assert (await ask(call, list_services="*")).HasField("list_services_response")
        await call.write(b"\x0a\x05ab")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert CallRefused.of(refused.value).reason == "MALFORMED_MESSAGE"
