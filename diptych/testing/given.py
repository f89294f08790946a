"""Testing a domain without a server: deciders, folds and queries, each from the events that came before.

A decider::

    given(copy, registered, borrowed).when(BorrowCopyRequest(copy_id="c1", member_id="m2")) \\
        .refused(CopyOnLoan(copy_id="c1", member_id="m1"))

A process, from any of its inputs; what follows is asserted as a whole, events and outputs in order::

    given(reservation, started).refused(HoldCopyRequest(copy_id="c1"), CopyOnLoan(copy_id="c1", member_id="m1")) \\
        .then(ReservationFailed(copy_id="c1"), call(Mail(...)))

A view, or a whole projection::

    assert fold(open_loans, registered, borrowed) == {"c1.1": OpenLoan(...)}

A query::

    assert ask(lending, GetMemberRequest(member_id="m1"), registered) == Member(...)

Beside what is asserted, each of these checks what the engine relies on: that a command keeps the rules of its
contract, that deciders and evolvers change nothing that they were given, that a state survives a snapshot, and that
rows do not depend on how events were cut into batches.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Self, TypeVar, overload

from google.protobuf.message import Message

from diptych.contract.reasons import InvalidRequest, RowNotFound
from diptych.contract.validation import check
from diptych.domain.aggregate import Aggregate, AggregateRef, DeciderBinding, Deciding
from diptych.domain.inputs import Accepted, Answered, Failed, Refused
from diptych.domain.memory_rows import MemoryRows
from diptych.domain.outputs import After, Call, Output, Send, Step
from diptych.domain.process import InputBinding, Process, stepped
from diptych.domain.projection import CombinedQuery, FindQuery, GetQuery, Projection, View
from diptych.domain.query import Condition, Find, Order, repeated_field
from diptych.domain.refusal import Refusal
from diptych.domain.state_codec import StateCodec
from diptych.domain.upcasting import upcasted
from diptych.v1.events_pb2 import RecordedEvent

S = TypeVar("S")
R = TypeVar("R", bound=Message)

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
"""The time of a decision or a query, unless a test gives another."""

LOG_START = datetime(2026, 1, 1, tzinfo=UTC)
"""When the log of a test begins: the event at position N was recorded N seconds later."""

_BATCH_SIZES = (1, 2, 3)


@overload
def given(aggregate: Process[S], *events: Message, id: str = "") -> GivenProcess[S]: ...
@overload
def given(aggregate: Aggregate[S], *events: Message, id: str = "") -> Given[S]: ...
def given(aggregate: Aggregate[S], *events: Message, id: str = "") -> Given[S]:
    """An aggregate or a process after these events; without any, one that does not exist.

    `id` is its id. Left out, it is that of the command, or what the first event has in the field by which the
    aggregate's commands name it. Events that are no longer recorded are upcast, as from the log.
    """
    known = [upcasted(event, aggregate.upcasters) for event in events]
    if isinstance(aggregate, Process):
        return GivenProcess(aggregate, known, id or _id_of(aggregate, known))
    return Given(aggregate, known, id or _id_of(aggregate, known))


class Given(Generic[S]):
    """An aggregate and its history; made by `given`."""

    def __init__(self, aggregate: Aggregate[S], events: Sequence[Message], id: str) -> None:
        self.aggregate = aggregate
        self.id = id
        self.version = len(events)
        self.state: S = _evolve(aggregate, aggregate.initial, events)

    def when(
        self,
        command: Message,
        *,
        at: datetime = NOW,
        actor: str = "",
        also: Iterable[Given[Any]] = (),
        new_id: str = "made-by-the-engine",
    ) -> Decision[S]:
        """Sends a command, at a time, by a caller.

        `also` holds other aggregates that exist: those that the decider reads, and those of the same type that may
        have a unique value. `new_id` is the id that the engine makes if the command names none.
        """
        binding = self._binding(command)
        asked = type(command).FromString(command.SerializeToString())
        if binding.id_field is not None and not getattr(asked, binding.id_field):
            setattr(asked, binding.id_field, new_id)
        id = binding.id_of(asked)
        if self.id not in ("", id):
            raise ValueError(f"The events are of {self.aggregate.type} {self.id}, and the command is for {id}.")
        others = {other.ref: other for other in also}
        try:
            check(command)
            step = self._decide(binding, asked, id, at, actor, others)
            state = _evolve(self.aggregate, self.state, self._events(step, at))
            self._claim(state, id, others)
        except Refusal as refusal:
            return Decision(self.state, (), refusal)
        return Decision(state, tuple(step), None)

    @property
    def ref(self) -> AggregateRef:
        """The aggregate's name."""
        if not self.id:
            raise ValueError(f"Which {self.aggregate.type} is it? Give its id: given(..., id=...).")
        return self.aggregate.ref(self.id)

    def _binding(self, command: Message) -> DeciderBinding:
        name = command.DESCRIPTOR.full_name
        try:
            return self.aggregate.deciders[name]
        except KeyError:
            raise LookupError(f"Aggregate {self.aggregate.type} has no decider for {name}.") from None

    def _events(self, step: Step, at: datetime) -> Sequence[Message]:
        """What of a decision is recorded."""
        return [one for one in step if isinstance(one, Message)]

    def _decide(
        self,
        binding: DeciderBinding,
        command: Message,
        id: str,
        now: datetime,
        actor: str,
        others: Mapping[AggregateRef, Given[Any]],
    ) -> Step:
        reads = tuple(binding.reads(command)) if binding.reads is not None else ()
        states = {ref: (others[ref].state, others[ref].version) if ref in others else (None, 0) for ref in reads}
        told = Deciding(id=id, version=self.version, now=now, actor=actor, states=states)
        before = command.SerializeToString(deterministic=True)
        try:
            return binding.decide(self.state, command, told)
        finally:
            assert command.SerializeToString(deterministic=True) == before, "The decider changed the command."

    def _claim(self, state: S, id: str, others: Mapping[AggregateRef, Given[Any]]) -> None:
        """Refuses a unique value that another aggregate of the type has."""
        for unique in self.aggregate.uniques:
            wanted = unique.value(state)
            if not wanted or wanted == unique.value(self.state):
                continue
            for ref, other in others.items():
                if ref.type == self.aggregate.type and ref.id != id and unique.value(other.state) == wanted:
                    raise unique.taken(wanted)


