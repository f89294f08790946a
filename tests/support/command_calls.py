"""A command server in a process of its own, and calls of it that are told as they came over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from diptych.contract.token import METADATA_KEY
from diptych.v1.commands_pb2 import CommandOutcome, CommandResult, ExecuteRequest, ExecuteResponse
from tests.support.programs import Server

M = TypeVar("M", bound=Message)
Metadata = Sequence[tuple[str, str]]


class StreamEnded(Exception):
    """A stream ended where a message was awaited."""


class Answer:
    """How a call ended: with a response, or with a status and its details."""

    def __init__(
        self, code: grpc.StatusCode, message: str, trailers: Sequence[tuple[str, Any]], response: bytes = b""
    ) -> None:
        self.code = code
        self.message = message
        self.response = response
        self.token = ""
        self.status = status_pb2.Status()
        for key, value in trailers:
            if key == METADATA_KEY:
                self.token = value
            elif key == "grpc-status-details-bin":
                self.status = status_pb2.Status.FromString(value)

    @classmethod
    async def of(cls, call: Any) -> Answer:
        """The answer of a call that has ended, or fails now."""
        trailers = await call.trailing_metadata() or ()
        return cls(await call.code(), await call.details() or "", tuple(trailers))

    def detail(self, kind: type[M]) -> M | None:
        """The status detail of a type, if there is one."""
        return detail(self.status, kind)

    @property
    def result(self) -> CommandResult:
        """The `result` of a command's response, in field 1 as that of an outcome is."""
        assert self.code is grpc.StatusCode.OK, self.message
        return CommandOutcome.FromString(self.response).result

    @property
    def reason(self) -> tuple[str, str, str]:
        """Code, `ErrorInfo` domain and reason; for any refusal, also that the status tells the same as the trailers."""
        assert self.status.code == self.code.value[0], self.message
        assert self.status.message == self.message
        return (self.code.name, *info_of(self.status)[:2])

    @property
    def metadata(self) -> dict[str, str]:
        """`ErrorInfo` metadata."""
        return info_of(self.status)[2]

    @property
    def fields(self) -> list[str]:
        """The field paths of a `BadRequest`."""
        bad = self.detail(error_details_pb2.BadRequest)
        return sorted(one.field for one in bad.field_violations) if bad is not None else []

    @property
    def retry_seconds(self) -> float | None:
        """The delay of a `RetryInfo`."""
        retry = self.detail(error_details_pb2.RetryInfo)
        return retry.retry_delay.ToNanoseconds() / 1e9 if retry is not None else None


def detail(status: status_pb2.Status, kind: type[M]) -> M | None:
    """The detail of a type in a status, if there is one."""
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def info_of(status: status_pb2.Status) -> tuple[str, str, dict[str, str]]:
    """Domain, reason and metadata of the `ErrorInfo` in a status."""
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info is not None, f"a refusal has an ErrorInfo: {status}"
    return info.domain, info.reason, dict(info.metadata)


class Client:
    """Calls by method name, with bytes as they are."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def call(
        self, method: str, request: Message | bytes, *, metadata: Metadata = (), seconds: float = 20
    ) -> Answer:
        """Makes a unary call and returns how it ended."""
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
        """Sends a command of the shop by its rpc."""
        name = command.DESCRIPTOR.name.removesuffix("Request")
        return await self.call(f"shop.v1.CommandService/{name}", command, metadata=metadata, seconds=seconds)

    def stream(
        self, method: str, request: Message | bytes, *, metadata: Metadata = (), seconds: float | None = 20
    ) -> Any:
        """Opens a call that answers with a stream of bytes."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        rpc: Any = self.channel.unary_stream(f"/{method}")
        return rpc(data, metadata=tuple(metadata), timeout=seconds)

    def execute(self, *, metadata: Metadata = (), seconds: float | None = 20) -> Any:
        """Opens a command stream."""
        return self.channel.stream_stream("/diptych.v1.CommandStreamService/Execute")(
            metadata=tuple(metadata), timeout=seconds
        )


def envelopes(*commands: Message) -> ExecuteRequest:
    """A message of commands."""
    request = ExecuteRequest()
    for command in commands:
        request.commands.add().command.Pack(command)
    return request


async def next_outcomes(call: Any) -> list[Any]:
    """The outcomes in the next message of a command stream."""
    data = await call.read()
    if data is grpc.aio.EOF:
        raise StreamEnded(await call.details())
    return list(ExecuteResponse.FromString(data).outcomes)


@contextmanager
def command_server(folder: Path, *arguments: str) -> Iterator[Server]:
    """A command server of the shop that is ready."""
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
    """A client of a command server."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        yield Client(channel)
