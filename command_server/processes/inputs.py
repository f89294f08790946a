"""Inputs: what processes are told, and the step that each leads to.

A step goes through the writer as a command does: it is decided in a batch on the process's state, and recorded in
its commit. It is submitted under a request key of the engine's own, made of instance and input, so that an input
takes effect once however often it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
from diptych.internal.v1.parking_pb2 import Outcome
from diptych.v1 import processes_pb2
from diptych.v1.events_pb2 import EventMetadata, RecordedEvent
from diptych.v1.processes_pb2 import ProcessOutcome

ACCEPTED = processes_pb2.PROCESS_OUTCOME_KIND_ACCEPTED
REFUSED = processes_pb2.PROCESS_OUTCOME_KIND_REFUSED
ANSWERED = processes_pb2.PROCESS_OUTCOME_KIND_ANSWERED
FAILED = processes_pb2.PROCESS_OUTCOME_KIND_FAILED
TIMED_OUT = processes_pb2.PROCESS_OUTCOME_KIND_TIMED_OUT

EVENT = -1
"""The ordinal of an input that is an event."""


class Input:
    """One thing that one instance is told."""

    __slots__ = (
        "cause",
        "correlation_id",
        "handle",
        "id",
        "key",
        "message",
        "ordinal",
        "outcome",
        "position",
        "process",
        "source_id",
        "traceparent",
        "value",
        "written",
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
        key: Callable[[Any], str | None] | None = None,
    ) -> None:
        self.process = process
        self.id = id
        """The instance."""
        self.position = position
        """Of the event, or of the step whose output it is about."""
        self.ordinal = ordinal
        self.message = message
        """What it is about."""
        self.value = value
        """What the handler is given."""
        self.handle = handle
        """None: nobody handles it, and nothing but the open work is touched."""
        self.cause = cause
        self.source_id = source_id
        """The event id of the event, or of the step."""
        self.correlation_id = correlation_id
        self.traceparent = traceparent
        self.outcome = outcome
        self.key = key
        """Of an event of which it is not known who hears it: the function that says so."""
        self.written: ParkedInput | None = None
        """How it stands among the parked inputs, if it does."""

    def told_to(self, id: str) -> Input:
        """The same event for the instance that hears it."""
        told = Input(
            process=self.process,
            id=id,
            position=self.position,
            ordinal=self.ordinal,
            message=self.message,
            value=self.value,
            handle=self.handle,
            cause=self.cause,
            source_id=self.source_id,
            correlation_id=self.correlation_id,
            traceparent=self.traceparent,
        )
        told.written = self.written
        return told

    @property
    def settles(self) -> WorkKey | None:
        """The open work that is done with when it was taken."""
        return None if self.ordinal == EVENT else (self.position, self.ordinal)

    def submission(self) -> Submission:
        """The step that it leads to."""
        process, handle, value, cause = self.process, self.handle, self.value, self.cause

        def decide(state: Any, _: Message, at: Deciding) -> Sequence[Message]:
            return [] if handle is None else stepped(process, handle(state, value, at), at.now, cause)

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
            name = self.source_id if self.ordinal == EVENT else f"{self.source_id}/{self.ordinal}"
            submission.request_key = engine_request_key(f"step\n{submission.stream}", name)
        submission.settles = self.settles
        return submission


def _no_id(command: Message) -> str:
    raise AssertionError("a step knows its instance")


def unknown_instance(event: RecordedEvent) -> str:
    """As what instance it is listed that nobody knows who hears the events of an aggregate."""
    return f"@{event.aggregate.type}/{event.aggregate.id}"


def heard(process: Process[Any], event: RecordedEvent, id: str | None, message: Message) -> Input:
    """The input that an event is to an instance; without an id, to one that the process's key function names later."""
    binding = process.events[message.DESCRIPTOR.full_name]
    return Input(
        process=process,
        id=unknown_instance(event) if id is None else id,
        key=binding.key if id is None else None,
        position=event.position,
        ordinal=EVENT,
        message=message,
        value=message,
        handle=binding.handle,
        cause=event.position,
        source_id=event.event_id,
        correlation_id=event.metadata.correlation_id or event.event_id,
        traceparent=event.metadata.traceparent,
    )


def came_of(
    domain: LoadedDomain, process: Process[Any], id: str, key: WorkKey, content: Content, outcome: Outcome
) -> Input:
    """The input that is what came of an output. Raises `LookupError` if the domain no longer knows the output."""
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
