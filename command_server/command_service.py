"""The services that take commands: the domain's CommandService, and CommandStreamService."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from google.protobuf.message import DecodeError

from command_server.dispatch import Caller, Dispatcher, result_bytes, valid_traceparent
from command_server.presented import presented_token
from command_server.submission import Submission
from command_server.writer import STOPPING, Writer
from diptych.contract.reasons import LogUnavailable, MalformedMessage, Overloaded
from diptych.contract.token import LogIdentity
from diptych.contract.wire import delimited
from diptych.domain.loading import LoadedDomain
from diptych.domain.methods import CommandMethod
from diptych.domain.refusal import Refusal
from diptych.server.errors import internal_error
from diptych.server.request_context import RequestContext
from diptych.server.router import Router, UnaryHandler
from diptych.server.settings import CommandServerSettings
from diptych.v1.commands_pb2 import CommandEnvelope, ExecuteRequest

SERVICE = "diptych.v1.CommandStreamService"
_TURN_SECONDS = 0.01
COMMANDS_MAX = 1000
"""Commands to a message of `Execute`."""


class CommandServices:
    """Binds every command of a domain to its rpc, and all of them to `Execute`."""

    def __init__(
        self,
        domain: LoadedDomain,
        writer: Writer,
        identity: LogIdentity,
        router: Router,
        settings: CommandServerSettings,
    ) -> None:
        self._dispatcher = Dispatcher(domain)
        self._writer = writer
        self._identity = identity
        self._zero = identity.token(0)
        self._router = router
        self._messages_max = settings.stream_messages_max
        self._reading: set[asyncio.Task[None]] = set()
        self._closing = False
        for method in domain.commands.values():
            router.bind_unary(domain.command_service, method.name, self._unary(method))
        router.bind_duplex(SERVICE, "Execute", self._execute)

    def _unary(self, method: CommandMethod) -> UnaryHandler:
        async def handle(request: bytes, context: RequestContext) -> bytes:
            caller, presented = self._caller(context)
            context.token = presented or self._zero  # For a refusal that answers at no position.
            try:
                command = self._dispatcher.parse(method, request)
                submission = self._dispatcher.submission(method, command, caller)
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

                def done() -> None:
                    if not future.done():
                        future.set_result(None)

                submission.done = done
                left = context.time_remaining()
                if left is not None:
                    submission.deadline = asyncio.get_running_loop().time() + left
                self._writer.submit(submission)
                try:
                    await future
                except asyncio.CancelledError:
                    submission.abandoned = True
                    raise
                if submission.early_refusal is not None:
                    raise submission.early_refusal
                if submission.refusal is not None:
                    context.token = max(presented, self._identity.token(submission.position))
                    raise submission.refusal
            except Refusal:
                raise
            except Exception as error:
                raise internal_error(error, caller.request_id, command=method.name) from error
            assert submission.accepted is not None
            result, token = result_bytes(submission.accepted, self._identity)
            context.token = max(presented, token)
            return delimited(1, result)

        return handle

    def _caller(self, context: RequestContext) -> tuple[Caller, str]:
        """Who calls, and the greatest token presented."""
        trace = valid_traceparent(context.traceparent)
        return Caller(context.actor, context.request_id, trace), presented_token(context, self._identity)

    async def _execute(self, requests: AsyncIterator[bytes], context: RequestContext) -> AsyncIterator[bytes]:
        caller, presented = self._caller(context)
        written = 0
        stream = _CommandStream(self._messages_max)
        reading = asyncio.create_task(self._read(requests, caller, stream))
        self._reading.add(reading)
        if self._closing:
            reading.cancel()
        try:
            async for message in stream:
                written = max(written, message.position)
                yield b"".join([self._outcome(one) for one in message.submissions])
            await asyncio.wait((reading,))
            if reading.cancelled():
                raise LogUnavailable(cause=STOPPING)
            await reading
        finally:
            context.token = max(presented, self._identity.token(written))
            self._reading.discard(reading)
            reading.cancel()
            stream.abandon()

    def close(self) -> None:
        """Reads nothing more from command streams; they end when what was read has its outcomes."""
        self._closing = True
        for reading in self._reading:
            reading.cancel()

    async def _read(self, requests: AsyncIterator[bytes], caller: Caller, stream: _CommandStream) -> None:
        try:
            async for data in requests:
                await stream.wait_for_room()
                try:
                    envelopes = ExecuteRequest.FromString(data).commands
                except DecodeError:
                    raise MalformedMessage(type=ExecuteRequest.DESCRIPTOR.full_name) from None
                if len(envelopes) > COMMANDS_MAX:
                    raise Overloaded(what="commands to a message", limit=COMMANDS_MAX)
                message = _Message(stream, len(envelopes))
                stream.put(message)
                await self._submit_all(envelopes, caller, message)
        finally:
            stream.end()

    async def _submit_all(self, envelopes: Sequence[CommandEnvelope], caller: Caller, message: _Message) -> None:
        """Submits the commands of a message, in order, as there is room for them.

        It lets others in when that takes long, as many violations do.
        """
        time = asyncio.get_running_loop().time
        until = time() + _TURN_SECONDS
        for index, envelope in enumerate(envelopes):
            try:
                await self._writer.wait_for_room()
                if time() > until:
                    await asyncio.sleep(0)
                    until = time() + _TURN_SECONDS
            except asyncio.CancelledError:
                for _ in envelopes[index:]:
                    message.add(LogUnavailable(cause=STOPPING))
                raise
            self._submit(envelope, caller, message)

    def _submit(self, envelope: CommandEnvelope, caller: Caller, message: _Message) -> None:
        packed = envelope.command
        # The metadata's request id names a whole call; in a stream each command has its own.
        caller = caller._replace(request_id="")
        try:
            method, command = self._dispatcher.parse_packed(packed.type_url, packed.value)
            context = envelope.context if envelope.HasField("context") else None
            submission = self._dispatcher.submission(method, command, caller, context)
            submission.done = message.count_down
            self._writer.submit(submission)
        except Refusal as refusal:
            message.add(refusal)
        except Exception as error:
            message.add(internal_error(error, envelope.context.request_id, command=packed.type_url))
        else:
            message.submissions.append(submission)

    def _outcome(self, submission: Submission | Refusal) -> bytes:
        """An element of `ExecuteResponse.outcomes`."""
        refusal = submission if isinstance(submission, Refusal) else submission.early_refusal or submission.refusal
        if refusal is not None:
            return delimited(1, delimited(2, self._router.to_status(refusal).SerializeToString()))
        assert isinstance(submission, Submission)
        assert submission.accepted is not None
        result, _ = result_bytes(submission.accepted, self._identity)
        return delimited(1, delimited(1, result))


class _Message:
    """The commands of one request message."""

    __slots__ = ("_pending", "_stream", "submissions")

    def __init__(self, stream: _CommandStream, count: int) -> None:
        self._stream = stream
        self._pending = count
        self.submissions: list[Submission | Refusal] = []

    @property
    def complete(self) -> bool:
        """Whether every command has its outcome."""
        return not self._pending

    @property
    def position(self) -> int:
        """The greatest position in the outcomes."""
        return max(
            (
                one.accepted.position
                for one in self.submissions
                if isinstance(one, Submission) and one.accepted and not one.early_refusal
            ),
            default=0,
        )

    def add(self, refusal: Refusal) -> None:
        """Takes a command that did not get as far as the writer."""
        self.submissions.append(refusal)
        self.count_down()

    def count_down(self) -> None:
        """Counts one command that has its outcome."""
        self._pending -= 1
        if not self._pending:
            self._stream.wake()


class _CommandStream:
    """The messages of one stream that are under way, in order."""

    def __init__(self, messages_max: int) -> None:
        self._messages: deque[_Message] = deque()
        self._messages_max = messages_max
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False

    async def wait_for_room(self) -> None:
        """Waits until fewer messages are under way than may be."""
        while len(self._messages) >= self._messages_max:
            self._room.clear()
            await self._room.wait()

    def put(self, message: _Message) -> None:
        """Takes the next message."""
        self._messages.append(message)
        if message.complete:
            self.wake()

    def end(self) -> None:
        """Says that no message comes after those that are there."""
        self._ended = True
        self.wake()

    def abandon(self) -> None:
        """Says that nobody waits for the outcomes of what is under way."""
        for message in self._messages:
            for submission in message.submissions:
                if isinstance(submission, Submission):
                    submission.abandoned = True

    def wake(self) -> None:
        """Says that something changed."""
        self._changed.set()

    def __aiter__(self) -> _CommandStream:
        return self

    async def __anext__(self) -> _Message:
        while not self._messages or not self._messages[0].complete:
            if self._ended and not self._messages:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        self._room.set()
        return self._messages.popleft()
