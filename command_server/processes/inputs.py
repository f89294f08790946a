"""Inputs of processes, and the step that each leads to.

A step goes through the writer as a command does: it is decided in a batch on the process's state, and recorded in
that batch's commit. Its request key is the engine's own, made of instance and input, so that an input takes effect
once, however often it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from command_server.processes.outputs import Content
from command_server.store.records import ParkedInput, WorkKey
from command_server.submission import Submission, actor_of, engine_request_key
from diptych.contract.wire import delimited
from diptych.domain.aggregate import AggregateRef, DeciderBinding, Deciding
from diptych.domain.inputs import Accepted, Answered, Failed, Refused
from diptych.domain.loading import LoadedDomain
from diptych.domain.outputs import Step
from diptych.domain.process import Process, stepped
from diptych.domain.results import checked_step
from diptych.internal.v1.parking_pb2 import Outcome
from diptych.v1 import processes_pb2
from diptych.v1.events_pb2 import EventMetadata
from diptych.v1.processes_pb2 import ProcessOutcome

ACCEPTED = processes_pb2.PROCESS_OUTCOME_KIND_ACCEPTED
REFUSED = processes_pb2.PROCESS_OUTCOME_KIND_REFUSED
ANSWERED = processes_pb2.PROCESS_OUTCOME_KIND_ANSWERED
FAILED = processes_pb2.PROCESS_OUTCOME_KIND_FAILED
TIMED_OUT = processes_pb2.PROCESS_OUTCOME_KIND_TIMED_OUT

EVENT = -1
"""Ordinal of an input that is an event."""


class Input:
    """One event, or one outcome of an output, for one instance.

    Args:
        process: the type of process.
        id: the instance.
        position: position of the event, or of the step whose output this is about.
        ordinal: ordinal of the output; EVENT for an event.
        message: the event, command, request or timeout; an `Any` if the code does not have its type.
        value: argument of the handler.
        handle: the handler; None: the step records no event, and only closes the output.
        cause: the event's position or the outcome, as the step records it.
        source_id: event id of the event or of the step.
        correlation_id: correlation id of the step.
        traceparent: trace context of the step.
        outcome: the outcome of the output; None for an event.
    """

    __slots__ = (
        "cause",
        "correlation_id",
        "given_up",
        "handle",
        "id",
        "message",
        "ordinal",
        "outcome",
        "parked",
        "position",
        "process",
        "route",
        "source_id",
        "traceparent",
        "value",
    )

    def __init__(
        self,
        *,
        process: Process[Any],
        id: str,
        position: int,
        ordinal: int,
        message: Message,
        value: Any,
        handle: Callable[[Any, Any, Deciding], Step] | None,
        cause: int | ProcessOutcome,
        source_id: str,
        correlation_id: str,
        traceparent: str,
        outcome: Outcome | None = None,
    ) -> None:
        self.process = process
        self.id = id
        self.position = position
        self.ordinal = ordinal
        self.message = message
        self.value = value
        self.handle = handle
        self.cause = cause
        self.source_id = source_id
        self.correlation_id = correlation_id
        self.traceparent = traceparent
        self.outcome = outcome
        self.route: Callable[[], Input | None] | None = None
        """Returns an event of an unknown instance as an input of its instance, None if no instance takes it; None:
        the instance is known."""
        self.given_up = False
        """True for an outcome that an operator gave: nothing else can give it again after a restart."""
        self.parked: ParkedInput | None = None
        """Record of this input among the parked inputs; None: there is none."""

    @property
    def type(self) -> str:
        """Full name of the message's type."""
        message = self.message
        return message.TypeName() if isinstance(message, AnyMessage) else message.DESCRIPTOR.full_name

    @property
    def settles(self) -> WorkKey | None:
        """Output that the step of this input closes; None for an event."""
        return None if self.ordinal == EVENT else (self.position, self.ordinal)

    def submission(self) -> Submission:
        """Return the step to decide. It closes the output and releases the parked input in its own commit."""
        process, handle, value, cause = self.process, self.handle, self.value, self.cause
        name = self.type

        def decide(state: Any, _: Message, deciding: Deciding) -> Sequence[Message]:
            if handle is None:
                return []
            step = checked_step(f"Process {process.type} on {name}", handle, handle(state, value, deciding))
            return stepped(process, step, deciding.now, cause)

        actor = actor_of(process.type)
        metadata = EventMetadata(
            correlation_id=self.correlation_id,
            causation_id=self.source_id,
            actor=actor,
            traceparent=self.traceparent,
        )
        submission = Submission(
            binding=DeciderBinding(process, type(self.message), decide, None, _no_id, None),
            command=self.message,
            ref=AggregateRef(process.type, self.id),
            reads=(),
            actor=actor,
            request_id="",
            digest=b"",
            expected_version=None,
            metadata=delimited(7, metadata.SerializeToString()),
        )
        if handle is not None:
            source = self.source_id if self.ordinal == EVENT else f"{self.source_id}/{self.ordinal}"
            submission.request_key = engine_request_key(f"step\n{submission.stream}", source)
        submission.settles = self.settles
        if self.parked is not None:
            submission.unparks = self.parked.key
        return submission


