"""gRPC as the transport of a router: the one module that serves through `grpc.aio`."""

from __future__ import annotations

from typing import Any, cast

import grpc
import grpc.aio

from diptych.server.errors import StartError
from diptych.server.port_user import describe_port_user
from diptych.server.router import Kind, Method, Router

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # Or a second start would silently share the port.
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
)

_MAKERS = {
    Kind.UNARY: grpc.unary_unary_rpc_method_handler,
    Kind.STREAM: grpc.unary_stream_rpc_method_handler,
    Kind.DUPLEX: grpc.stream_stream_rpc_method_handler,
}


class GrpcHandlers(grpc.GenericRpcHandler):
    """The methods bound to a router so far, as gRPC's handlers. It answers unknown methods too, so it comes last."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._handlers = {path: _rpc_handler(method) for path, method in router.methods.items()}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the handler of a call."""
        return self._handlers.get(details.method) or _rpc_handler(self._router.unknown(details.method))


def _rpc_handler(method: Method) -> grpc.RpcMethodHandler[Any, Any]:
    return _MAKERS[method.kind](cast("Any", method.serve))


class GrpcServer:
    """A gRPC server on one port."""

    def __init__(self, message_bytes_max: int) -> None:
        """Create a server that has no port yet.

        Args:
            message_bytes_max: Size of the largest request accepted.
        """
        self._server = grpc.aio.server(options=(*_OPTIONS, ("grpc.max_receive_message_length", message_bytes_max)))

    def bind_port(self, address: str) -> str:
        """Bind the port, and return the address with the port's number.

        Args:
            address: `HOST:PORT`; port 0 takes a free one.

        Raises:
            StartError: The port is not free.
        """
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartError(
                f"Cannot listen on {address}: {describe_port_user(address)}, or the address is not one of this "
                "machine. --address sets the address; port 0 takes a free port."
            ) from error
        return f"{address.rpartition(':')[0]}:{port}"

    async def start(self, router: Router) -> None:
        """Serve the methods of a router."""
        self._server.add_generic_rpc_handlers((GrpcHandlers(router),))
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, and cancel calls that are still under way after `grace_seconds`."""
        await self._server.stop(grace_seconds)
