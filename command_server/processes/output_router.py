"""The output router: gives each output to what carries it out, and each outcome to the instance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import structlog

from command_server.processes.commands import Commands
from command_server.processes.effects import Effects
from command_server.processes.inputs import FAILED, REFUSED, TIMED_OUT, failing_outcome_input, outcome_input
from command_server.processes.instance_queues import InstanceQueues
from command_server.processes.outputs import Content, OpenOutputs, Output, OutputQueue, contents
from command_server.processes.timers import Timers
from command_server.store.event_store import EventStore
from command_server.store.records import Work, WorkKey, WorkKind
from command_server.writer import Writer
from diptych.domain.loading import LoadedDomain
from diptych.internal.v1.parking_pb2 import Outcome
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.processes_pb2 import ProcessStepped

_log = structlog.get_logger(__name__)

_PAGE_OUTPUTS = 10_000

_GIVEN_UP_KINDS = {WorkKind.COMMAND: REFUSED, WorkKind.EFFECT: FAILED, WorkKind.TIMEOUT: TIMED_OUT}


class OutputRouter:
    """Starts the outputs of steps and turns their outcomes into inputs.

    1. Open outputs of the store are started once, at the start (`start_stored`); those of later steps as the log
       brings them (`start_step`).
    2. A command goes to the writer, a timeout to the timers, an effect to the port of its request.
    3. The outcome becomes an input of the instance, whose step closes the output.
    """

    def __init__(
        self, domain: LoadedDomain, store: EventStore, writer: Writer, outputs: OpenOutputs, queues: InstanceQueues
    ) -> None:
        self._domain = domain
        self._processes = domain.domain.processes
        self._store = store
        self._outputs = outputs
        self._queues = queues
        self._commands = Commands(domain, writer, outputs, self._on_outcome, self._on_closed)
        self._timers = Timers(store, outputs, self._on_outcome, queues.wait_for_room, lambda: self._started_through)
        self._started_through = 0
        """Position of the last step whose outputs were started."""
        self.ports = {name: Effects(port, outputs, self._on_outcome) for name, port in domain.domain.ports.items()}
        """Effects by full name of the request."""
        self._unrouted = OutputQueue()
        """Effects from before the start, whose requests must be read from the log."""

    def runs(self) -> Iterator[tuple[str, Any]]:
        """Return the background work, each with a name for its task."""
        yield "process commands", self._commands.run()
        yield "process timers", self._timers.run()
        yield "process effects", self._route_stored()
        for name, port in self.ports.items():
            yield f"port {name}", port.run()

    async def start_stored(self, except_for: set[WorkKey]) -> None:
        """Start the open outputs of the store.

        Args:
            except_for: outputs whose outcome is parked.

        Raises:
            StoreUnavailable: the store cannot read.
        """
        after = (0, 0)
        while True:
            page = await self._store.read_work(after, _PAGE_OUTPUTS)
            for work in page:
                if work.process not in self._processes:
                    _log.warning("output of a process that the domain does not have", process=work.process)
                    continue
                self._started_through = work.position
                if work.kind is WorkKind.TIMEOUT and (work.position, work.ordinal) not in except_for:
                    self._timers.start(work)
                    continue
                output = self._outputs.add(work)
                if output.key not in except_for:
                    self._start(output, None)
            if len(page) < _PAGE_OUTPUTS:
                return
            after = (page[-1].position, page[-1].ordinal)

    def start_step(self, event: RecordedEvent) -> None:
        """Start the outputs of a step."""
        if event.aggregate.type not in self._processes:
            return
        step = ProcessStepped.FromString(event.event.value)
        for ordinal, content in enumerate(contents(event, step)):
            output = step.outputs[ordinal]
            kind, due = WorkKind.COMMAND, 0
            if output.HasField("call"):
                kind = WorkKind.EFFECT
            elif output.HasField("timeout"):
                kind, due = WorkKind.TIMEOUT, output.timeout.due_time.ToMicroseconds()
            work = Work(event.position, ordinal, event.aggregate.type, event.aggregate.id, kind, due)
            if kind is WorkKind.TIMEOUT:
                self._timers.start(work, content)
            else:
                self._start(self._outputs.add(work, content), content)
        self._started_through = event.position

    def _start(self, output: Output, content: Content | None) -> None:
        match output.work.kind:
            case WorkKind.COMMAND:
                self._commands.start(output)
            case _ if content is None:
                self._unrouted.put(output)
            case _:
                self._call(output, content)

    async def _route_stored(self) -> None:
        while True:
            output = await self._unrouted.take()
            self._call(output, await self._outputs.content(output))

    def _call(self, output: Output, content: Content) -> None:
        port = self.ports.get(content.message.TypeName())
        if port is None:
            reason = f"LookupError: the domain has no port for {content.message.TypeName()}"
            self._outputs.retry_later(output, reason, lambda: self._call(output, content))
        else:
            port.start(output)

    def give_up(self, output: Output, content: Content) -> None:
        """Give up an output that is STUCK: the process takes a refusal or a failure with the reason GIVEN_UP."""
        if output.retry is not None:
            output.retry.timer.cancel()
        output.given_up = True
        work = output.work
        process = self._processes[work.process]
        message = f"An operator gave it up after {output.attempts} attempts; the last error: {output.reason}"
        outcome = Outcome(kind=_GIVEN_UP_KINDS[work.kind], reason="GIVEN_UP", message=message)
        _log.warning("output of a process given up", process=work.process, instance=work.instance, cause=output.reason)
        try:
            one = outcome_input(self._domain, process, work.instance, output.key, content, outcome)
        except Exception as error:
            one = failing_outcome_input(process, work.instance, output.key, content, outcome, error)
            one.handle = None  # The code does not know the output: its step only closes it.
        one.given_up = True
        self._outputs.stuck.pop(output.key, None)
        self._queues.put(one)

    def _on_outcome(self, output: Output, content: Content, outcome: Outcome) -> None:
        if output.given_up:
            return
        work = output.work
        process = self._processes[work.process]
        try:
            one = outcome_input(self._domain, process, work.instance, output.key, content, outcome)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self._outputs.retry_later(output, reason, lambda: self._on_outcome(output, content, outcome))
        else:
            self._outputs.stuck.pop(output.key, None)
            self._queues.put(one)

    def _on_closed(self, output: Output) -> None:
        self._outputs.close(output.key)