def _no_id(command: Message) -> str:
    raise AssertionError("a step has its instance")


def failing(error: Exception) -> Callable[[Any, Any, Deciding], Step]:
    """Return a handler that raises an error, so that the input parks its instance."""

    def handle(state: Any, value: Any, deciding: Deciding) -> Step:
        raise error

    return handle


def outcome_input(
    domain: LoadedDomain, process: Process[Any], id: str, key: WorkKey, content: Content, outcome: Outcome
) -> Input:
    """Return the outcome of an output as an input.

    Args:
        domain: the domain.
        process: the type of process.
        id: the instance.
        key: key of the output.
        content: content of the output.
        outcome: the outcome.

    Raises:
        LookupError: the domain does not have the output's message any more.
    """
    position, ordinal = key
    name = content.message.TypeName()
    match outcome.kind:
        case processes_pb2.PROCESS_OUTCOME_KIND_ACCEPTED:
            message = domain.deciders[name].command.FromString(content.message.value)
            ref = AggregateRef(outcome.aggregate.type, outcome.aggregate.id)
            value: Any = Accepted(message, ref, outcome.version)
            bindings = process.acceptances
        case processes_pb2.PROCESS_OUTCOME_KIND_REFUSED:
            message = domain.deciders[name].command.FromString(content.message.value)
            value = Refused(message, outcome.reason, outcome.message, dict(outcome.metadata))
            bindings = process.refusals
        case processes_pb2.PROCESS_OUTCOME_KIND_ANSWERED:
            port = domain.domain.ports[name]
            message = port.request.FromString(content.message.value)
            value = Answered(message, port.answer.FromString(outcome.answer.value))
            bindings = process.answers
        case processes_pb2.PROCESS_OUTCOME_KIND_FAILED:
            message = domain.domain.ports[name].request.FromString(content.message.value)
            value = Failed(message, outcome.reason, outcome.message)
            bindings = process.failures
        case _:
            value = message = process.timeouts[name].message.FromString(content.message.value)
            bindings = process.timeouts
    return Input(
        process=process,
        id=id,
        position=position,
        ordinal=ordinal,
        message=message,
        value=value,
        handle=bindings[name].handle if name in bindings else None,
        cause=ProcessOutcome(position=position, ordinal=ordinal, kind=outcome.kind),
        source_id=content.event_id,
        correlation_id=content.correlation_id,
        traceparent=content.traceparent,
        outcome=outcome,
    )


def failing_outcome_input(
    process: Process[Any], id: str, key: WorkKey, content: Content, outcome: Outcome, error: Exception
) -> Input:
    """Return the outcome of an output that the code cannot handle as an input whose step fails.

    Args:
        process: the type of process.
        id: the instance.
        key: key of the output.
        content: content of the output.
        outcome: the outcome.
        error: error of the step.
    """
    return Input(
        process=process,
        id=id,
        position=key[0],
        ordinal=key[1],
        message=content.message,
        value=None,
        handle=failing(error),
        cause=ProcessOutcome(position=key[0], ordinal=key[1], kind=outcome.kind),
        source_id=content.event_id,
        correlation_id=content.correlation_id,
        traceparent=content.traceparent,
        outcome=outcome,
    )
