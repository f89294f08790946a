"""The services that gRPC itself defines: health and reflection.

They are bound as our own are, so that a request which is no message is refused in our words, and so that nobody who
asks for health and then reads nothing can hold up whoever tells it, as with the servicer that gRPC ships.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2 as untyped_health_pb2

from diptych.contract.reasons import MalformedMessage, Overloaded, ServiceUnknown
from diptych.server.request_context import RequestContext
from diptych.server.router import Router

HEALTH = "grpc.health.v1.Health"

WATCHES_MAX = 1000
"""Watches of health at once."""

health_pb2: Any = untyped_health_pb2  # Its stubs are of an older release.
M = TypeVar("M", bound=Message)


class Health:
    """The health of this process's services and projections, and the address that it serves at."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.told: dict[str, bool] = {}
        """By service whether it serves; "" is the whole process."""
        self.ready = asyncio.Event()
        """Set once the whole process is healthy for the first time."""
        self._changed = asyncio.Event()
        self._stopping = False
        self._watches = 0

    async def set(self, service: str, serving: bool) -> None:
        """Tells the health of one service; "" is the whole process."""
        if self._stopping or self.told.get(service) is serving:
            return
        self.told[service] = serving
        if serving and not service:
            self.ready.set()
        self._wake()

    def stop(self) -> None:
        """Tells of every service that it serves no longer, for good, and ends the watches."""
        self._stopping = True
        self.told = dict.fromkeys(self.told, False)
        self._wake()

    def bind(self, router: Router) -> None:
        """Binds the service."""
        router.bind_unary(HEALTH, "Check", self._check)
        router.bind_unary(HEALTH, "List", self._list)
        router.bind_stream(HEALTH, "Watch", self._watch)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str) -> int:
        names = {True: "SERVING", False: "NOT_SERVING", None: "SERVICE_UNKNOWN"}
        return int(health_pb2.HealthCheckResponse.ServingStatus.Value(names[self.told.get(service)]))

    async def _check(self, data: bytes, context: RequestContext) -> bytes:
        service = _parsed(health_pb2.HealthCheckRequest, data).service
        if service not in self.told:
            raise ServiceUnknown(service=service[:200])
        answer: bytes = health_pb2.HealthCheckResponse(status=self._status(service)).SerializeToString()
        return answer

    async def _list(self, data: bytes, context: RequestContext) -> bytes:
        _parsed(health_pb2.HealthListRequest, data)
        statuses = {service: health_pb2.HealthCheckResponse(status=self._status(service)) for service in self.told}
        answer: bytes = health_pb2.HealthListResponse(statuses=statuses).SerializeToString()
        return answer

    async def _watch(self, data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        service = _parsed(health_pb2.HealthCheckRequest, data).service
        if self._watches >= WATCHES_MAX:
            raise Overloaded(what="watches of health", limit=WATCHES_MAX).with_details(retry_seconds=1)
        self._watches += 1
        try:
            told: int | None = None
            while True:
                changed, status = self._changed, self._status(service)
                if status != told:
                    told = status
                    yield health_pb2.HealthCheckResponse(status=status).SerializeToString()
                    continue  # It may have changed while this was sent.
                if self._stopping:
                    return
                await changed.wait()
        finally:
            self._watches -= 1


def _parsed(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise MalformedMessage(type=kind.DESCRIPTOR.full_name) from None
