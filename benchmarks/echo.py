"""References E and P: a bare `grpc.aio` server on uvloop that answers with a given number of bytes.

`/benchmarks.Echo/Unary120` answers every request with 120 bytes, and `/benchmarks.Echo/Stream120` every message of a
stream. Each is given the sizes of the call that it is compared with. `/benchmarks.Echo/Told120` is `Unary120` with a
token in its trailers, as every answer of Diptych has one: the best ratio to E that a server with tokens can reach.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from diptych.contract.token import TOKEN_KEY, TOKEN_LENGTH

_PREFIX = "/benchmarks.Echo/"
_TRAILERS = ((TOKEN_KEY, "0" * TOKEN_LENGTH),)


class _Echo(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        name = details.method
        if name not in self._handlers:
            self._handlers[name] = _handler(name.removeprefix(_PREFIX))
        return self._handlers[name]


def _handler(name: str) -> Any:
    kind = name.rstrip("0123456789")
    answer = b"x" * int(name.removeprefix(kind))
    make: Any

    async def reply(request: bytes, context: Any) -> bytes:
        return answer

    async def reply_with_token(request: bytes, context: Any) -> bytes:
        context.invocation_metadata()
        context.set_trailing_metadata(_TRAILERS)
        return answer

    async def replies(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield answer

    if kind == "Stream":
        make = grpc.stream_stream_rpc_method_handler
        return make(replies)
    make = grpc.unary_unary_rpc_method_handler
    return make(reply_with_token if kind == "Told" else reply)


async def _serve(address: str) -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)))
    server.add_generic_rpc_handlers((_Echo(),))
    server.add_insecure_port(address)
    await server.start()
    gc.collect()
    gc.freeze()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"diptych benchmarks.echo ready address={address}", flush=True)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1].removeprefix("--address=")))
