"""The references E and P: a bare `grpc.aio` server on uvloop, which answers with so many bytes and does nothing else.

`/benchmarks.Echo/Unary120` answers every request with 120 bytes, `/benchmarks.Echo/Stream120` every message of a
stream with 120 bytes, so that each has the sizes of the call that it stands beside.
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

_PREFIX = "/benchmarks.Echo/"


class _Echo(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        name = details.method
        if name not in self._handlers:
            self._handlers[name] = _handler(name.removeprefix(_PREFIX))
        return self._handlers[name]


def _handler(name: str) -> Any:
    unary = name.startswith("Unary")
    answer = b"x" * int(name.removeprefix("Unary" if unary else "Stream"))
    make: Any

    async def reply(request: bytes, context: Any) -> bytes:
        return answer

    async def replies(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield answer

    if unary:
        make, call = grpc.unary_unary_rpc_method_handler, reply
        return make(call)
    make = grpc.stream_stream_rpc_method_handler
    return make(replies)


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
