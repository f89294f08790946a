"""Commands of processes: they go through the writer like any other, each under a request id of its own.

The request id is made of the step's event id and the output's ordinal, under a key that no client can have. A command
therefore takes effect once, however often it is sent: after a crash it is sent again, and has its first outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from google.protobuf.message import DecodeError

from command_server.dispatch import Caller, Dispatcher
from command_server.processes.inputs import ACCEPTED, REFUSED
from command_server.processes.outputs import Content, OpenOutputs, OutcomeHandler, Output, OutputQueue
from command_server.store.records import WorkKind
from command_server.submission import Submission, actor_of
from command_server.writer import Writer
from diptych.contract.reasons import CommandUnknown, MalformedMessage
from diptych.domain.loading import LoadedDomain
from diptych.domain.refusal import Refusal, StatusCode
from diptych.internal.v1.parking_pb2 import Outcome
from diptych.server.errors import internal_error, rendered

_COMMANDS_MAX = 1000
"""Commands of processes in the writer at once."""

_TRANSIENT = {StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.INTERNAL}
"""Statuses of refusals that are retried: they end by themselves, or when the code is fixed."""


class Commands:
    """Sends the commands of all processes.

    Args:
        domain: the domain.
        writer: the writer.
        outputs: the open outputs.
        on_outcome: called with the outcome of each command.
        on_closed: called in place of `on_outcome` if the process has no handler for an accepted command: its output
            was closed in the command's own commit.
    """

    def __init__(
        self,
        domain: LoadedDomain,
        writer: Writer,
        outputs: OpenOutputs,
        on_outcome: OutcomeHandler,
        on_closed: Callable[[Output], None],
    ) -> None:
        self._processes = domain.domain.processes
        self._dispatcher = Dispatcher(domain)
        self._writer = writer
        self._outputs = outputs
        self._on_outcome = on_outcome
        self._on_closed = on_closed
        self._queue = OutputQueue()
        self._slots = asyncio.Semaphore(_COMMANDS_MAX)

    def start(self, output: Output) -> None:
        """Queue a command."""
        self._queue.put(output)

    async def run(self) -> None:
        """Send commands until cancelled."""
        while True:
            output = await self._queue.take()
            await self._slots.acquire()
            if output.given_up:
                self._slots.release()
                continue
            self._send(output, await self._outputs.content(output))

    def _send(self, output: Output, content: Content) -> None:
        work = output.work
        assert work.kind is WorkKind.COMMAND
        caller = Caller(actor_of(work.process), f"{content.event_id}/{work.ordinal}", content.traceparent)
        try:
            submission = self._dispatcher.process_submission(
                content.message.type_url,
                content.message.value,
                caller,
                correlation_id=content.correlation_id,
                causation_id=content.event_id,
            )
            handled = content.message.TypeName() in self._processes[work.process].acceptances
            submission.settles = None if handled else output.key
            submission.done = lambda: self._on_done(output, content, submission, handled)
            self._writer.submit(submission)
        except Refusal as refusal:
            self._refuse(output, content, refusal)
        except DecodeError:
            self._refuse(output, content, MalformedMessage(type=content.message.TypeName()))
        except Exception as error:
            self._refuse(output, content, internal_error(error, caller.request_id, command=content.message.type_url))

    def _on_done(self, output: Output, content: Content, submission: Submission, handled: bool) -> None:
        accepted = submission.accepted
        if submission.early_refusal is not None:
            return  # The server stops during the commit: the output stays open, and is sent again after the start.
        if submission.refusal is not None:
            self._refuse(output, content, submission.refusal)
            return
        assert accepted is not None
        self._slots.release()
        if not handled:
            self._on_closed(output)
            return
        outcome = Outcome(kind=ACCEPTED, version=accepted.version)
        outcome.aggregate.type, outcome.aggregate.id = accepted.aggregate
        self._on_outcome(output, content, outcome)

    def _refuse(self, output: Output, content: Content, refusal: Refusal) -> None:
        self._slots.release()
        refusal, message, metadata = rendered(refusal, f"{content.event_id}/{output.work.ordinal}")
        transient = refusal.status in _TRANSIENT or isinstance(refusal, CommandUnknown)
        if transient or content.compensates:
            self._outputs.retry_later(output, f"{refusal.reason}: {message}", lambda: self.start(output))
            return
        outcome = Outcome(kind=REFUSED, reason=refusal.reason, message=message, metadata=metadata)
        self._on_outcome(output, content, outcome)
