"""Processes: decisions over time.

A process (process manager, saga) is an aggregate with more inputs than commands. Its handlers are pure, as deciders
are: a state and an *input* give a *step*. Inputs are the command that starts the process, and events of other
aggregates. Further inputs are the outcomes of its own outputs: the acceptance or refusal of a command, the answer or
failure of an effect, and a timeout. A step is a list of events to record and of *outputs*: commands to `send`,
effects to `call`, timeouts to set by `after`.

The engine records input, events and outputs in one transaction, so that a process continues after any crash. It sends
each command under a request id of its own, so that the command takes effect once. It calls each effect at least once,
always under the same idempotency key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from diptych.domain.aggregate import Aggregate, AggregateRef, Deciding, MessageType
from diptych.domain.inputs import Accepted, Answered, Failed, Refused
from diptych.domain.outputs import After, Call, Output, Send, Step
from diptych.domain.results import checked_step
from diptych.v1.processes_pb2 import ProcessOutcome, ProcessOutput, ProcessStepped

S = TypeVar("S")
C = TypeVar("C", bound=Message)
E = TypeVar("E", bound=Message)
Q = TypeVar("Q", bound=Message)

STEPPED = ProcessStepped.DESCRIPTOR.full_name
"""The type of the event that the engine records for a step with outputs."""


class InputBinding(NamedTuple):
    """A type of input bound to its handler."""

    handle: Callable[[Any, Any, Deciding], Step]
    key: Callable[[Any], str | None] | None
    """For events: returns the id of the instance that gets the event; None or empty for none."""
    message: MessageType


class Process(Aggregate[S]):
    """A type of process. Like an aggregate it has a state and evolvers, and each instance has an id.

    Every handler is `(state, input, at) -> step`, with `at` as for a decider. The decorators below raise
    `ValueError` for a type that the process handles already.

    Args:
        type: The name in contracts and streams.
        initial: The state of an instance that does not exist, as for an aggregate.
        id: The field of its commands that has the instance's id, or a function of the command that returns the id.
    """

    def __init__(self, type: str, *, initial: S, id: str | Callable[[Any], str]) -> None:
        super().__init__(type, initial=initial, id=id)
        self.evolvers[STEPPED] = (ProcessStepped, _unchanged)
        self.starters: dict[str, Callable[[Any, Any, Deciding], Step]] = {}
        """Handlers of the process's own commands, by the command's type."""
        self.events: dict[str, InputBinding] = {}
        """By the event's type."""
        self.acceptances: dict[str, InputBinding] = {}
        """By the command's type."""
        self.refusals: dict[str, InputBinding] = {}
        """By the command's type."""
        self.answers: dict[str, InputBinding] = {}
        """By the type of the effect's request."""
        self.failures: dict[str, InputBinding] = {}
        """By the type of the effect's request."""
        self.timeouts: dict[str, InputBinding] = {}
        """By the timeout's type."""

    def starts(
        self,
        command: type[C],
        *,
        reads: Callable[[C], Iterable[AggregateRef]] | None = None,
        id: str | Callable[[C], str] | None = None,
    ) -> Callable[[Callable[[S, C, Deciding], Step]], Callable[[S, C, Deciding], Step]]:
        """Bind the decorated handler to a command of the contract, addressed to a new or an existing instance.

        The handler may raise a `Refusal`.

        Args:
            command: The command type.
            reads: As in `Aggregate.decides`.
            id: As in `Aggregate.decides`.
        """
        name = command.DESCRIPTOR.full_name

        def bind(handle: Callable[[S, C, Deciding], Step]) -> Callable[[S, C, Deciding], Step]:
            @functools.wraps(handle)
            def decide(state: S, message: C, at: Deciding) -> Sequence[Message]:
                step = checked_step(f"Process {self.type}, started by {name}", handle, handle(state, message, at))
                return stepped(self, step, at.now, name)

            self.decides(command, reads=reads, id=id)(decide)
            self.starters[name] = handle
            return handle

        return bind

    def reacts(
        self, event: type[E], *, key: Callable[[E], str | None]
    ) -> Callable[[Callable[[S, E, Deciding], Step]], Callable[[S, E, Deciding], Step]]:
        """Bind the decorated handler to an event of another aggregate.

        Args:
            event: The event type.
            key: Returns the id of the instance that gets the event, new or not; None or empty for none.
        """
        return _binder(self.events, event, key)

    def accepted(
        self, command: type[C]
    ) -> Callable[[Callable[[S, Accepted[C], Deciding], Step]], Callable[[S, Accepted[C], Deciding], Step]]:
        """Bind the decorated handler to the acceptance of a command that the process sent."""
        return _binder(self.acceptances, command)

    def refused(
        self, command: type[C]
    ) -> Callable[[Callable[[S, Refused[C], Deciding], Step]], Callable[[S, Refused[C], Deciding], Step]]:
        """Bind the decorated handler to the refusal of a command that the process sent."""
        return _binder(self.refusals, command)

    def answered(
        self, request: type[Q]
    ) -> Callable[[Callable[[S, Answered[Q, Any], Deciding], Step]], Callable[[S, Answered[Q, Any], Deciding], Step]]:
        """Bind the decorated handler to the answer of an effect with a request of this type."""
        return _binder(self.answers, request)

    def failed(
        self, request: type[Q]
    ) -> Callable[[Callable[[S, Failed[Q], Deciding], Step]], Callable[[S, Failed[Q], Deciding], Step]]:
        """Bind the decorated handler to the permanent failure of an effect with a request of this type."""
        return _binder(self.failures, request)

    def times_out(
        self, timeout: type[E]
    ) -> Callable[[Callable[[S, E, Deciding], Step]], Callable[[S, E, Deciding], Step]]:
        """Bind the decorated handler to a timeout of this type."""
        return _binder(self.timeouts, timeout)


