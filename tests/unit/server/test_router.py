"""The router: handlers behind a transport of the test's own, without gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import diptych.v1.events_pb2  # noqa: F401 - the descriptors of SERVICE.
from diptych.contract.reasons import VersionNotReached
from diptych.server import errors
from diptych.server.errors import StartError
from diptych.server.request_context import RequestContext
from diptych.server.router import Kind, Router
from tests.support.transport_call import TransportCallStub

SERVICE = "diptych.v1.EventService"


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


async def answer(made: Router, method: str, data: bytes, call: TransportCallStub) -> bytes:
    response: bytes = await made.methods[f"/{SERVICE}/{method}"].serve(data, call)
    return response


async def test_answer_has_the_handlers_token_in_its_trailers() -> None:
    call = TransportCallStub()
    assert await answer(router(Echo=echo), "Echo", b"data", call) == b"data"
    assert (call.code, call.trailers) == (0, {"diptych-token": "TOKEN"})


async def test_answer_without_a_token_has_no_trailers() -> None:
    async def plain(data: bytes, context: RequestContext) -> bytes:
        return data

    call = TransportCallStub()
    await answer(router(Plain=plain), "Plain", b"", call)
    assert call.trailers == {}


async def test_refusal_has_its_status_and_the_handlers_token() -> None:
    call = TransportCallStub()
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
    call = TransportCallStub(("diptych-request-id", "r1"))
    await answer(router(Fail=fail), "Fail", b"", call)
    assert call.reason == "INTERNAL"
    assert "a defect" not in call.details
    assert [(one["event"], one["request_id"], one["method"]) for one in logged] == [
        ("unexpected exception", "r1", "Fail")
    ]


async def test_stream_has_the_handlers_token_when_it_ends() -> None:
    made = Router("test.v1")
    made.bind_stream(SERVICE, "Count", count)
    call = TransportCallStub()
    method = made.methods[f"/{SERVICE}/Count"]
    assert method.kind is Kind.STREAM
    assert await all_of(method.serve(b"", call)) == [b"\0", b"\1", b"\2"]
    assert call.trailers == {"diptych-token": "TOKEN"}


async def test_duplex_stream_ends_with_a_refusal() -> None:
    made = Router("test.v1")
    made.bind_duplex(SERVICE, "Double", double)
    call = TransportCallStub()
    assert await all_of(made.methods[f"/{SERVICE}/Double"].serve(stream(b"1", b"2", b"", b"3"), call)) == [b"11", b"22"]
    assert call.reason == "VERSION_NOT_REACHED"


async def test_unknown_method_is_refused_without_a_message() -> None:
    call = TransportCallStub()
    method = Router("test.v1").unknown("/nothing.v1.Service/Method")
    assert await all_of(method.serve(stream(b""), call)) == []
    assert call.reason == "METHOD_UNKNOWN"


async def test_calls_beyond_the_limit_are_refused_until_one_ends() -> None:
    made = router(Echo=echo)
    made.bind_stream(SERVICE, "Count", count)
    made.calls_max = 1
    open_stream = made.methods[f"/{SERVICE}/Count"].serve(b"", TransportCallStub())
    await anext(open_stream)
    call = TransportCallStub()
    await answer(made, "Echo", b"", call)
    assert call.reason == "OVERLOADED"
    await all_of(open_stream)
    assert await answer(made, "Echo", b"data", TransportCallStub()) == b"data"


async def test_health_and_internal_services_are_not_limited() -> None:
    made = Router("test.v1")
    made.calls_max = 0
    for service in ("grpc.health.v1.Health", "diptych.internal.v1.LogService"):
        made.bind_unary(service, "Check", echo)
        assert await made.methods[f"/{service}/Check"].serve(b"data", TransportCallStub()) == b"data"


def test_rpc_without_a_handler_fails_the_start_with_its_name() -> None:
    made = router(ReadStream=echo, GetPosition=echo)
    with pytest.raises(StartError, match=r"diptych\.v1\.EventService/Subscribe"):
        made.check_complete()
    made.bind_stream(SERVICE, "Subscribe", count)
    made.check_complete()
