"""Pipelined streams of commands, which continue after a restart of the command server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import status_pb2

from diptych.client.calls import retrying
from diptych.client.errors import CallRefused
from diptych.domain.ids import new_id
from diptych.v1 import commands_pb2

Outcome: TypeAlias = "commands_pb2.CommandResult | CallRefused"
"""The result or the refusal of one command of a stream."""

COMMANDS_TO_A_MESSAGE = 1000
"""The limit on the commands in one message of a stream."""

_END_CODES = (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL)
"""Statuses, beside UNAVAILABLE, of a stream whose server stops. gRPC reports INTERNAL, without a reason of ours, for a
write after the end of the stream, for every status of the stream."""


class _UnansweredMessage(NamedTuple):
    """A message of a stream without a response, and the future for its outcomes."""

    request: commands_pb2.ExecuteRequest
    outcomes: asyncio.Future[list[Outcome]]


class CommandStream:
    """A pipelined stream of commands; made by `Connection.command_stream`.

    The stream connects when the first message is submitted. When the connection is lost:

    1. It connects again, with backoff.
    2. It writes all unanswered messages again, in their order and under the same request ids.
    3. Responses come in the order of the messages, so each one answers the oldest unanswered message.

    It fails if no response has come for `retry_seconds`, or if the server refuses the stream.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        window: int,
        retry_seconds: float,
        metadata: Sequence[tuple[str, str]],
        on_token: Callable[[str], None],
    ) -> None:
        self._method = channel.stream_stream(
            "/diptych.v1.CommandStreamService/Execute",
            request_serializer=commands_pb2.ExecuteRequest.SerializeToString,
            response_deserializer=commands_pb2.ExecuteResponse.FromString,
        )
        self._metadata = tuple(metadata)
        self._retry_seconds = retry_seconds
        self._on_token = on_token
        self._slots = asyncio.Semaphore(window)
        self._unanswered: deque[_UnansweredMessage] = deque()
        self._written = 0
        """The number of unanswered messages that were written to the current connection."""
        self._changed = asyncio.Event()
        self._closing = False
        self._failure: Exception | None = None
        self._running = asyncio.create_task(self._run())

    async def submit(self, commands: Sequence[Message | commands_pb2.CommandEnvelope]) -> asyncio.Future[list[Outcome]]:
        """Send commands as one message, and return the future of their outcomes, in their order.

        Waits while the window is full. Commands of one aggregate are decided in the order of submission. Cancelling
        it sends nothing; cancelling the future does not cancel the commands.

        Args:
            commands: At most 1,000 commands. One without a request id gets a new one.

        Raises:
            CallRefused: The stream has failed. The future raises it, too, for messages without a response.
            ValueError: There are too many commands, or the stream is closed.
        """
        if len(commands) > COMMANDS_TO_A_MESSAGE:
            raise ValueError(f"A message holds {COMMANDS_TO_A_MESSAGE} commands at most, not {len(commands)}.")
        if self._closing:
            raise ValueError("The command stream is closed.")
        request = commands_pb2.ExecuteRequest(commands=[_envelope(command) for command in commands])
        await self._slots.acquire()
        if self._failure is not None:
            self._slots.release()
            raise self._failure
        message = _UnansweredMessage(request, asyncio.get_running_loop().create_future())
        self._unanswered.append(message)
        self._changed.set()
        return message.outcomes

    async def close(self) -> None:
        """Wait until every message has a response or has failed, and end the stream."""
        self._closing = True
        self._changed.set()
        await self._running

    async def abandon(self) -> None:
        """End the stream now, and cancel the futures of messages without a response."""
        self._closing = True
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running
        while self._unanswered:
            self._unanswered.popleft().outcomes.cancel()

    async def _run(self) -> None:
        """Connect, again and again, until the stream is closed and all messages have responses."""
        while not (self._closing and not self._unanswered):
            if not self._unanswered:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                await retrying(self._retry_seconds)(self._connect)
            except CallRefused as refused:
                self._fail(refused)
                return
            except Exception as error:  # A defect; callers that await outcomes must not wait for ever.
                self._fail(error)
                raise

    async def _connect(self) -> None:
        """Write messages and read responses over one connection, until it ends.

        Raises:
            CallRefused: The server refused the stream, or the connection ended without any response.
        """
        call = self._method(metadata=self._metadata)
        self._written = 0
        responses = 0
        writing = asyncio.create_task(self._write(call))
        try:
            while isinstance(response := await call.read(), commands_pb2.ExecuteResponse):
                self._on_response(response)
                responses += 1
            refused = CallRefused(status_pb2.Status(code=(await call.code()).value[0], message=await call.details()))
        except grpc.aio.AioRpcError as error:
            refused = CallRefused.of(error)
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
            call.cancel()
        if not self._unanswered:
            return
        if refused.code in _END_CODES and not refused.reason:
            refused = CallRefused(status_pb2.Status(code=14, message="The command server ended the stream."))
        if refused.code is not grpc.StatusCode.UNAVAILABLE or not responses:
            raise refused

    async def _write(self, call: Any) -> None:
        """Write messages as they are submitted, until the stream is closed."""
        try:
            while True:
                while self._written < len(self._unanswered):
                    request = self._unanswered[self._written].request
                    self._written += 1
                    await call.write(request)
                if self._closing:
                    await call.done_writing()
                    return
                self._changed.clear()
                await self._changed.wait()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            return  # The reader gets the same error and handles it.

    def _on_response(self, response: commands_pb2.ExecuteResponse) -> None:
        message = self._unanswered.popleft()
        self._written -= 1
        self._slots.release()
        outcomes: list[Outcome] = []
        for outcome in response.outcomes:
            if outcome.HasField("error"):
                outcomes.append(CallRefused(outcome.error))
            else:
                outcomes.append(outcome.result)
                self._on_token(outcome.result.token)
        if not message.outcomes.done():
            message.outcomes.set_result(outcomes)

    def _fail(self, error: Exception) -> None:
        """Fail all messages without a response, and every later one."""
        self._failure = error
        while self._unanswered:
            outcomes = self._unanswered.popleft().outcomes
            if not outcomes.done():
                outcomes.set_exception(error)
                outcomes.exception()  # Retrieved, so that asyncio does not log it for a future that nobody awaits.
            self._slots.release()


def _envelope(command: Message | commands_pb2.CommandEnvelope) -> commands_pb2.CommandEnvelope:
    """Return the envelope of a command, with a request id."""
    envelope = commands_pb2.CommandEnvelope()
    if isinstance(command, commands_pb2.CommandEnvelope):
        envelope.CopyFrom(command)
    else:
        envelope.command.Pack(command)
        envelope.context.CopyFrom(command.context)  # type: ignore[attr-defined]
    if not envelope.context.request_id:
        envelope.context.request_id = new_id()
    return envelope