class GivenProcess(Given[S]):
    """A process and its history; made by `given`. Each method gives it one input."""

    aggregate: Process[S]

    def hears(self, event: Message, *, at: datetime = NOW) -> Decision[S]:
        """An event of another aggregate is recorded. One whose key is of no instance leads to nothing."""
        binding = _handler(self.aggregate, self.aggregate.events, event, "reacts to")
        assert binding.key is not None
        id = binding.key(event)
        if not id:
            return Decision(self.state, (), None)
        return self._take(binding, event, at, id)

    def accepted(
        self, command: Message, *, aggregate: AggregateRef | None = None, version: int = 1, at: datetime = NOW
    ) -> Decision[S]:
        """A command that it sent is accepted, by an aggregate which is at that version from then on."""
        binding = _handler(self.aggregate, self.aggregate.acceptances, command, "handles the acceptance of")
        return self._take(binding, Accepted(command, aggregate or AggregateRef("", ""), version), at)

    def refused(self, command: Message, refusal: Refusal, *, at: datetime = NOW) -> Decision[S]:
        """A command that it sent is refused."""
        binding = _handler(self.aggregate, self.aggregate.refusals, command, "handles the refusal of")
        return self._take(binding, Refused(command, refusal.reason, str(refusal), refusal.metadata), at)

    def answered(self, request: Message, answer: Message, *, at: datetime = NOW) -> Decision[S]:
        """An effect that it called is answered."""
        binding = _handler(self.aggregate, self.aggregate.answers, request, "handles the answer to")
        return self._take(binding, Answered(request, answer), at)

    def failed(self, request: Message, reason: str, message: str = "", *, at: datetime = NOW) -> Decision[S]:
        """An effect that it called has failed for good."""
        binding = _handler(self.aggregate, self.aggregate.failures, request, "handles the failure of")
        return self._take(binding, Failed(request, reason, message), at)

    def times_out(self, timeout: Message, *, at: datetime = NOW) -> Decision[S]:
        """A timeout that it set is due."""
        return self._take(_handler(self.aggregate, self.aggregate.timeouts, timeout, "handles timeout"), timeout, at)

    def _take(self, binding: InputBinding, what: Any, now: datetime, id: str = "") -> Decision[S]:
        if self.id and id and self.id != id:
            raise ValueError(f"The events are of {self.aggregate.type} {self.id}, and the event is heard by {id}.")
        told = Deciding(
            id=self.id or id, version=self.version, now=now, actor=f"process/{self.aggregate.type}", states={}
        )
        step = binding.handle(self.state, what, told)
        return Decision(_evolve(self.aggregate, self.state, self._events(step, now)), tuple(step), None)

    def _binding(self, command: Message) -> DeciderBinding:
        starter: Any = self.aggregate.starters[command.DESCRIPTOR.full_name]
        return super()._binding(command)._replace(decide=starter)

    def _events(self, step: Step, at: datetime) -> Sequence[Message]:
        for one in step:
            if isinstance(one, Send):
                check(one.command)
        return stepped(self.aggregate, step, at, "")


