"""Command server of the shop as a process, and raw calls of it with status, details and trailers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from diptych.contract.token import TOKEN_KEY
from diptych.v1.commands_pb2 import CommandOutcome, CommandResult, ExecuteRequest, ExecuteResponse
from tests.support.programs import Server

M = TypeVar("M", bound=Message)
Metadata = Sequence[tuple[str, str]]


class StreamEnded(Exception):
    """A stream ended before the next message."""


class Answer:
    """End of a call: a response, or a status with its details."""

    def __init__(
        self, code: grpc.StatusCode, message: str, trailers: Sequence[tuple[str, Any]], response: bytes = b""
    ) -> None:
        self.code = code
        self.message = message
        self.response = response
        self.token = ""
        self.status = status_pb2.Status()
        for key, value in trailers:
            if key == TOKEN_KEY:
                self.token = value
            elif key == "grpc-status-details-bin":
                self.status = status_pb2.Status.FromString(value)

    @classmethod
    async def of(cls, call: Any) -> Answer:
        """Return the answer of a call, and wait for its end."""
        trailers = await call.trailing_metadata() or ()
        return cls(await call.code(), await call.details() or "", tuple(trailers))

    def detail(self, kind: type[M]) -> M | None:
        """Return the status detail of a type, or None."""
        return detail(self.status, kind)

    @property
    def result(self) -> CommandResult:
        """The `result` of a command's response. It is in field 1, like that of an outcome."""
        assert self.code is grpc.StatusCode.OK, self.message
        return CommandOutcome.FromString(self.response).result

    @property
    def reason(self) -> tuple[str, str, str]:
        """Code, `ErrorInfo` domain and reason. Checks that a refusal's status agrees with its trailers."""
        assert self.status.code == self.code.value[0], self.message
        assert self.status.message == self.message
        return (self.code.name, *info_of(self.status)[:2])

    @property
    def metadata(self) -> dict[str, str]:
        """`ErrorInfo` metadata."""
        return info_of(self.status)[2]

    @property
    def fields(self) -> list[str]:
        """Field paths of a `BadRequest`, sorted."""
        bad = self.detail(error_details_pb2.BadRequest)
        return sorted(one.field for one in bad.field_violations) if bad is not None else []

    @property
    def retry_seconds(self) -> float | None:
        """Delay of a `RetryInfo` in seconds, or None."""
        retry = self.detail(error_details_pb2.RetryInfo)
        return retry.retry_delay.ToNanoseconds() / 1e9 if retry is not None else None


def detail(status: status_pb2.Status, kind: type[M]) -> M | None:
    """Return the detail of a type in a status, or None."""
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def info_of(status: status_pb2.Status) -> tuple[str, str, dict[str, str]]:
    """Return domain, reason and metadata of the `ErrorInfo` in a status."""
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info is not None, f"a refusal has an ErrorInfo: {status}"
    return info.domain, info.reason, dict(info.metadata)


class Client:
    """Calls by method name, with requests and responses as bytes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def call(
        self, method: str, request: Message | bytes, *, metadata: Metadata = (), seconds: float = 20
    ) -> Answer:
        """Make a unary call and return its end."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        rpc: Any = self.channel.unary_unary(f"/{method}")
        call = rpc(data, metadata=tuple(metadata), timeout=seconds)
        try:
            response: Any = await call
        except grpc.aio.AioRpcError:
            response = b""
        answer = await Answer.of(call)
        answer.response = response
        return answer

    async def command(self, command: Message, *, metadata: Metadata = (), seconds: float = 20) -> Answer:
        """Send a command of the shop by its rpc."""
        name = command.DESCRIPTOR.name.removesuffix("Request")
        return await self.call(f"shop.v1.CommandService/{name}", command, metadata=metadata, seconds=seconds)

    def stream(
        self, method: str, request: Message | bytes, *, metadata: Metadata = (), seconds: float | None = 20
    ) -> Any:
        """Open a call that answers with a stream of bytes."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        rpc: Any = self.channel.unary_stream(f"/{method}")
        return rpc(data, metadata=tuple(metadata), timeout=seconds)

    def execute(self, *, metadata: Metadata = (), seconds: float | None = 20) -> Any:
        """Open a command stream."""
        return self.channel.stream_stream("/diptych.v1.CommandStreamService/Execute")(
            metadata=tuple(metadata), timeout=seconds
        )


def envelopes(*commands: Message) -> ExecuteRequest:
    """Return a message of commands."""
    request = ExecuteRequest()
    for command in commands:
        request.commands.add().command.Pack(command)
    return request


async def next_outcomes(call: Any) -> list[Any]:
    """Return the outcomes in the next message of a command stream."""
    data = await call.read()
    if data is grpc.aio.EOF:
        raise StreamEnded(await call.details())
    return list(ExecuteResponse.FromString(data).outcomes)


@contextmanager
def command_server(folder: Path, *arguments: str) -> Iterator[Server]:
    """Start a command server of the shop, and close it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(
        "command-server",
        "--domain=shop",
        f"--log=sqlite:///{folder / 'log.db'}",
        *arguments,
        log=folder.parent / f"{folder.name}.log",
    )
    try:
        server.start()
        yield server
    finally:
        server.close()


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    """Connect to a command server."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        yield Client(channel)
