"""Processes: what decides over time.

A process (process manager, saga) is an aggregate that also hears. Its handlers are pure, as deciders are: a state and
an *input* give what happens next. An input is the command that starts it, an event of another aggregate, the outcome
of a command that it sent, the answer of an effect that it called, or a timeout that it set. What happens next is a
list of events that it records of itself, and of *outputs*: commands to `send`, effects to `call`, timeouts to set
by `after`.

Input, events and outputs are recorded together, so that a process goes on from there whatever is killed. A command
is sent under a request id of its own, and takes effect once; an effect is called at least once, under a key that is
always the same for it.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from google.protobuf.message import Message

from diptych.domain.aggregate import Aggregate, AggregateRef, Deciding, MessageType
from diptych.v1.processes_pb2 import ProcessOutcome, ProcessOutput, ProcessStepped

S = TypeVar("S")
C = TypeVar("C", bound=Message)
E = TypeVar("E", bound=Message)
T = TypeVar("T", bound=Message)
Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


@dataclass(frozen=True)
class Send(Generic[C]):
    """A command to send."""

    command: C
    compensates: bool = False


@dataclass(frozen=True)
class Call(Generic[Q]):
    """An effect to call."""

    request: Q
    compensates: bool = False


@dataclass(frozen=True)
class After(Generic[T]):
    """A timeout to set."""

    delay: timedelta
    timeout: T


Output: TypeAlias = Send[Any] | Call[Any] | After[Any]
Step: TypeAlias = Sequence[Message | Output]
"""What follows from an input: events to record, in order, and outputs.

A handler whose annotation is narrower, such as `Sequence[ReservationStarted | Send[HoldCopyRequest]]`, is checked
when the domain loads: that each event has an evolver, each command a decider, each effect a port, and each timeout
a handler.
"""


def send(command: C, *, compensates: bool = False) -> Send[C]:
    """Sends a command. What comes of it is an input, if the process has a handler for it.

    One that `compensates` undoes a step and must succeed: refused, it is sent again with backoff for as long as it
    takes, and the process is shown as STUCK in the meantime.
    """
    return Send(command, compensates)


def call(request: Q, *, compensates: bool = False) -> Call[Q]:
    """Calls the effect whose port takes such messages. The answer, or why there will be none, is an input.

    One that `compensates` is called again with backoff even where the port says that it has failed for good.
    """
    return Call(request, compensates)


def after(delay: timedelta, timeout: T) -> After[T]:
    """Sets a timeout, which is an input after that time. It is never taken back: a process ignores what is late."""
    return After(delay, timeout)


class Accepted(NamedTuple, Generic[C]):
    """A command that the process sent was accepted."""

    command: C
    aggregate: AggregateRef
    version: int


class Refused(NamedTuple, Generic[C]):
    """A command that the process sent was refused."""

    command: C
    reason: str
    """As in `ErrorInfo`: `STOCK_TOO_LOW`."""
    message: str
    metadata: Mapping[str, str]


class Answered(NamedTuple, Generic[Q, A]):
    """An effect was answered."""

    request: Q
    answer: A


class Failed(NamedTuple, Generic[Q]):
    """An effect has failed for good."""

    request: Q
    reason: str
    message: str


class EffectFailed(Exception):
    """Raised by an effect that has failed for good: it is not tried again, and the process hears of it.

    Whatever else an effect raises is taken for passing, and it is tried again with backoff.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """In capitals, as the reasons of refusals: `CARD_DECLINED`."""


class Calling(NamedTuple):
    """What an effect is told beside its request."""

    key: str
    """The idempotency key: always the same for this call, and of no other."""
    attempt: int
    """From 1. After a restart it begins anew."""
    correlation_id: str
    traceparent: str


Effect: TypeAlias = Callable[[Q, Calling], Awaitable[A]]


class Port(Generic[Q, A]):
    """Where effects of one kind go.

    `connect` opens what answers them when the command server starts, and closes it when it stops; at most
    `concurrency` are under way at once, each for at most `timeout`, and then it is tried again.
    """

    def __init__(
        self,
        request: type[Q],
        answer: type[A],
        connect: Callable[[], AbstractAsyncContextManager[Effect[Q, A]]],
        *,
        concurrency: int = 64,
        timeout: timedelta = timedelta(seconds=10),
    ) -> None:
        self.request = request
        self.answer = answer
        self.connect = connect
        self.concurrency = concurrency
        self.timeout = timeout


class InputBinding(NamedTuple):
    """A kind of input bound to its handler."""

    handle: Callable[[Any, Any, Deciding], Step]
    key: Callable[[Any], str | None] | None
    """For events: the id of the instance that hears it; None or empty: nobody."""
    message: MessageType


STEPPED = ProcessStepped.DESCRIPTOR.full_name
"""The type of the event that the engine records of a step with outputs."""