def _handler(process: Process[Any], bindings: Mapping[str, InputBinding], message: Message, what: str) -> InputBinding:
    name = message.DESCRIPTOR.full_name
    if name not in bindings:
        raise LookupError(f"Process {process.type} has no handler that {what} {name}.")
    return bindings[name]


class Decision(Generic[S]):
    """What came of a command, or of an input of a process; made by `Given` and `GivenProcess`."""

    def __init__(self, state: S, step: tuple[Message | Output, ...], refusal: Refusal | None) -> None:
        self.state = state
        """The aggregate's state after it."""
        self.step = step
        """What follows, events and outputs."""
        self.refusal = refusal

    @property
    def events(self) -> tuple[Message, ...]:
        """What follows, without outputs."""
        return tuple(one for one in self.step if isinstance(one, Message))

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What a process wants done."""
        return tuple(one for one in self.step if not isinstance(one, Message))

    def then(self, *step: Message | Output) -> Self:
        """Exactly these events were recorded and these outputs made, in this order."""
        self._accepted()
        assert list(self.step) == list(step), f"Expected{_shown(step)}\nbut recorded{_shown(self.step)}"
        return self

    def then_nothing(self) -> Self:
        """The command succeeded, and nothing was recorded."""
        return self.then()

    def refused(self, refusal: Refusal) -> Self:
        """The command was refused, for this reason and with these values."""
        assert self.refusal is not None, f"Expected {refusal!r}, but recorded{_shown(self.step)}"
        assert self.refusal == refusal, f"Expected {refusal!r}, but was refused by {self.refusal!r}"
        return self

    def invalid(self, *paths: str) -> Self:
        """The command breaks the rules of its contract for exactly these fields."""
        assert self.refusal is not None, f"Expected a refusal, but recorded{_shown(self.step)}"
        assert isinstance(self.refusal, InvalidRequest), f"Refused by {self.refusal!r}"
        assert sorted(path for path, _ in self.refusal.rules) == sorted(paths), f"Refused by {self.refusal!r}"
        return self

    def _accepted(self) -> None:
        assert self.refusal is None, f"Refused by {self.refusal!r}"


def recorded(
    event: Message, *, aggregate: AggregateRef | None = None, version: int = 0, time: datetime | None = None
) -> RecordedEvent:
    """An event as the log has it, for a test that cares for more than the event itself.

    What is left out is filled in by `fold`: the aggregate's id is the event's first field, its version the number of
    events so far with the same one, the time that of the position (see `LOG_START`).
    """
    made = RecordedEvent(version=version)
    if aggregate is not None:
        made.aggregate.type, made.aggregate.id = aggregate
    if time is not None:
        made.record_time.FromDatetime(time)
    made.event.Pack(event, deterministic=True)
    return made


def log_of(*events: Message) -> list[RecordedEvent]:
    """A log of these events (`recorded` or bare), from position 1."""
    log: list[RecordedEvent] = []
    versions: dict[tuple[str, str], int] = {}
    for position, event in enumerate(events, 1):
        made = RecordedEvent()
        if isinstance(event, RecordedEvent):
            made.CopyFrom(event)
        else:
            made.CopyFrom(recorded(event))
            first = event.DESCRIPTOR.fields[0].name
            made.aggregate.type, made.aggregate.id = first.removesuffix("_id"), str(getattr(event, first))
        stream = (made.aggregate.type, made.aggregate.id)
        made.version = versions[stream] = made.version or versions.get(stream, 0) + 1
        made.position = position
        made.event_id = f"event-{position}"
        if not made.HasField("record_time"):
            made.record_time.FromDatetime(LOG_START + timedelta(seconds=position))
        log.append(made)
    return log


@overload
def fold(target: View[R], *events: Message) -> dict[str, R]: ...
@overload
def fold(target: Projection, *events: Message) -> dict[str, dict[str, Message]]: ...
def fold(target: View[Any] | Projection, *events: Message) -> dict[str, Any]:
    """The rows of a view, or of each view of a projection by name, after these events (`recorded` or bare).

    The events are folded all at once and then in batches of one, two and three: the rows must be the same, to the
    byte and to the position that last changed each. Raises what a fold raises.
    """
    projection = target.projection if isinstance(target, View) else target
    rows = _fold(projection, log_of(*events))
    if isinstance(target, View):
        return _live(target, rows)
    return {view.name: _live(view, rows) for view in projection.views}


def ask(projection: Projection, request: Message, *events: Message, now: datetime = NOW) -> Any:
    """The answer to a query after these events; raises the refusal. A list comes as one page."""
    query = projection.queries[request.DESCRIPTOR.full_name]
    check(request)
    rows = _fold(projection, log_of(*events))
    match query:
        case GetQuery():
            key = query.key(request)
            row = rows.row(query.view, key)
            if row is not None:
                return row
            missing = query.missing(request) if query.missing else RowNotFound(view=query.view.name, key=key)
            if isinstance(missing, Refusal):
                raise missing
            return missing
        case FindQuery():
            return _list(query, request, _live(query.view, rows), now)
        case CombinedQuery():
            selection = query.select(request, now)
            return query.combine(request, _found(selection.find, _live(selection.view, rows)))


def _id_of(aggregate: Aggregate[Any], events: Sequence[Message]) -> str:
    if not events or not isinstance(aggregate.id, str):
        return ""
    return str(getattr(events[0], aggregate.id, ""))


def _evolve(aggregate: Aggregate[S], state: S, events: Iterable[Message]) -> S:
    """The state after events, each as it comes back from the log."""
    codec = StateCodec(type(aggregate.initial))
    for event in events:
        before = codec.encode(state)
        new = aggregate.evolve(state, type(event).FromString(event.SerializeToString()))
        name = event.DESCRIPTOR.full_name
        assert codec.encode(state) == before, f"The evolver of {name} changed the state that it was given."
        assert codec.decode(codec.encode(new)) == new, f"The state after {name} does not survive a snapshot: {new}"
        state = new
    return state


def _fold(projection: Projection, log: Sequence[RecordedEvent]) -> MemoryRows:
    rows = _in_batches(projection, log, len(log) or 1)
    for size in _BATCH_SIZES:
        other = _in_batches(projection, log, size)
        for view in projection.views:
            assert other.rows[view.name] == rows.rows[view.name], (
                f"The rows of view {view.name} depend on how events are batched: {rows.rows[view.name]} "
                f"all at once, {other.rows[view.name]} in batches of {size}."
            )
    return rows


def _in_batches(projection: Projection, log: Sequence[RecordedEvent], size: int) -> MemoryRows:
    rows = MemoryRows(projection)
    for start in range(0, len(log), size):
        failure = rows.apply(log[start : start + size]).failure
        if failure is not None:
            raise failure
    return rows


def _live(view: View[R], rows: MemoryRows) -> dict[str, R]:
    found = {key: rows.row(view, key) for key in sorted(rows.rows[view.name])}
    return {key: row for key, row in found.items() if row is not None}


def _list(query: FindQuery, request: Any, rows: Mapping[str, Message], now: datetime) -> Message:
    find = query.find(request, now)
    if getattr(request, "order_by", ""):
        find = Find(*find.conditions, order=[_order(query, part) for part in request.order_by.split(",")])
    found = _found(find, rows)
    response: Any = query.response()
    field = repeated_field(response.DESCRIPTOR, query.view.row.DESCRIPTOR)
    assert field is not None
    getattr(response, field.name).extend(found)
    if getattr(request, "include_total", False):
        response.total_size = len(found)
    return query.response.FromString(response.SerializeToString())


def _order(query: FindQuery, text: str) -> Order:
    name, _, direction = text.strip().partition(" ")
    return Order(query.order_by[name], direction == "desc")


def _found(find: Find, rows: Mapping[str, R]) -> list[R]:
    """The rows that meet all conditions, in the order; equal ones by key, in the direction of the last column."""
    found = [(key, row) for key, row in rows.items() if all(_holds(one, row) for one in find.conditions)]
    found.sort(key=lambda item: item[0], reverse=bool(find.order) and find.order[-1].descending)
    for order in reversed(find.order):
        column = order.column
        found.sort(key=lambda item: column.value(item[1]), reverse=order.descending)
    return [row for _, row in found]


def _holds(condition: Condition, row: Message) -> bool:
    value, wanted = condition.column.value(row), condition.value
    return bool(_COMPARISONS[condition.operator](value, wanted))


_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda value, listed: value in listed,
    "contains": operator.contains,
    "prefix": str.startswith,
}


def _shown(step: Step) -> str:
    if not step:
        return " nothing"
    return ":\n" + "\n".join(_shown_one(one) for one in step)


def _shown_one(one: Message | Output) -> str:
    match one:
        case Message():
            return f"{one.DESCRIPTOR.name} {{\n{one}}}"
        case After(delay, timeout):
            return f"after {delay}: {_shown_one(timeout)}"
        case Send(command, compensates):
            return f"send{', to compensate,' if compensates else ''} {_shown_one(command)}"
        case Call(request, compensates):
            return f"call{', to compensate,' if compensates else ''} {_shown_one(request)}"
