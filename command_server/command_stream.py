"""CommandStreamService: any commands of the domain, in a stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from command_server.dispatch import Caller, Dispatcher, result_bytes
from command_server.event_tail import EventTail
from command_server.submission import Submission
from command_server.writer import STOPPING, Writer
from diptych.contract.reasons import LogUnavailable, Overloaded
from diptych.contract.validation import decode
from diptych.contract.wire import delimited
from diptych.domain.loading import LoadedDomain
from diptych.domain.refusal import Refusal
from diptych.server.errors import internal_error
from diptych.server.request_context import RequestContext
from diptych.server.router import Router
from diptych.server.settings import CommandServerSettings
from diptych.v1.commands_pb2 import CommandEnvelope, ExecuteRequest

SERVICE = "diptych.v1.CommandStreamService"

COMMANDS_MAX = 1000
"""Commands in one message of `Execute`."""

_TURN_SECONDS = 0.01
"""Longest time in which a message's commands are submitted before other tasks get a turn."""


class CommandStreamService:
    """Serves `Execute`: one response for each request message, with the outcomes in the order of the commands.

    1. A reader task takes request messages, at most `stream_messages_max` at once, and submits their commands in
       order.
    2. The handler sends the outcomes of the oldest message when all its commands are done.
    3. `close` ends the readers; the streams end when their messages are answered.
    """

    def __init__(
        self, domain: LoadedDomain, writer: Writer, tail: EventTail, router: Router, settings: CommandServerSettings
    ) -> None:
        self._dispatcher = Dispatcher(domain)
        self._writer = writer
        self._tail = tail
        self._router = router
        self._messages_max = settings.stream_messages_max
        self._readers: set[asyncio.Task[None]] = set()
        self._closing = False
        router.bind_duplex(SERVICE, "Execute", self._execute)

    def close(self) -> None:
        """Read nothing more from the streams; they end when all that was read is answered."""
        self._closing = True
        for reader in self._readers:
            reader.cancel()

    async def _execute(self, requests: AsyncIterator[bytes], context: RequestContext) -> AsyncIterator[bytes]:
        # The metadata's request id names a whole call; in a stream each command has its own.
        caller = Caller.of(context)._replace(request_id="")
        written = 0
        messages = _OpenMessages(self._messages_max)
        reader = asyncio.create_task(self._read(requests, caller, messages))
        self._readers.add(reader)
        if self._closing:
            reader.cancel()
        try:
            async for message in messages:
                written = max(written, message.position)
                yield b"".join([self._outcome(one) for one in message.outcomes])
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
                envelopes = decode(ExecuteRequest, data).commands
                if len(envelopes) > COMMANDS_MAX:
                    raise Overloaded(what="commands to a message", limit=COMMANDS_MAX)
                message = _Message(messages, len(envelopes))
                messages.put(message)
                await self._submit_all(envelopes, caller, message)
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
            return delimited(1, delimited(2, self._router.to_status(refusal).SerializeToString()))
        assert isinstance(outcome, Submission)
        assert outcome.accepted is not None
        result, _ = result_bytes(outcome.accepted, self._tail.identity)
        return delimited(1, delimited(1, result))


class _Message:
    """The commands of one request message."""

    __slots__ = ("_messages", "_pending", "outcomes")

    def __init__(self, messages: _OpenMessages, count: int) -> None:
        self._messages = messages
        self._pending = count
        self.outcomes: list[Submission | Refusal] = []
        """For each command its submission, or the refusal before it was submitted."""

    @property
    def complete(self) -> bool:
        """True when every command has its outcome."""
        return not self._pending

    @property
    def position(self) -> int:
        """Greatest position in the outcomes of accepted commands; 0 without one."""
        return max(
            (
                one.accepted.position
                for one in self.outcomes
                if isinstance(one, Submission) and one.accepted and not one.early_refusal
            ),
            default=0,
        )

    def refuse(self, refusal: Refusal) -> None:
        """Add the refusal of a command that was not submitted."""
        self.outcomes.append(refusal)
        self.count_down()

    def count_down(self) -> None:
        """Count one command that has its outcome."""
        self._pending -= 1
        if not self._pending:
            self._messages.wake()


class _OpenMessages:
    """The messages of one stream that are not answered yet, in order.

    Iterating waits for the oldest message to be complete, and removes it.
    """

    def __init__(self, messages_max: int) -> None:
        self._messages: deque[_Message] = deque()
        self._messages_max = messages_max
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False

    async def wait_for_room(self) -> None:
        """Wait until fewer messages are open than the limit."""
        while len(self._messages) >= self._messages_max:
            self._room.clear()
            await self._room.wait()

    def put(self, message: _Message) -> None:
        """Append a message."""
        self._messages.append(message)
        if message.complete:
            self.wake()

    def end(self) -> None:
        """End the iteration after the messages that are open."""
        self._ended = True
        self.wake()

    def abandon(self) -> None:
        """Mark all open commands as abandoned."""
        for message in self._messages:
            for submission in message.outcomes:
                if isinstance(submission, Submission):
                    submission.abandoned = True

    def wake(self) -> None:
        """Let the iteration look at the oldest message again."""
        self._changed.set()

    def __aiter__(self) -> _OpenMessages:
        return self

    async def __anext__(self) -> _Message:
        while not self._messages or not self._messages[0].complete:
            if self._ended and not self._messages:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        self._room.set()
        return self._messages.popleft()
