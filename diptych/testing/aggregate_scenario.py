"""An aggregate with a history, and commands for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from diptych.contract.validation import check
from diptych.domain.aggregate import Aggregate, AggregateRef, DeciderBinding, Deciding
from diptych.domain.outputs import Step
from diptych.domain.refusal import Refusal
from diptych.domain.results import checked_events
from diptych.domain.state_codec import StateCodec
from diptych.testing.decision import Decision
from diptych.testing.log import NOW

S = TypeVar("S")


class Given(Generic[S]):
    """An aggregate and its history; made by `given`."""

    def __init__(self, aggregate: Aggregate[S], events: Sequence[Message], id: str) -> None:
        self.aggregate = aggregate
        self.id = id
        """The aggregate's id; empty: the command names it."""
        self.version = len(events)
        self.state: S = evolved(aggregate, aggregate.initial, events)

    def when(
        self,
        command: Message,
        *,
        at: datetime = NOW,
        actor: str = "",
        also: Iterable[Given[Any]] = (),
        new_id: str = "made-by-the-engine",
    ) -> Decision[S]:
        """Return the decision of a command. A refusal is part of the decision.

        Args:
            command: The command. Rules of its contract are checked first.
            at: The time of the decision, aware.
            actor: The sender; empty for an anonymous caller.
            also: Other aggregates that exist: those that the decider reads, and those of the same type that may have
                a unique value.
            new_id: The id that the engine fills in if the command has none.

        Raises:
            LookupError: The aggregate has no decider for the command, or the decider reads an aggregate that its
                `reads` does not name.
            TypeError: The decider or an evolver returned another type than it must; the error names it and its place.
            ValueError: The command is for another id than the events.
            AssertionError: The decider changed the command, an evolver changed a state, or a state is not equal to
                itself after a snapshot.
        """
        binding = self._binding(command)
        copy = type(command).FromString(command.SerializeToString())
        if binding.id_field is not None and not getattr(copy, binding.id_field):
            setattr(copy, binding.id_field, new_id)
        id = binding.id_of(copy)
        if self.id not in ("", id):
            raise ValueError(f"The events are of {self.aggregate.type} {self.id}, and the command is for {id}.")
        others = {other.ref: other for other in also}
        try:
            check(command)
            step = self._decide(binding, copy, id, at, actor, others)
            state = evolved(self.aggregate, self.state, self._events(step, at))
            self._check_unique_values(state, id, others)
        except Refusal as refusal:
            return Decision(self.state, (), refusal)
        return Decision(state, tuple(step), None)

    @property
    def ref(self) -> AggregateRef:
        """The reference to the aggregate. Raises `ValueError` if its id is unknown."""
        if not self.id:
            raise ValueError(f"The {self.aggregate.type} has no id; give it one: given(..., id=...).")
        return self.aggregate.ref(self.id)

    def _binding(self, command: Message) -> DeciderBinding:
        name = command.DESCRIPTOR.full_name
        try:
            return self.aggregate.deciders[name]
        except KeyError:
            raise LookupError(f"Aggregate {self.aggregate.type} has no decider for {name}.") from None

    def _checked(self, binding: DeciderBinding, step: Any) -> Step:
        """Return the result of a decider. Raise `TypeError` for one of a wrong type."""
        return checked_events(f"The decider of {binding.command.DESCRIPTOR.full_name}", binding.decide, step)

    def _events(self, step: Step, at: datetime) -> Sequence[Message]:
        """Return the events that record a step."""
        return [item for item in step if isinstance(item, Message)]

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
        context = Deciding(id=id, version=self.version, now=now, actor=actor, states=states)
        before = command.SerializeToString(deterministic=True)
        try:
            return self._checked(binding, binding.decide(self.state, command, context))
        finally:
            assert command.SerializeToString(deterministic=True) == before, "The decider changed the command."

    def _check_unique_values(self, state: S, id: str, others: Mapping[AggregateRef, Given[Any]]) -> None:
        """Raise the refusal for a new unique value that another aggregate of the type has."""
        for unique in self.aggregate.uniques:
            value = unique.value(state)
            if not value or value == unique.value(self.state):
                continue
            for ref, other in others.items():
                if ref.type == self.aggregate.type and ref.id != id and unique.value(other.state) == value:
                    raise unique.taken(value)


def evolved(aggregate: Aggregate[S], state: S, events: Iterable[Message]) -> S:
    """Return the state after events, each parsed from its bytes as from the log.

    Raises:
        AssertionError: An evolver changed its state, or a state is not equal to itself after a snapshot.
    """
    codec = StateCodec(type(aggregate.initial))
    for event in events:
        before = codec.encode(state)
        new = aggregate.evolve(state, type(event).FromString(event.SerializeToString()))
        name = event.DESCRIPTOR.full_name
        assert codec.encode(state) == before, f"The evolver of {name} changed the state that it was given."
        assert codec.decode(codec.encode(new)) == new, f"The state after {name} does not survive a snapshot: {new}"
        state = new
    return state
