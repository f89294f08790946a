"""The router: handlers behind a transport of the test's own, without gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import Message

import diptych.v1.events_pb2  # noqa: F401 - the descriptors of SERVICE.
from diptych.contract.reasons import InternalError, VersionNotReached
from diptych.domain.refusal import FailedPrecondition, Refusal, StatusCode
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


class Broken(FailedPrecondition):
    """A refusal whose field fails to render."""

    message = "It is {thing}."
    thing: object


class Unprintable:
    """A value without a text."""

    def __str__(self) -> str:
        raise KeyError("account")


class BrokenDetails(Broken):
    """A refusal whose details fail."""

    def details(self) -> Iterable[Message]:
        raise KeyError("account")


@pytest.mark.parametrize(
    "refusal",
    [Broken(thing=Unprintable()), BrokenDetails(thing=1), Broken(thing="\ud800")],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_bug_refusal_that_fails_to_render_was_answered_with_unknown_and_not_logged(
    refusal: Refusal, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(data: bytes, context: RequestContext) -> bytes:
        raise refusal

    async def refuse_stream(data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        yield b"a frame"
        raise refusal

    logged: list[dict[str, Any]] = []

    class Log:
        def error(self, event: str, **fields: Any) -> None:
            logged.append(fields)

    monkeypatch.setattr(errors, "_log", Log())
    made = router(Refuse=refuse)
    made.bind_stream(SERVICE, "RefuseStream", refuse_stream)
    call = TransportCallStub(("diptych-request-id", "r1"))
    if streamed:
        assert await all_of(made.methods[f"/{SERVICE}/RefuseStream"].serve(b"", call)) == [b"a frame"]
    else:
        assert await answer(made, "Refuse", b"", call) == b""
    assert (call.code, call.reason) == (StatusCode.INTERNAL, "INTERNAL")
    assert [(one["refusal"], one["request_id"]) for one in logged] == [(type(refusal).__name__, "r1")]
    assert isinstance(logged[0]["exc_info"], Exception)


def test_bug_command_of_a_process_refused_without_a_text_ended_the_writer() -> None:
    refusal, text, metadata = errors.rendered(Broken(thing=Unprintable()), "r1")
    assert isinstance(refusal, InternalError)
    assert (text, metadata) == (str(refusal), {"request_id": "r1"})
    kept = Broken(thing=1)
    assert errors.rendered(kept, "r1") == (kept, "It is 1.", {"thing": "1"})


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


@pytest.mark.parametrize("frames", [0, 1])
async def test_cancelled_stream_is_counted_down_once(frames: int) -> None:
    made = router(Echo=echo)
    made.bind_stream(SERVICE, "Count", count)
    made.calls_max = 1
    method = made.methods[f"/{SERVICE}/Count"]
    for _ in range(3):
        cancelled = method.serve(b"", TransportCallStub())
        for _ in range(frames):
            await anext(cancelled)
        await cancelled.aclose()
    open_stream = method.serve(b"", TransportCallStub())
    await anext(open_stream)
    call = TransportCallStub()
    await answer(made, "Echo", b"", call)
    assert call.reason == "OVERLOADED", "cancelled calls must not raise the limit"
    await all_of(open_stream)


async def test_cancelled_and_refused_calls_are_counted_down_once() -> None:
    waiting = asyncio.Event()

    async def wait(data: bytes, context: RequestContext) -> bytes:
        await waiting.wait()
        return data

    made = router(Wait=wait)
    made.bind_stream(SERVICE, "Count", count)
    made.calls_max = 1
    open_stream = made.methods[f"/{SERVICE}/Count"].serve(b"", TransportCallStub())
    await anext(open_stream)
    for _ in range(3):  # Refused as too many.
        call = TransportCallStub()
        await answer(made, "Wait", b"", call)
        assert call.reason == "OVERLOADED"
    await all_of(open_stream)
    for _ in range(3):
        task = asyncio.create_task(answer(made, "Wait", b"", TransportCallStub()))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    first = asyncio.create_task(answer(made, "Wait", b"data", TransportCallStub()))
    await asyncio.sleep(0)
    call = TransportCallStub()
    await answer(made, "Wait", b"", call)
    assert call.reason == "OVERLOADED"
    waiting.set()
    assert await first == b"data"


def test_bug_internal_error_referred_to_an_empty_request_id(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []

    class Log:
        def error(self, event: str, *, request_id: str, **fields: Any) -> None:
            logged.append(request_id)

    monkeypatch.setattr(errors, "_log", Log())
    refused = [errors.internal_error(ValueError("planted"), "") for _ in range(2)]
    assert [one.metadata["request_id"] for one in refused] == logged
    assert len(set(logged)) == 2
    assert all(logged)
