"""gRPC's reflection service, which describes the contracts of the services bound."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_reflection.v1alpha import reflection, reflection_pb2

from diptych.server.health import _parsed
from diptych.server.request_context import RequestContext
from diptych.server.router import Router

REFLECTION: str = reflection.SERVICE_NAME


def bind_reflection(router: Router, services: Iterable[str]) -> None:
    """Binds the service that tells the contracts of these services, and of itself."""
    servicer: Any = reflection.aio.ReflectionServicer((*services, REFLECTION))

    async def parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        async for data in requests:
            yield _parsed(reflection_pb2.ServerReflectionRequest, data)

    async def info(requests: AsyncIterator[bytes], context: RequestContext) -> AsyncIterator[bytes]:
        async for answer in servicer.ServerReflectionInfo(parsed(requests), context):
            yield answer.SerializeToString()

    router.bind_duplex(REFLECTION, "ServerReflectionInfo", info)
