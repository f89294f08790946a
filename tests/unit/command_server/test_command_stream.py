"""Command streams whose clients read nothing: what they hold in memory stays within limits in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from command_server.byte_limits import ByteLimit
from command_server.command_service import CommandService
from command_server.command_stream import CommandStreamService
from command_server.event_tail import EventTail
from command_server.submission import Submission
from command_server.writer import Writer
from diptych.contract.reasons import LogUnavailable
from diptych.contract.token import LogIdentity
from diptych.domain.refusal import FailedPrecondition, Refusal, StatusCode
from diptych.server.router import Router
from diptych.server.settings import CommandServerSettings
from diptych.v1.commands_pb2 import ExecuteResponse
from shop.v1.user_commands_pb2 import RegisterUserRequest
from tests.support.batch_desk import SHOP, register
from tests.support.command_calls import envelopes
from tests.support.polling import eventually
from tests.support.transport_call import TransportCallStub

MESSAGE = envelopes(*[register(f"u{n}", username="x" * 60) for n in range(10)]).SerializeToString()
SIZE = len(MESSAGE) + 10 * 1024


class WriterStub:
    """A writer that refuses every command: at once, or when the test says so."""

    def __init__(self) -> None:
        self.decides = True
        self.queue: list[Submission] = []
        self.refusal_of: Callable[[Submission], Refusal] = lambda one: LogUnavailable(cause="planted")

    def submit(self, submission: Submission) -> None:
        self.queue.append(submission)
        if self.decides:
            self.decide()

    def decide(self) -> None:
        queue, self.queue = self.queue, []
        for one in queue:
            one.refusal = self.refusal_of(one)
            asyncio.get_running_loop().call_soon(one.done)

    async def wait_for_room(self) -> None:
        await asyncio.sleep(0)


class Stage:
    """The services of commands, with a writer of the test."""

    def __init__(self, **settings: int) -> None:
        limits = CommandServerSettings.model_validate(settings)
        self.writer = WriterStub()
        self.commands = ByteLimit("bytes of waiting commands", limits.commands_bytes_max)
        self.router = Router("shop")
        writer = cast("Writer", self.writer)
        tail = cast("EventTail", type("Tail", (), {"identity": LogIdentity.new()})())
        CommandService(SHOP, writer, tail, self.router, self.commands)
        self.service = CommandStreamService(SHOP, writer, tail, self.router, limits, self.commands)
        self.messages_read = 0

    async def endless(self) -> AsyncIterator[bytes]:
        """Yield request messages without an end."""
        while True:
            self.messages_read += 1
            yield MESSAGE
            await asyncio.sleep(0)

    def execute(self, call: TransportCallStub | None = None) -> Any:
        serve = self.router.methods["/diptych.v1.CommandStreamService/Execute"].serve
        return serve(self.endless(), call or TransportCallStub())

    async def first_response(self) -> bytes:
        """Return the first response of a new stream; empty if it is refused."""
        stream = self.execute()
        response: bytes = await anext(stream, b"")
        await stream.aclose()
        return response

    async def call(self, command: RegisterUserRequest) -> TransportCallStub:
        call = TransportCallStub()
        await self.router.methods["/shop.v1.CommandService/RegisterUser"].serve(command.SerializeToString(), call)
        return call


async def test_bug_a_stream_that_is_not_read_kept_its_commands() -> None:
    stage = Stage(stream_bytes_max=5 * SIZE)
    stream = stage.execute()
    assert await anext(stream)
    for _ in range(5000):  # It would read 64 messages.
        await asyncio.sleep(0)
    held = stage.messages_read
    assert 5 <= held < 40, "outcomes take less than commands"
    assert stage.commands.used == 0, "commands with outcomes are dropped"
    for _ in range(60):
        assert await anext(stream)
    assert stage.messages_read > held
    await stream.aclose()


async def test_all_streams_together_hold_half_of_the_limit_and_single_calls_the_rest() -> None:
    stage = Stage(commands_bytes_max=40 * SIZE)
    stage.writer.decides = False
    readers = [asyncio.ensure_future(anext(stage.execute())) for _ in range(8)]
    for _ in range(500):
        await asyncio.sleep(0)
    assert 15 * SIZE < stage.commands.used < 25 * SIZE
    large = register("large", username="x" * 60)
    small = asyncio.ensure_future(stage.call(large))
    await eventually(lambda: any(one.ref.id == "large" for one in stage.writer.queue))
    stage.commands.add(20 * SIZE)
    assert (await stage.call(large)).reason == "OVERLOADED"
    stage.commands.release(20 * SIZE)
    stage.writer.decides = True
    stage.writer.decide()
    assert (await small).reason == "LOG_UNAVAILABLE"
    assert all(await asyncio.gather(*readers))


async def test_unread_outcomes_of_all_streams_hold_back_only_their_own_streams_at_first() -> None:
    stage = Stage(outcomes_bytes_max=1024)
    unread = [stage.execute() for _ in range(2)]
    for stream in unread:
        assert await anext(stream)
    for _ in range(200):
        await asyncio.sleep(0)
    assert stage.messages_read < 10
    refused = TransportCallStub()
    assert [one async for one in stage.execute(refused)] == []
    assert refused.reason == "OVERLOADED"
    for stream in unread:
        await stream.aclose()
    await eventually(stage.first_response, what="the next stream is served")


class Broken(FailedPrecondition):
    """A refusal whose field fails to render."""

    message = "It is {thing}."
    thing: object


class Unprintable:
    """A value without a text."""

    def __str__(self) -> str:
        raise KeyError("account")


async def test_refusal_that_fails_to_render_is_internal_under_its_own_request_id() -> None:
    stage = Stage()
    broken = Broken(thing=Unprintable())
    stage.writer.refusal_of = lambda one: broken if one.request_id == "r1" else LogUnavailable(cause="planted")

    async def requests() -> AsyncIterator[bytes]:
        yield envelopes(register("ada", request_id="r1"), register("ben", request_id="r2")).SerializeToString()

    serve = stage.router.methods["/diptych.v1.CommandStreamService/Execute"].serve
    (response,) = [frame async for frame in serve(requests(), TransportCallStub())]
    first, second = (outcome.error for outcome in ExecuteResponse.FromString(response).outcomes)
    assert (first.code, "'r1'" in first.message) == (StatusCode.INTERNAL, True)
    assert second.code == StatusCode.UNAVAILABLE
