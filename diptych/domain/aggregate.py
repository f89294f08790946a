"""Aggregates: what decides.

An aggregate is a type of consistency boundary: an immutable state, *deciders* (a command and a state give events,
or a refusal), *evolvers* (a state and an event give the next state) and *upcasters* (an event that is no longer
recorded gives one that is). All of it is pure: the engine gives the time, the caller and new ids through `Deciding`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from diptych.domain.refusal import Refusal

S = TypeVar("S")
T = TypeVar("T")
C = TypeVar("C", bound=Message)
E = TypeVar("E", bound=Message)
Old = TypeVar("Old", bound=Message)
MessageType = type[Message]


class AggregateRef(NamedTuple):
    """Names an aggregate by type and id. As a string, `type/id`, it names its stream."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"


class Deciding:
    """What a decider is told beside the state and the command."""

    __slots__ = ("_states", "actor", "id", "now", "version")

    def __init__(
        self,
        *,
        id: str,
        version: int,
        now: datetime,
        actor: str,
        states: Mapping[AggregateRef, tuple[Any, int]],
    ) -> None:
        self.id = id
        """The aggregate's id."""
        self.version = version
        """The aggregate's version; 0: it does not exist."""
        self.now = now
        """The time of the decision, aware, UTC. All commands of one commit share it."""
        self.actor = actor
        """Who sent the command; empty: an anonymous caller."""
        self._states = states

    def state(self, aggregate: Aggregate[T], id: str) -> T:
        """The state of another aggregate, which the decider's `reads` must have named; initial: does not exist."""
        state, version = self._read(aggregate, id)
        known: T = state if version else aggregate.initial
        return known

    def version_of(self, aggregate: Aggregate[Any], id: str) -> int:
        """The version of another aggregate, which the decider's `reads` must have named; 0: does not exist."""
        return self._read(aggregate, id)[1]

    def _read(self, aggregate: Aggregate[Any], id: str) -> tuple[Any, int]:
        try:
            return self._states[AggregateRef(aggregate.type, id)]
        except KeyError:
            raise LookupError(f"The decider reads {aggregate.type}/{id}, which its `reads` does not name.") from None

    @staticmethod
    def new_id() -> str:
        """A new unique id, a UUIDv7."""
        return new_id()


Decider = Callable[[S, C, Deciding], Sequence[Message]]
Evolver = Callable[[S, E], S]


class DeciderBinding(NamedTuple):
    """A command type bound to what decides it."""

    aggregate: Aggregate[Any]
    command: Any
    decide: Callable[[Any, Any, Deciding], Sequence[Message]]
    reads: Callable[[Any], Iterable[AggregateRef]] | None
    id_of: Callable[[Any], str]
    id_field: str | None
    """The command's field that names the aggregate, and which the engine fills when it is empty."""
    internal: bool = False
    """Whether only processes send it: it is no rpc."""


class Upcaster(NamedTuple):
    """How an event that is no longer recorded is told as one that is."""

    event: Any
    """The old type."""
    becomes: tuple[Any, ...]
    """The types that it can become."""
    upcast: Callable[[Any], Message]


class UniqueBinding(NamedTuple):
    """A value that no two aggregates of a type may have at once."""

    name: str
    value: Callable[[Any], str | None]
    taken: Callable[[str], Refusal]


