"""The references E and P: a bare `grpc.aio` server on uvloop, which answers with so many bytes and does nothing else.

`/benchmarks.Echo/Unary120` answers every request with 120 bytes, `/benchmarks.Echo/Stream120` every message of a
stream with 120 bytes, so that each has the sizes of the call that it stands beside. `/benchmarks.Echo/Told120` is the
first with a token in its trailers, as every answer of ours has one: what is left of E for a server that does no more.
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

from diptych.contract.token import METADATA_KEY, TOKEN_LENGTH

_PREFIX = "/benchmarks.Echo/"
_TRAILERS = ((METADATA_KEY, "0" * TOKEN_LENGTH),)


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

    async def told(request: bytes, context: Any) -> bytes:
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
    return make(told if kind == "Told" else reply)


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
