"""Commands that processes send: through the writer like any other, each under a request id of its own.

The request id is made of the step's event id and the output's ordinal, under a key that no client can have. So a
command takes effect once, however often it is sent: after a crash it is sent again, and gets its first answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from google.protobuf.message import DecodeError

from command_server.dispatch import Caller, Dispatcher
from command_server.processes.inputs import ACCEPTED, REFUSED
from command_server.processes.outputs import Content, OpenOutputs, Output, OutputQueue
from command_server.store.records import WorkKind
from command_server.submission import Submission, actor_of
from command_server.writer import Writer
from diptych.contract.reasons import CommandUnknown, MalformedMessage
from diptych.domain.loading import LoadedDomain
from diptych.domain.refusal import Refusal, StatusCode
from diptych.internal.v1.parking_pb2 import Outcome
from diptych.server.errors import internal_error

_COMMANDS_MAX = 1000
"""Commands in the writer at once."""

_PASSING = {StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.INTERNAL}
"""A refusal by one of these passes by itself, or when somebody mends the code: the process is not told."""

Told = Callable[[Output, Content, Outcome], None]
"""Takes what came of an output."""


class Commands:
    """Sends the commands of all processes.

    `told` is called with what came of each, `closed` where nobody handles that it was accepted: then that is done with
    in the command's own commit.
    """

    def __init__(
        self, domain: LoadedDomain, writer: Writer, outputs: OpenOutputs, told: Told, closed: Callable[[Output], None]
    ) -> None:
        self._processes = domain.domain.processes
        self._dispatcher = Dispatcher(domain)
        self._writer = writer
        self._outputs = outputs
        self._told = told
        self._closed = closed
        self._queue = OutputQueue()
        self._slots = asyncio.Semaphore(_COMMANDS_MAX)

    def start(self, output: Output) -> None:
        """Has a command sent."""
        self._queue.put(output)

    async def run(self) -> None:
        """Sends commands for as long as it is not cancelled."""
        while True:
            output = await self._queue.take()
            await self._slots.acquire()
            self._send(output, await self._outputs.content(output))

    def _send(self, output: Output, content: Content) -> None:
        work = output.work
        assert work.kind is WorkKind.COMMAND
        caller = Caller(actor_of(work.process), f"{content.event_id}/{work.ordinal}", content.traceparent)
        try:
            submission = self._dispatcher.sent(
                content.message.type_url,
                content.message.value,
                caller,
                correlation_id=content.correlation_id,
                causation_id=content.event_id,
            )
            handled = content.message.TypeName() in self._processes[work.process].acceptances
            submission.settles = None if handled else output.key
            submission.done = lambda: self._done(output, content, submission, handled)
            self._writer.submit(submission)
        except Refusal as refusal:
            self._refused(output, content, refusal)
        except DecodeError:
            self._refused(output, content, MalformedMessage(type=content.message.TypeName()))
        except Exception as error:
            self._refused(output, content, internal_error(error, caller.request_id, command=content.message.type_url))

    def _done(self, output: Output, content: Content, submission: Submission, handled: bool) -> None:
        accepted = submission.accepted
        if submission.refusal is not None:
            self._refused(output, content, submission.refusal)
            return
        assert accepted is not None
        self._slots.release()
        if not handled:
            self._closed(output)
            return
        outcome = Outcome(kind=ACCEPTED, version=accepted.version)
        outcome.aggregate.type, outcome.aggregate.id = accepted.aggregate
        self._told(output, content, outcome)

    def _refused(self, output: Output, content: Content, refusal: Refusal) -> None:
        self._slots.release()
        passing = refusal.status in _PASSING or isinstance(refusal, CommandUnknown)
        if passing or content.compensates:
            self._outputs.again(output, f"{refusal.reason}: {refusal}", lambda: self.start(output))
            return
        outcome = Outcome(kind=REFUSED, reason=refusal.reason, message=str(refusal), metadata=refusal.metadata)
        self._told(output, content, outcome)
