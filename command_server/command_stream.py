"""CommandStreamService: any commands of the domain, in a stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from command_server.byte_limits import ByteLimit
from command_server.dispatch import Caller, Dispatcher, result_bytes
from command_server.event_tail import EventTail
from command_server.submission import Submission
from command_server.writer import STOPPING, Writer
from diptych.contract.reasons import InvalidRequest, LogUnavailable, Overloaded
from diptych.contract.validation import decode
from diptych.contract.wire import delimited
from diptych.domain.loading import LoadedDomain
from diptych.domain.refusal import Refusal
from diptych.server.errors import internal_error
from diptych.server.request_context import REQUEST_ID_KEY, RequestContext
from diptych.server.router import Router
from diptych.server.settings import CommandServerSettings
from diptych.v1.commands_pb2 import CommandEnvelope, ExecuteRequest

SERVICE = "diptych.v1.CommandStreamService"

COMMANDS_MAX = 1000
"""Commands in one message of `Execute`."""

_COMMAND_BYTES = 1024
"""Memory of a command in addition to its bytes."""

_TURN_SECONDS = 0.01
"""Longest time in which a message's commands are submitted before other tasks get a turn."""


class CommandStreamService:
    """Serves `Execute`: one response for each request message, with the outcomes in the order of the commands.

    1. A reader task takes request messages, at most `stream_messages_max` and `stream_bytes_max` at once, and submits
       their commands in order. It waits while all streams together hold too many bytes.
    2. When all commands of a message are done, their outcomes replace them in memory.
    3. The handler sends the outcomes of the oldest message.
    4. `close` ends the readers; the streams end when their messages are answered.

    Args:
        domain: The domain.
        writer: The writer of the commands.
        tail: The event tail, for the log's identity.
        router: Binds the rpc.
        settings: Limits of a stream and of all unread outcomes.
        commands: Bytes of all commands that wait for their outcomes.
    """

    def __init__(
        self,
        domain: LoadedDomain,
        writer: Writer,
        tail: EventTail,
        router: Router,
        settings: CommandServerSettings,
        commands: ByteLimit,
    ) -> None:
        self._dispatcher = Dispatcher(domain)
        self._writer = writer
        self._tail = tail
        self._router = router
        self._messages_max = settings.stream_messages_max
        self._bytes_max = settings.stream_bytes_max
        self._commands = commands
        self._outcomes = ByteLimit("bytes of unread outcomes", settings.outcomes_bytes_max)
        self._readers: set[asyncio.Task[None]] = set()
        self._closing = False
        router.bind_duplex(SERVICE, "Execute", self._execute)

    def close(self) -> None:
        """Read nothing more from the streams; they end when all that was read is answered."""
        self._closing = True
        for reader in self._readers:
            reader.cancel()

    async def _execute(self, requests: AsyncIterator[bytes], context: RequestContext) -> AsyncIterator[bytes]:
        caller = Caller.of(context)
        if caller.request_id:
            # It names a whole call. The commands would take effect again with each retry of the stream.
            identity = self._tail.identity
            context.token = context.presented_token(identity) or identity.zero_token
            raise InvalidRequest.of(
                (REQUEST_ID_KEY, "must not be in the metadata of Execute; each command's context has its request id")
            )
        written = 0
        messages = _OpenMessages(self._messages_max, self._bytes_max, self._commands, self._outcomes)
        reader = asyncio.create_task(self._read(requests, caller, messages))
        self._readers.add(reader)
        if self._closing:
            reader.cancel()
        try:
            async for message in messages:
                written = max(written, message.position)
                assert message.response is not None
                yield message.response
                messages.release(message)
            await asyncio.wait((reader,))
            if reader.cancelled():
                raise LogUnavailable(cause=STOPPING)
            await reader
        finally:
            identity = self._tail.identity
            context.token = max(context.presented_token(identity), identity.token(written))
            self._readers.discard(reader)
            reader.cancel()
            messages.abandon()

    async def _read(self, requests: AsyncIterator[bytes], caller: Caller, messages: _OpenMessages) -> None:
        try:
            async for data in requests:
                await messages.wait_for_room()
                size = len(data)
                await self._commands.wait_for(size)
                try:
                    envelopes = decode(ExecuteRequest, data).commands
                    if len(envelopes) > COMMANDS_MAX:
                        raise Overloaded(what="commands to a message", limit=COMMANDS_MAX)
                except BaseException:
                    self._commands.release(size)
                    raise
                overhead = _COMMAND_BYTES * len(envelopes)
                self._commands.add(overhead)
                message = _Message(messages, len(envelopes), size + overhead, self._outcome)
                messages.put(message)
                del data
                await self._submit_all(envelopes, caller, message)
                del envelopes, message
        finally:
            messages.end()

    async def _submit_all(self, envelopes: Sequence[CommandEnvelope], caller: Caller, message: _Message) -> None:
        """Submit the commands of a message in order, as the writer has room for them.

        Other tasks get a turn every 10 ms: checks with many violations take long. Cancelling refuses the commands
        that are not submitted.
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
                    message.refuse(LogUnavailable(cause=STOPPING))
                raise
            self._submit(envelope, caller, message)

    def _submit(self, envelope: CommandEnvelope, caller: Caller, message: _Message) -> None:
        packed = envelope.command
        try:
            method, command = self._dispatcher.parse_packed(packed.type_url, packed.value)
            context = envelope.context if envelope.HasField("context") else None
            submission = self._dispatcher.submission(method, command, caller, context)
            submission.done = message.count_down
            self._writer.submit(submission)
        except Refusal as refusal:
            message.refuse(refusal)
        except Exception as error:
            message.refuse(internal_error(error, envelope.context.request_id, command=packed.type_url))
        else:
            message.outcomes.append(submission)

    def _outcome(self, outcome: Submission | Refusal) -> bytes:
        """Return an element of `ExecuteResponse.outcomes`."""
        refusal = outcome if isinstance(outcome, Refusal) else outcome.early_refusal or outcome.refusal
        if refusal is not None:
            request_id = outcome.request_id if isinstance(outcome, Submission) else ""
            return delimited(1, delimited(2, self._router.to_status(refusal, request_id).SerializeToString()))
        assert isinstance(outcome, Submission)
        assert outcome.accepted is not None
        result, _ = result_bytes(outcome.accepted, self._tail.identity)
        return delimited(1, delimited(1, result))


class _Message:
    """The commands of one request message.

    Args:
        messages: The open messages of the stream.
        count: Number of commands.
        size: Bytes of the commands in memory.
        encode: Encodes one outcome.
    """

    __slots__ = ("_encode", "_messages", "outcomes", "pending", "position", "response", "size")

    def __init__(
        self, messages: _OpenMessages, count: int, size: int, encode: Callable[[Submission | Refusal], bytes]
    ) -> None:
        self._messages = messages
        self.pending = count
        self._encode = encode
        self.size = size
        """Bytes in memory: of the commands until the response is made, then of the response."""
        self.outcomes: list[Submission | Refusal] = []
        """For each command its submission, or the refusal before it was submitted. Empty with a response."""
        self.position = 0
        """Greatest position in the outcomes of accepted commands; 0 without one."""
        self.response: bytes | None = None
        """The outcomes, when every command has one."""

    def refuse(self, refusal: Refusal) -> None:
        """Add the refusal of a command that was not submitted."""
        self.outcomes.append(refusal)
        self.count_down()

    def count_down(self) -> None:
        """Count one command that has its outcome. The last one makes the response, after the callers of its batch."""
        self.pending -= 1
        if not self.pending:
            asyncio.get_running_loop().call_soon(self.respond)

    def respond(self) -> None:
        """Make the response, and drop the commands."""
        self.position = max(
            (
                one.accepted.position
                for one in self.outcomes
                if isinstance(one, Submission) and one.accepted and not one.early_refusal
            ),
            default=0,
        )
        self.response = b"".join([self._encode(one) for one in self.outcomes])
        self.outcomes = []
        self._messages.on_response(self)


class _OpenMessages:
    """The messages of one stream that are not answered yet, in order.

    Iterating waits for the oldest message to have a response, and returns it. `release` removes it once it is sent.
    """

    def __init__(self, messages_max: int, bytes_max: int, commands: ByteLimit, outcomes: ByteLimit) -> None:
        self._messages: deque[_Message] = deque()
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._commands = commands
        self._outcomes = outcomes
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._abandoned = False

    async def wait_for_room(self) -> None:
        """Wait until fewer messages and bytes are open than the limits.

        A stream with unread outcomes also waits while all streams together have too many of them.

        Raises:
            Overloaded: All streams together have twice as many unread outcomes as the limit.
        """
        while self._messages and (
            len(self._messages) >= self._messages_max
            or self._bytes >= self._bytes_max
            or (self._outcomes.exceeded and self._messages[0].response is not None)
        ):
            self._room.clear()
            await self._room.wait()
        self._outcomes.check_below(2)

    def put(self, message: _Message) -> None:
        """Append a message. One without commands has its response at once."""
        self._messages.append(message)
        self._bytes += message.size
        if not message.pending:
            message.respond()

    def on_response(self, message: _Message) -> None:
        """Replace the commands of a message by their outcomes."""
        assert message.response is not None
        self._commands.release(message.size)
        if self._abandoned:
            return
        self._bytes += len(message.response) - message.size
        message.size = len(message.response)
        self._outcomes.add(message.size)
        self._changed.set()
        self._room.set()

    def release(self, message: _Message) -> None:
        """Remove the oldest message, whose response is sent."""
        assert self._messages[0] is message
        self._messages.popleft()
        self._bytes -= message.size
        self._outcomes.release(message.size)
        self._room.set()

    def end(self) -> None:
        """End the iteration after the messages that are open."""
        self._ended = True
        self._changed.set()

    def abandon(self) -> None:
        """Mark all open commands as abandoned, and drop all outcomes."""
        self._abandoned = True
        for message in self._messages:
            if message.response is not None:
                self._outcomes.release(message.size)
            for submission in message.outcomes:
                if isinstance(submission, Submission):
                    submission.abandoned = True
        self._messages.clear()

    def __aiter__(self) -> _OpenMessages:
        return self

    async def __anext__(self) -> _Message:
        while not self._messages or self._messages[0].response is None:
            if self._ended and not self._messages:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._messages[0]
