"""Health: gRPC's health service, for the process, its services and its projections.

It is bound to the router as our own services are. A malformed request is therefore refused as everywhere else, and a
watcher that reads nothing does not block `Health.set`, as it does with the servicer that gRPC ships.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health_pb2 as untyped_health_pb2

from diptych.contract.reasons import Overloaded, ServiceUnknown
from diptych.contract.validation import parse
from diptych.server.request_context import RequestContext
from diptych.server.router import Router

HEALTH = "grpc.health.v1.Health"

WATCHES_MAX = 1000
"""Health watches at once."""
_RETRY_SECONDS = 1
_NAME_CHARACTERS_MAX = 200
"""Characters of an unknown service's name that a refusal repeats."""

health_pb2: Any = untyped_health_pb2  # Its stubs are of an older release.
_STATUS_NAMES = {True: "SERVING", False: "NOT_SERVING", None: "SERVICE_UNKNOWN"}


class Health:
    """Health of one process.

    Attributes:
        address: Address at which the process listens, `HOST:PORT`.
        serving: True or False for each service, by full name; "" is the whole process.
        ready: Set when the whole process is healthy for the first time.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.serving: dict[str, bool] = {}
        self.ready = asyncio.Event()
        self._changed = asyncio.Event()
        self._stopping = False
        self._watches = 0

    async def set(self, service: str, serving: bool) -> None:
        """Set the health of one service and notify its watchers. After `stop` it changes nothing.

        Args:
            service: Full name of the service; "" is the whole process.
            serving: True for SERVING, False for NOT_SERVING.
        """
        if self._stopping or self.serving.get(service) is serving:
            return
        self.serving[service] = serving
        if serving and not service:
            self.ready.set()
        self._notify()

    def stop(self) -> None:
        """Set every service to NOT_SERVING for good, and end the watches."""
        self._stopping = True
        self.serving = dict.fromkeys(self.serving, False)
        self._notify()

    def bind(self, router: Router) -> None:
        """Bind the health service."""
        router.bind_unary(HEALTH, "Check", self._check)
        router.bind_unary(HEALTH, "List", self._list)
        router.bind_stream(HEALTH, "Watch", self._watch)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str) -> int:
        name = _STATUS_NAMES[self.serving.get(service)]
        return int(health_pb2.HealthCheckResponse.ServingStatus.Value(name))

    async def _check(self, data: bytes, context: RequestContext) -> bytes:
        service = parse(health_pb2.HealthCheckRequest, data).service
        if service not in self.serving:
            raise ServiceUnknown(service=service[:_NAME_CHARACTERS_MAX])
        answer: bytes = health_pb2.HealthCheckResponse(status=self._status(service)).SerializeToString()
        return answer

    async def _list(self, data: bytes, context: RequestContext) -> bytes:
        parse(health_pb2.HealthListRequest, data)
        statuses = {service: health_pb2.HealthCheckResponse(status=self._status(service)) for service in self.serving}
        answer: bytes = health_pb2.HealthListResponse(statuses=statuses).SerializeToString()
        return answer

    async def _watch(self, data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        service = parse(health_pb2.HealthCheckRequest, data).service
        if self._watches >= WATCHES_MAX:
            raise Overloaded(what="watches of health", limit=WATCHES_MAX).with_details(retry_seconds=_RETRY_SECONDS)
        self._watches += 1
        try:
            last: int | None = None
            while True:
                changed, status = self._changed, self._status(service)
                if status != last:
                    last = status
                    yield health_pb2.HealthCheckResponse(status=status).SerializeToString()
                    continue  # The status may have changed while the frame was sent.
                if self._stopping:
                    return
                await changed.wait()
        finally:
            self._watches -= 1
