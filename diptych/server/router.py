"""The router: binds rpcs to handlers of bytes, counts calls under way, and turns exceptions into refusals.

A handler takes the request's bytes and returns the response's bytes. The engine therefore parses and serialises only
the messages that it must, and chooses every error itself except gRPC's own hard limits.

The router knows no transport. A transport looks up a `Method` by path and calls its `serve` with the request and a
`TransportCall`; see `grpc_transport`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum, auto
from typing import Any, NamedTuple, TypeVar

from google.protobuf import descriptor_pool

from diptych.contract.reasons import MethodUnknown, Overloaded
from diptych.domain.refusal import Refusal
from diptych.server import status
from diptych.server.errors import StartError, internal_error
from diptych.server.request_context import RequestContext, TransportCall

UnaryHandler = Callable[[bytes, RequestContext], Awaitable[bytes]]
StreamHandler = Callable[[bytes, RequestContext], AsyncIterator[bytes]]
DuplexHandler = Callable[[AsyncIterator[bytes], RequestContext], AsyncIterator[bytes]]
R = TypeVar("R")

_RETRY_SECONDS = 1.0
_UNCOUNTED_SERVICES = ("diptych.internal.", "grpc.health.")
"""Prefixes of services whose calls do not count for `calls_max`: a server at its limit is healthy and says so."""


class Kind(Enum):
    """Shapes of an rpc."""

    UNARY = auto()
    STREAM = auto()
    """One request, a stream of responses."""
    DUPLEX = auto()
    """Streams both ways."""


class Method(NamedTuple):
    """One rpc, ready to be served by a transport.

    Attributes:
        kind: Shape of the rpc.
        serve: Takes the request (DUPLEX: an async iterator of requests) and the `TransportCall`. UNARY: coroutine
            function that returns the response. STREAM and DUPLEX: async generator function of responses. It raises
            no `Exception`: a refusal is set as code, details and trailers of the call.
    """

    kind: Kind
    serve: Callable[[Any, Any], Any]


class Router:
    """Routes rpcs by path (`/package.Service/Method`) to handlers.

    Attributes:
        calls_max: Calls under way at once; further calls are refused with OVERLOADED. Calls between our own servers
            and calls of health do not count.
        services: Full names of the services bound.
        methods: The rpcs bound, by path.
    """

    def __init__(self, domain: str) -> None:
        """Create a router.

        Args:
            domain: `ErrorInfo.domain` of refusals that are not the engine's own.
        """
        self.calls_max = sys.maxsize
        self.services: set[str] = set()
        self._domain = domain
        self.methods: dict[str, Method] = {}
        self._calls = 0

    def bind_unary(self, service: str, method: str, handler: UnaryHandler) -> None:
        """Bind an rpc with one request and one response."""
        counted = _counted(service)

        async def serve(request: bytes, call: TransportCall) -> bytes:
            context = RequestContext(call)
            self._calls += counted
            try:
                if self._calls > self.calls_max and counted:
                    raise self._overloaded()
                response = await handler(request, context)
                if context.token:
                    call.set_trailing_metadata(status.trailers_of(context.token))
                return response
            except Exception as error:
                self._refuse(error, method, context, call)
                return b""
            finally:
                self._calls -= counted

        self._add(service, method, Method(Kind.UNARY, serve))

    def bind_stream(self, service: str, method: str, handler: StreamHandler) -> None:
        """Bind an rpc with one request and a stream of responses."""
        self._add(service, method, Method(Kind.STREAM, self._serve_stream(method, handler, _counted(service))))

    def bind_duplex(self, service: str, method: str, handler: DuplexHandler) -> None:
        """Bind an rpc with a stream of requests and a stream of responses."""
        self._add(service, method, Method(Kind.DUPLEX, self._serve_stream(method, handler, _counted(service))))

    def unknown(self, path: str) -> Method:
        """Return a method that refuses every call of `path` with METHOD_UNKNOWN."""

        def refuse(requests: AsyncIterator[bytes], context: RequestContext) -> AsyncIterator[bytes]:
            raise MethodUnknown(method=path)

        # A stream without any message: clients that try several versions of reflection, as `buf curl` does, take
        # even an empty message as a sign that this version is served.
        return Method(Kind.DUPLEX, self._serve_stream(path, refuse, 0))

    def check_complete(self) -> None:
        """Check that every rpc of every service bound has a handler.

        Raises:
            StartError: An rpc has no handler. The error names each.
        """
        pool = descriptor_pool.Default()
        unbound = [
            f"{service}/{method.name}"
            for service in sorted(self.services)
            for method in pool.FindServiceByName(service).methods
            if f"/{service}/{method.name}" not in self.methods
        ]
        if unbound:
            raise StartError(f"The server binds no handler for {', '.join(unbound)}: bind one for each rpc.")

    def to_status(self, refusal: Refusal, request_id: str = "") -> Any:
        """Return the `google.rpc.Status` of a refusal, shortened to the size that clients accept.

        A refusal that fails to render is logged, and becomes INTERNAL.
        """
        try:
            return status.to_status(refusal, self._domain)
        except Exception as error:
            internal = internal_error(error, request_id, refusal=type(refusal).__name__)
            return status.to_status(internal, self._domain)

    def _serve_stream(
        self, method: str, handler: Callable[[R, RequestContext], AsyncIterator[bytes]], counted: int
    ) -> Callable[[R, TransportCall], AsyncIterator[bytes]]:
        async def serve(request: R, call: TransportCall) -> AsyncIterator[bytes]:
            context = RequestContext(call)
            self._calls += counted
            try:
                if self._calls > self.calls_max and counted:
                    raise self._overloaded()
                async for frame in handler(request, context):
                    yield frame
                if context.token:
                    call.set_trailing_metadata(status.trailers_of(context.token))
            except Exception as error:
                self._refuse(error, method, context, call)
            finally:
                self._calls -= counted

        return serve

    def _add(self, service: str, name: str, method: Method) -> None:
        self.services.add(service)
        self.methods[f"/{service}/{name}"] = method

    def _overloaded(self) -> Refusal:
        return Overloaded(what="calls at once", limit=self.calls_max).with_details(retry_seconds=_RETRY_SECONDS)

    def _refuse(self, error: Exception, method: str, context: RequestContext, call: TransportCall) -> None:
        """Set code, message and trailers of a call that ends with an exception."""
        refusal = error if isinstance(error, Refusal) else internal_error(error, context.request_id, method=method)
        refused = self.to_status(refusal, context.request_id)
        call.set_code(refused.code)
        call.set_details(refused.message)
        call.set_trailing_metadata(status.trailers_of(context.token, refused))


def _counted(service: str) -> int:
    """Return 1 if calls of a service count for `calls_max`, else 0."""
    return 0 if service.startswith(_UNCOUNTED_SERVICES) else 1
