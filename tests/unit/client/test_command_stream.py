"""The command stream, against a server that ends streams at points that a real server cannot be made to hit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from diptych.client import CallRefused, Connection, with_context
from diptych.v1 import commands_pb2
from shop.v1.user_commands_pb2 import RegisterUserRequest

Ending = Callable[["Scripted", Any], Any]


class Scripted:
    """Server that answers commands as the contract says and ends each stream as scripted."""

    def __init__(self, *endings: tuple[int, Ending]) -> None:
        self.endings = list(endings)
        self.received: list[str] = []
        self.first: dict[str, int] = {}
        self.streams = 0

    async def execute(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.streams += 1
        answers, end = self.endings.pop(0) if self.endings else (1 << 30, ended_cleanly)
        async for data in requests:
            if answers == 0:
                await end(self, context)
                return
            answers -= 1
            response = commands_pb2.ExecuteResponse()
            for envelope in commands_pb2.ExecuteRequest.FromString(data).commands:
                request_id = envelope.context.request_id
                self.received.append(request_id)
                version = self.first.setdefault(request_id, len(self.first) + 1)
                response.outcomes.add().result.version = version
            yield response.SerializeToString()


async def ended_cleanly(_: Scripted, context: Any) -> None:
    """End the stream with status OK, as a server that stops."""


async def lost(_: Scripted, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "lost")


async def cancelled(_: Scripted, context: Any) -> None:
    await context.abort(grpc.StatusCode.CANCELLED, "cancelled")


async def refused(_: Scripted, context: Any) -> None:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "malformed")


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Scripted], Any]]:
    servers = []

    async def start(script: Scripted) -> str:
        server = grpc.aio.server()
        handler: Any = grpc.stream_stream_rpc_method_handler(script.execute)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("diptych.v1.CommandStreamService", {"Execute": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        await server.stop(0)


def register(number: int) -> RegisterUserRequest:
    return RegisterUserRequest(user_id=f"user-{number}")


@pytest.mark.parametrize("end", [ended_cleanly, lost, cancelled])
@pytest.mark.parametrize("window", [1, 3, 50])
async def test_every_message_has_its_response_in_order_after_any_lost_connection(
    end: Ending, window: int, serve: Callable[[Scripted], Any]
) -> None:
    script = Scripted((0, end), (1, end), (7, end), (0, end), (5, end))
    async with Connection(await serve(script)) as shop, shop.command_stream(window=window) as stream:
        answers = [await stream.submit([register(number)]) for number in range(40)]
        versions = [outcome.version for answer in answers for outcome in await answer]  # type: ignore[union-attr]
    assert versions == list(range(1, 41))
    assert script.streams == 6
    assert list(dict.fromkeys(script.received)) == list(script.first), "repeats keep the order"


async def test_stream_fails_when_the_server_refuses_it(serve: Callable[[Scripted], Any]) -> None:
    # Several, as gRPC can hide a stream's status behind a write that comes too late; the client then tries again.
    script = Scripted((1, refused), *[(0, refused)] * 20)
    async with Connection(await serve(script)) as shop, shop.command_stream() as stream:
        good, bad = await stream.submit([register(1)]), await stream.submit([register(2)])
        assert len(await good) == 1
        with pytest.raises(CallRefused, match="INVALID_ARGUMENT: malformed"):
            await bad


async def test_leaving_the_block_waits_for_all_responses(serve: Callable[[Scripted], Any]) -> None:
    async with Connection(await serve(Scripted((3, lost)))) as shop:
        async with shop.command_stream() as stream:
            answers = [await stream.submit([register(number)]) for number in range(10)]
        assert all(answer.done() for answer in answers)
        with pytest.raises(ValueError, match="closed"):
            await stream.submit([register(11)])


async def test_bug_closing_a_command_stream_failed_just_after_its_end(
    serve: Callable[[Scripted], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that the error of gRPC core for a half-close after the end is ignored."""
    async with Connection(await serve(Scripted())) as shop:
        async with shop.command_stream() as stream:
            connect = stream._method

            def connected(**options: Any) -> Any:
                call = connect(**options)
                done_writing = call.done_writing

                async def too_late() -> None:
                    await done_writing()
                    raise grpc.aio.InternalError('Failed "execute_batch"')

                monkeypatch.setattr(call, "done_writing", too_late)
                return call

            monkeypatch.setattr(stream, "_method", connected)
            answer = await stream.submit([register(1)])
        assert len(await answer) == 1


async def test_idle_stream_continues_on_the_same_connection(serve: Callable[[Scripted], Any]) -> None:
    script = Scripted()
    async with Connection(await serve(script)) as shop, shop.command_stream() as stream:
        for number in range(5):
            assert len(await (await stream.submit([register(number)]))) == 1
    assert script.streams == 1


async def test_submit_refuses_too_many_commands_in_a_message(serve: Callable[[Scripted], Any]) -> None:
    async with Connection(await serve(Scripted())) as shop, shop.command_stream() as stream:
        with pytest.raises(ValueError, match="1000 commands at most, not 1001"):
            await stream.submit([register(number) for number in range(1001)])


async def test_submit_sends_envelopes_unchanged(serve: Callable[[Scripted], Any]) -> None:
    script = Scripted()
    async with Connection(await serve(script)) as shop, shop.command_stream() as stream:
        command = with_context(register(1), request_id="mine")
        envelope = commands_pb2.CommandEnvelope(context=commands_pb2.CommandContext(request_id="yours"))
        envelope.command.Pack(command)
        await (await stream.submit([command, envelope]))
    assert script.received == ["mine", "yours"]
