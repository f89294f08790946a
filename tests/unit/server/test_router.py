"""The router: handlers behind a transport of the test's own, without gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2

import diptych.v1.events_pb2  # noqa: F401 - the descriptors of SERVICE.
from diptych.contract.reasons import VersionNotReached
from diptych.server import errors
from diptych.server.errors import StartError
from diptych.server.request_context import RequestContext, Trailers
from diptych.server.router import Kind, Router

SERVICE = "diptych.v1.EventService"


class Call:
    """A call of a transport that keeps its outcome."""

    def __init__(self, *metadata: tuple[str, str | bytes], seconds: float | None = None) -> None:
        self._metadata = metadata
        self._seconds = seconds
        self.metadata_reads = 0
        self.code = 0
        self.details = ""
        self.trailers: dict[str, str | bytes] = {}
        self.callbacks: list[Callable[[Any], None]] = []

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        self.metadata_reads += 1
        return self._metadata

    def time_remaining(self) -> float | None:
        return self._seconds

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def set_trailing_metadata(self, trailing_metadata: Trailers) -> None:
        self.trailers = dict(trailing_metadata)

    def set_code(self, code: int) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    @property
    def reason(self) -> str:
        """Reason of the refusal in the trailers."""
        data = self.trailers["grpc-status-details-bin"]
        assert isinstance(data, bytes)
        info = error_details_pb2.ErrorInfo()
        assert status_pb2.Status.FromString(data).details[0].Unpack(info)
        return info.reason


async def echo(data: bytes, context: RequestContext) -> bytes:
    context.token = "TOKEN"
    return data


async def refuse(data: bytes, context: RequestContext) -> bytes:
    context.token = "TOKEN"
    raise VersionNotReached(aggregate="user/ada", version=2)


async def fail(data: bytes, context: RequestContext) -> bytes:
    raise ValueError("a defect")


async def count(data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
    for number in range(3):
        yield bytes([number])
    context.token = "TOKEN"


async def double(requests: AsyncIterator[bytes], context: RequestContext) -> AsyncIterator[bytes]:
    async for data in requests:
        if not data:
            raise VersionNotReached(aggregate="user/ada", version=2)
        yield data * 2


async def stream(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def all_of(frames: AsyncIterator[bytes]) -> list[bytes]:
    return [frame async for frame in frames]


def router(**unary: Any) -> Router:
    made = Router("test.v1")
    for name, handler in unary.items():
        made.bind_unary(SERVICE, name, handler)
    return made


async def answer(made: Router, method: str, data: bytes, call: Call) -> bytes:
    response: bytes = await made.methods[f"/{SERVICE}/{method}"].serve(data, call)
    return response


async def test_answer_has_the_handlers_token_in_its_trailers() -> None:
    call = Call()
    assert await answer(router(Echo=echo), "Echo", b"data", call) == b"data"
    assert (call.code, call.trailers) == (0, {"diptych-token": "TOKEN"})


async def test_answer_without_a_token_has_no_trailers() -> None:
    async def plain(data: bytes, context: RequestContext) -> bytes:
        return data

    call = Call()
    await answer(router(Plain=plain), "Plain", b"", call)
    assert call.trailers == {}


async def test_refusal_has_its_status_and_the_handlers_token() -> None:
    call = Call()
    assert await answer(router(Refuse=refuse), "Refuse", b"", call) == b""
    assert (call.code, call.reason) == (VersionNotReached.status, "VERSION_NOT_REACHED")
    assert call.details
    assert call.trailers["diptych-token"] == "TOKEN"


async def test_defect_is_logged_and_refused_as_internal(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = []

    class Log:
        def error(self, event: str, **fields: Any) -> None:
            logged.append({"event": event, **fields})

    monkeypatch.setattr(errors, "_log", Log())
    call = Call(("diptych-request-id", "r1"))
    await answer(router(Fail=fail), "Fail", b"", call)
    assert call.reason == "INTERNAL"
    assert "a defect" not in call.details
    assert [(one["event"], one["request_id"], one["method"]) for one in logged] == [
        ("unexpected exception", "r1", "Fail")
    ]


async def test_stream_has_the_handlers_token_when_it_ends() -> None:
    made = Router("test.v1")
    made.bind_stream(SERVICE, "Count", count)
    call = Call()
    method = made.methods[f"/{SERVICE}/Count"]
    assert method.kind is Kind.STREAM
    assert await all_of(method.serve(b"", call)) == [b"\0", b"\1", b"\2"]
    assert call.trailers == {"diptych-token": "TOKEN"}


async def test_duplex_stream_ends_with_a_refusal() -> None:
    made = Router("test.v1")
    made.bind_duplex(SERVICE, "Double", double)
    call = Call()
    assert await all_of(made.methods[f"/{SERVICE}/Double"].serve(stream(b"1", b"2", b"", b"3"), call)) == [b"11", b"22"]
    assert call.reason == "VERSION_NOT_REACHED"


async def test_unknown_method_is_refused_without_a_message() -> None:
    call = Call()
    method = Router("test.v1").unknown("/nothing.v1.Service/Method")
    assert await all_of(method.serve(stream(b""), call)) == []
    assert call.reason == "METHOD_UNKNOWN"


async def test_calls_beyond_the_limit_are_refused_until_one_ends() -> None:
    made = router(Echo=echo)
    made.bind_stream(SERVICE, "Count", count)
    made.calls_max = 1
    open_stream = made.methods[f"/{SERVICE}/Count"].serve(b"", Call())
    await anext(open_stream)
    call = Call()
    await answer(made, "Echo", b"", call)
    assert call.reason == "OVERLOADED"
    await all_of(open_stream)
    assert await answer(made, "Echo", b"data", Call()) == b"data"


async def test_health_and_internal_services_are_not_limited() -> None:
    made = Router("test.v1")
    made.calls_max = 0
    for service in ("grpc.health.v1.Health", "diptych.internal.v1.LogService"):
        made.bind_unary(service, "Check", echo)
        assert await made.methods[f"/{service}/Check"].serve(b"data", Call()) == b"data"


def test_rpc_without_a_handler_fails_the_start_with_its_name() -> None:
    made = router(ReadStream=echo, GetPosition=echo)
    with pytest.raises(StartError, match=r"diptych\.v1\.EventService/Subscribe"):
        made.check_complete()
    made.bind_stream(SERVICE, "Subscribe", count)
    made.check_complete()
