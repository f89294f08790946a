"""Query server of the library in this process, on a real port, with a scripted command server and projector."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry

import query_server.server
from diptych.contract.token import LogIdentity
from diptych.domain.loading import load
from diptych.server.grpc_transport import GrpcHandlers
from diptych.server.health import Health
from diptych.server.settings import QueryServerSettings
from diptych.server.supervise import TaskSupervisor
from diptych.v1 import read_model_pb2_grpc
from library.lending import activity, lending
from library.v1 import query_service_pb2_grpc
from tests.support.read_store_file import StoreFile
from tests.support.scripted_upstreams import ScriptedUpstreams


class Refused(Exception):
    """Refusal of a call."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.trailers = dict[str, Any](error.trailing_metadata() or ())
        status = status_pb2.Status.FromString(self.trailers["grpc-status-details-bin"])
        self.message = status.message
        self.info = error_details_pb2.ErrorInfo()
        self.retry = error_details_pb2.RetryInfo()
        self.fields: list[str] = []
        bad = error_details_pb2.BadRequest()
        for detail in status.details:
            detail.Unpack(self.info)
            detail.Unpack(self.retry)
            if detail.Unpack(bad):
                self.fields = [violation.field for violation in bad.field_violations]
        super().__init__(f"{self.code} {self.info.reason} {self.message}")

    @property
    def reason(self) -> str:
        """Reason of the refusal."""
        return self.info.reason

    @property
    def token(self) -> str:
        """Token in the trailers."""
        return str(self.trailers.get("diptych-token", ""))


class Answer:
    """Response of a call, and the token in its trailers."""

    def __init__(self, response: Any, token: str) -> None:
        self.response = response
        self.token = token


class QueryServer:
    """The server, and stubs of its services."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        upstreams: ScriptedUpstreams,
        identity: LogIdentity,
        registry: CollectorRegistry,
    ) -> None:
        self.channel = channel
        self.upstreams = upstreams
        self.identity = identity
        self.library = query_service_pb2_grpc.QueryServiceStub(channel)
        self.read_model = read_model_pb2_grpc.ReadModelServiceStub(channel)
        self._health = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

        self._registry = registry

    def metric(self, name: str, **labels: str) -> float:
        """Return a metric's value; 0 if it has none yet."""
        return self._registry.get_sample_value(name, labels) or 0.0

    async def ask(self, method: Any, request: Any, *, tokens: tuple[str, ...] = (), seconds: float = 10) -> Answer:
        """Call a method; raise `Refused`."""
        call = method(request, timeout=seconds, metadata=tuple(("diptych-token", token) for token in tokens))
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            raise Refused(error) from None
        trailers = dict[str, Any](await call.trailing_metadata())
        return Answer(response, trailers.get("diptych-token", ""))

    async def serving(self, service: str) -> bool:
        """Return True if a service's health is SERVING."""
        answer = await self._health(health_pb2.HealthCheckRequest(service=service))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def started_query_server(path: Path, upstreams: ScriptedUpstreams, **settings: Any) -> AsyncIterator[QueryServer]:
    """Start a query server on the read store at a path, and stop it at the end."""
    chosen = QueryServerSettings(
        domain="library",
        address="127.0.0.1:0",
        commands=upstreams.address,
        projector=upstreams.address,
        read_store=f"sqlite:///{path}",
        **settings,
    )
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    port = server.add_insecure_port(chosen.address)
    health = Health(f"127.0.0.1:{port}")
    # A registry of its own: a projector in the same process would have metrics of the same names.
    registry = CollectorRegistry()
    with mock.patch.object(query_server.server, "REGISTRY", registry):
        async with TaskSupervisor() as tasks:
            parts = await query_server.server.bootstrap(chosen, load("library"), health, tasks)
            health.bind(parts.router)
            server.add_generic_rpc_handlers((GrpcHandlers(parts.router),))
            await server.start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                try:
                    yield QueryServer(channel, upstreams, upstreams.identity, registry)
                finally:
                    await parts.drain()
                    await server.stop(1)
                    await parts.close()


def library_store(path: Path, identity: LogIdentity | None) -> StoreFile:
    """Return an empty read store of the library."""
    return StoreFile(path, (lending, activity), identity)