class Process(Aggregate[S]):
    """A type of process. Like an aggregate it has a state and evolvers, and its instances are named by type and id."""

    def __init__(self, type: str, *, initial: S, id: str | Callable[[Any], str]) -> None:
        super().__init__(type, initial=initial, id=id)
        self.evolvers[STEPPED] = (ProcessStepped, _unchanged)
        self.starters: dict[str, Callable[[Any, Any, Deciding], Step]] = {}
        """What starts an instance or speaks to one, by the command's type."""
        self.events: dict[str, InputBinding] = {}
        """Reactions, by the event's type."""
        self.acceptances: dict[str, InputBinding] = {}
        self.refusals: dict[str, InputBinding] = {}
        """By the command's type."""
        self.answers: dict[str, InputBinding] = {}
        self.failures: dict[str, InputBinding] = {}
        """By the effect's request type."""
        self.timeouts: dict[str, InputBinding] = {}

    def starts(
        self,
        command: type[C],
        *,
        reads: Callable[[C], Iterable[AggregateRef]] | None = None,
        id: str | Callable[[C], str] | None = None,
    ) -> Callable[[Callable[[S, C, Deciding], Step]], Callable[[S, C, Deciding], Step]]:
        """Binds a command of the domain's contract, which starts an instance or speaks to one.

        `reads` and `id` are as for a decider, and the handler may refuse.
        """
        name = command.DESCRIPTOR.full_name

        def bind(handle: Callable[[S, C, Deciding], Step]) -> Callable[[S, C, Deciding], Step]:
            @functools.wraps(handle)
            def decide(state: S, asked: C, at: Deciding) -> Sequence[Message]:
                return stepped(self, handle(state, asked, at), at.now, name)

            self.decides(command, reads=reads, id=id)(decide)
            self.starters[name] = handle
            return handle

        return bind

    def reacts(
        self, event: type[E], *, key: Callable[[E], str | None]
    ) -> Callable[[Callable[[S, E, Deciding], Step]], Callable[[S, E, Deciding], Step]]:
        """Binds an event of another aggregate: `key` gives the id of the instance that hears it, new or not."""
        return _binder(self.events, event, key)

    def accepted(
        self, command: type[C]
    ) -> Callable[[Callable[[S, Accepted[C], Deciding], Step]], Callable[[S, Accepted[C], Deciding], Step]]:
        """Binds what follows when a command of this type, which the process sent, is accepted."""
        return _binder(self.acceptances, command)

    def refused(
        self, command: type[C]
    ) -> Callable[[Callable[[S, Refused[C], Deciding], Step]], Callable[[S, Refused[C], Deciding], Step]]:
        """Binds what follows when a command of this type, which the process sent, is refused."""
        return _binder(self.refusals, command)

    def answered(
        self, request: type[Q]
    ) -> Callable[[Callable[[S, Answered[Q, Any], Deciding], Step]], Callable[[S, Answered[Q, Any], Deciding], Step]]:
        """Binds what follows when an effect with a request of this type is answered."""
        return _binder(self.answers, request)

    def failed(
        self, request: type[Q]
    ) -> Callable[[Callable[[S, Failed[Q], Deciding], Step]], Callable[[S, Failed[Q], Deciding], Step]]:
        """Binds what follows when an effect with a request of this type has failed for good."""
        return _binder(self.failures, request)

    def times_out(
        self, timeout: type[E]
    ) -> Callable[[Callable[[S, E, Deciding], Step]], Callable[[S, E, Deciding], Step]]:
        """Binds what follows when a timeout of this type is due."""
        return _binder(self.timeouts, timeout)


def stepped(process: Process[Any], step: Step, now: datetime, cause: str | int | ProcessOutcome) -> list[Message]:
    """The events that record a step: that of the engine if there are outputs, then the process's own.

    `cause` is the type of a command, the position of an event, or what came of an output. Raises `LookupError` for a
    timeout that has no handler.
    """
    events: list[Message] = []
    outputs: list[ProcessOutput] = []
    for one in step:
        if isinstance(one, Send | Call | After):
            outputs.append(_output(process, one, now))
        else:
            events.append(one)
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
    made = ProcessOutput()
    match output:
        case Send(command, compensates):
            made.compensates = compensates
            made.command.Pack(command, deterministic=True)
        case Call(request, compensates):
            made.compensates = compensates
            made.call.Pack(request, deterministic=True)
        case After(delay, timeout):
            name = timeout.DESCRIPTOR.full_name
            if name not in process.timeouts:
                raise LookupError(f"Process {process.type} has no handler for timeout {name}.")
            made.timeout.timeout.Pack(timeout, deterministic=True)
            made.timeout.due_time.FromDatetime(now + delay)
    return made


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