class Aggregate(Generic[S]):
    """A type of aggregate.

    `type` is its name in contracts and streams; `initial` the state of one that does not exist (a frozen
    dataclass of scalars, enums, tuples, messages and such dataclasses); `id` the field of its commands that
    names the aggregate, or a function of the command.
    """

    def __init__(self, type: str, *, initial: S, id: str | Callable[[Any], str]) -> None:
        self.type = type
        self.initial = initial
        self.id = id
        self.deciders: dict[str, DeciderBinding] = {}
        self.evolvers: dict[str, tuple[MessageType, Callable[[Any, Any], Any]]] = {}
        self.upcasters: dict[str, Upcaster] = {}
        self.uniques: list[UniqueBinding] = []

    def __repr__(self) -> str:
        return f"Aggregate({self.type!r})"

    def ref(self, id: str) -> AggregateRef:
        """Names one aggregate of this type."""
        return AggregateRef(self.type, id)

    def decides(
        self,
        command: type[C],
        *,
        reads: Callable[[C], Iterable[AggregateRef]] | None = None,
        id: str | Callable[[C], str] | None = None,
        internal: bool = False,
    ) -> Callable[[Decider[S, C]], Decider[S, C]]:
        """Binds a command type to a decider: `(state, command, at) -> events`.

        `reads` names other aggregates that the decision depends on; they are read with this one, and the decision
        is void if any of them changed before it was recorded. `id` overrides the aggregate's own. A command that is
        `internal` is sent by processes alone: it is no rpc of the contract, and unknown to clients.

        The decider returns the events to record, none for "nothing to do", or raises a `Refusal`. Its return
        annotation should name the events (`-> Sequence[CopyBorrowed | CopyLost]`): the engine then checks at start
        that each has an evolver.
        """
        name = command.DESCRIPTOR.full_name
        if name in self.deciders:
            raise ValueError(f"{name} is decided twice by aggregate {self.type}.")
        chosen = self.id if id is None else id

        def bind(decide: Decider[S, C]) -> Decider[S, C]:
            if isinstance(chosen, str):
                if chosen not in command.DESCRIPTOR.fields_by_name:
                    raise ValueError(f"{name} has no field {chosen} to name its {self.type} by.")
                field = chosen
                self.deciders[name] = DeciderBinding(
                    self, command, decide, reads, lambda message: str(getattr(message, field)), field, internal
                )
            else:
                self.deciders[name] = DeciderBinding(self, command, decide, reads, chosen, None, internal)
            return decide

        return bind

    def evolves(self, event: type[E]) -> Callable[[Evolver[S, E]], Evolver[S, E]]:
        """Binds an event type to its evolver: `(state, event) -> state`. It never refuses and never mutates."""
        name = event.DESCRIPTOR.full_name
        if name in self.evolvers:
            raise ValueError(f"{name} is evolved twice by aggregate {self.type}.")

        def bind(evolve: Evolver[S, E]) -> Evolver[S, E]:
            self.evolvers[name] = (event, evolve)
            return evolve

        return bind

    def upcast(self, old: type[Old], *new: type[E]) -> Callable[[Callable[[Old], E]], Callable[[Old], E]]:
        """Binds an event type that is no longer recorded to a pure function that tells it as one of newer types.

        What was recorded stays as it is. Evolvers and folds see the new event in its place; an upcaster of that is
        applied in turn. With several new types, which one it becomes depends on the old event alone.
        """
        name = old.DESCRIPTOR.full_name
        if name in self.upcasters:
            raise ValueError(f"{name} is upcast twice by aggregate {self.type}.")
        if not new:
            raise ValueError(f"{name} is upcast to nothing by aggregate {self.type}; name the type that it becomes.")
        for kind in new:
            if name in (kind.DESCRIPTOR.full_name, *becomes(kind.DESCRIPTOR.full_name, self.upcasters)):
                raise ValueError(f"{name} is upcast to itself by aggregate {self.type}.")

        def bind(upcast: Callable[[Old], E]) -> Callable[[Old], E]:
            def checked(event: Old) -> E:
                made = upcast(event)
                if type(made) not in new:
                    raise TypeError(
                        f"The upcaster of {name} returned a {type(made).__name__}, and it becomes "
                        f"{' or '.join(kind.DESCRIPTOR.full_name for kind in new)}."
                    )
                return made

            self.upcasters[name] = Upcaster(old, new, checked)
            return upcast

        return bind

    def unique(
        self, name: str, *, taken: Callable[[str], Refusal]
    ) -> Callable[[Callable[[S], str | None]], Callable[[S], str | None]]:
        """Declares a value that no two aggregates of this type have at once, as a pure function of the state.

        The engine takes the new value and releases the old one in the transaction that records the events.
        None or empty: has none. `taken` makes the refusal for a value that another one has.
        """

        def bind(value: Callable[[S], str | None]) -> Callable[[S], str | None]:
            self.uniques.append(UniqueBinding(name, value, taken))
            return value

        return bind

    def evolve(self, state: S, event: Message) -> S:
        """The state after an event; raises `LookupError` for an event that this aggregate does not know."""
        try:
            bound = self.evolvers[event.DESCRIPTOR.full_name]
        except KeyError:
            raise LookupError(f"Aggregate {self.type} has no evolver for {event.DESCRIPTOR.full_name}.") from None
        evolved: S = bound[1](state, event)
        return evolved

    def recorded(self, name: str, data: bytes) -> Message:
        """A recorded event, by the full name of its type, as evolvers see it; raises `LookupError`, `DecodeError`."""
        upcaster = self.upcasters.get(name)
        if upcaster is not None:
            return upcasted(upcaster.event.FromString(data), self.upcasters)
        try:
            kind = self.evolvers[name][0]
        except KeyError:
            raise LookupError(f"Aggregate {self.type} does not know the event {name}.") from None
        return kind.FromString(data)


def upcasted(event: Message, upcasters: Mapping[str, Upcaster]) -> Message:
    """An event as evolvers and folds see it."""
    while (upcaster := upcasters.get(event.DESCRIPTOR.full_name)) is not None:
        event = upcaster.upcast(event)
    return event


def becomes(name: str, upcasters: Mapping[str, Upcaster]) -> set[str]:
    """The types that an event type can become, by one upcaster or several, those in between included."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        upcaster = upcasters.get(waiting.pop())
        for kind in upcaster.becomes if upcaster is not None else ():
            if kind.DESCRIPTOR.full_name not in found:
                found.add(kind.DESCRIPTOR.full_name)
                waiting.append(kind.DESCRIPTOR.full_name)
    return found


def new_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7) in its canonical form: ids made later sort later, to the millisecond."""
    value = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10), "big")
    value = (value & ~(0xF << 76)) | (7 << 76)
    value = (value & ~(3 << 62)) | (2 << 62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