def stepped(process: Process[Any], step: Step, now: datetime, cause: str | int | ProcessOutcome) -> list[Message]:
    """Return the events that record a step: `ProcessStepped` if it has outputs, then the process's own events.

    Args:
        process: The process.
        step: The result of its handler.
        now: The time of the decision, from which delays count.
        cause: The type of a command, the position of an event, or the outcome of an output.

    Raises:
        LookupError: The step sets a timeout that the process does not handle.
    """
    events: list[Message] = []
    outputs: list[ProcessOutput] = []
    for item in step:
        if isinstance(item, Send | Call | After):
            outputs.append(_output(process, item, now))
        else:
            events.append(item)
    if not outputs:
        return events
    record = ProcessStepped(outputs=outputs)
    match cause:
        case str():
            record.command_type = cause
        case int():
            record.event_position = cause
        case _:
            record.outcome.CopyFrom(cause)
    return [record, *events]


def _output(process: Process[Any], output: Output, now: datetime) -> ProcessOutput:
    record = ProcessOutput()
    match output:
        case Send(command, compensates):
            record.compensates = compensates
            record.command.Pack(command, deterministic=True)
        case Call(request, compensates):
            record.compensates = compensates
            record.call.Pack(request, deterministic=True)
        case After(delay, timeout):
            name = timeout.DESCRIPTOR.full_name
            if name not in process.timeouts:
                raise LookupError(f"Process {process.type} has no handler for timeout {name}.")
            record.timeout.timeout.Pack(timeout, deterministic=True)
            record.timeout.due_time.FromDatetime(now + delay)
    return record


def _unchanged(state: S, event: ProcessStepped) -> S:
    return state


def _binder(
    bindings: dict[str, InputBinding], message: MessageType, key: Callable[[Any], str | None] | None = None
) -> Callable[[Callable[[S, Any, Deciding], Step]], Callable[[S, Any, Deciding], Step]]:
    name = message.DESCRIPTOR.full_name
    if name in bindings:
        raise ValueError(f"{name} is handled twice.")

    def bind(handle: Callable[[S, Any, Deciding], Step]) -> Callable[[S, Any, Deciding], Step]:
        bindings[name] = InputBinding(handle, key, message)
        return handle

    return bind
