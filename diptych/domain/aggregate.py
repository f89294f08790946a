"""Aggregates: the decision side of a domain.

An aggregate is a type of consistency boundary with an immutable state. *Deciders* turn a command and a state into
events or a refusal. *Evolvers* turn a state and an event into the next state. *Upcasters* turn an event of an old type
into one of a newer type. All of them are pure: the engine passes the time, the caller and new ids in `Deciding`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from diptych.domain.ids import new_id
from diptych.domain.places import calling_place, named
from diptych.domain.refusal import Refusal
from diptych.domain.results import wrong_state
from diptych.domain.upcasting import Upcaster, becomes, upcasted

S = TypeVar("S")
T = TypeVar("T")
C = TypeVar("C", bound=Message)
E = TypeVar("E", bound=Message)
Old = TypeVar("Old", bound=Message)
MessageType = type[Message]


class AggregateIdError(ValueError):
    """A type or an id that cannot name an aggregate's stream."""


class _AggregateRef(NamedTuple):
    type: str
    id: str


class AggregateRef(_AggregateRef):
    """Type and id of one aggregate. As a string, `type/id`, it names the aggregate's stream.

    Raises:
        AggregateIdError: The type or the id is no string, has the character NUL (SQLite reads a list of names only up
            to it), or is no text that UTF-8 can encode; or the type has a slash.
    """

    __slots__ = ()

    def __new__(cls, type: str, id: str) -> AggregateRef:
        """Return the reference after a check of type and id."""
        for part, text in (("type", type), ("id", id)):
            if not isinstance(text, str):
                raise AggregateIdError(f"an aggregate's {part} must be a string, not {text.__class__.__name__}")
            if "\0" in text:
                raise AggregateIdError(f"an aggregate's {part} must not contain the character NUL: {text!r}")
            if not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise AggregateIdError(
                        f"an aggregate's {part} must be text that UTF-8 can encode: {text!r}"
                    ) from None
        if "/" in type:
            raise AggregateIdError(f"an aggregate's type must not contain a slash: {type!r}")
        return super().__new__(cls, type, id)

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"


class Deciding:
    """Context of one decision: the third argument of deciders and of a process's handlers."""

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
        """The aggregate's version; 0 if it does not exist."""
        self.now = now
        """The time of the decision, aware, UTC. All commands of one commit share it."""
        self.actor = actor
        """The sender of the command; empty for an anonymous caller, `process/<type>` for a process."""
        self._states = states

    def state(self, aggregate: Aggregate[T], id: str) -> T:
        """Return the state of another aggregate; the initial state if it does not exist.

        Raises:
            LookupError: The decider's `reads` did not name it.
        """
        state, version = self._read(aggregate, id)
        current: T = state if version else aggregate.initial
        return current

    def version_of(self, aggregate: Aggregate[Any], id: str) -> int:
        """Return the version of another aggregate; 0 if it does not exist.

        Raises:
            LookupError: The decider's `reads` did not name it.
        """
        return self._read(aggregate, id)[1]

    def _read(self, aggregate: Aggregate[Any], id: str) -> tuple[Any, int]:
        try:
            return self._states[AggregateRef(aggregate.type, id)]
        except KeyError:
            raise LookupError(f"The decider reads {aggregate.type}/{id}, which its `reads` does not name.") from None

    @staticmethod
    def new_id() -> str:
        """Return a new unique id, a UUIDv7."""
        return new_id()


Decider = Callable[[S, C, Deciding], Sequence[Message]]
Evolver = Callable[[S, E], S]


class DeciderBinding(NamedTuple):
    """A command type bound to its decider."""

    aggregate: Aggregate[Any]
    command: Any
    decide: Callable[[Any, Any, Deciding], Sequence[Message]]
    reads: Callable[[Any], Iterable[AggregateRef]] | None
    id_of: Callable[[Any], str]
    id_field: str | None
    """The command's field with the aggregate's id. The engine fills it when it is empty."""
    internal: bool = False
    """True if only processes send the command; it then has no rpc."""


class UniqueBinding(NamedTuple):
    """A value that at most one aggregate of a type has at a time."""

    name: str
    value: Callable[[Any], str | None]
    taken: Callable[[str], Refusal]
    version: int = 0
    """Version of the function; 0: its code tells versions apart."""


class Aggregate(Generic[S]):
    """A type of aggregate.

    Args:
        type: The name in contracts and streams.
        initial: The state of an aggregate that does not exist: a frozen dataclass of scalars, aware datetimes,
            enums, tuples, messages and such dataclasses.
        id: The field of the commands that has the aggregate's id, or a function of the command that returns the id.
    """

    def __init__(self, type: str, *, initial: S, id: str | Callable[[Any], str]) -> None:
        self.type = AggregateRef(type, "").type
        self.initial = initial
        self.id = id
        self.location = calling_place()
        """File and line of the declaration."""
        self._state_type = initial.__class__
        self.deciders: dict[str, DeciderBinding] = {}
        """By the full name of the command's type."""
        self.evolvers: dict[str, tuple[MessageType, Callable[[Any, Any], Any]]] = {}
        """Event types and their evolvers, by the full name of the type."""
        self.upcasters: dict[str, Upcaster] = {}
        """By the full name of the old event type."""
        self.uniques: list[UniqueBinding] = []

    def __repr__(self) -> str:
        return f"Aggregate({self.type!r})"

    def ref(self, id: str) -> AggregateRef:
        """Return the reference to one aggregate of this type."""
        return AggregateRef(self.type, id)

    def decides(
        self,
        command: type[C],
        *,
        reads: Callable[[C], Iterable[AggregateRef]] | None = None,
        id: str | Callable[[C], str] | None = None,
        internal: bool = False,
    ) -> Callable[[Decider[S, C]], Decider[S, C]]:
        """Bind the decorated decider, `(state, command, at) -> events`, to a command type.

        The decider returns the events to record, none for "nothing to do", or raises a `Refusal`. Name the events in
        its return annotation (`-> Sequence[CopyBorrowed | CopyLost]`): loading the domain then checks that each has
        an evolver.

        Args:
            command: The command type.
            reads: Returns the other aggregates that the decision depends on. The engine reads them together with
                this one, and decides again if any of them changes before the commit.
            id: Replaces the aggregate's own `id` for this command.
            internal: True if only processes send the command. It then is no rpc of the contract, and clients cannot
                send it.

        Raises:
            ValueError: The aggregate decides this command already, or the command has no field named `id`.
        """
        name = command.DESCRIPTOR.full_name
        if name in self.deciders:
            raise ValueError(f"{name} is decided twice by aggregate {self.type}.")
        id_source = self.id if id is None else id

        def bind(decide: Decider[S, C]) -> Decider[S, C]:
            if isinstance(id_source, str):
                if id_source not in command.DESCRIPTOR.fields_by_name:
                    raise ValueError(f"{name} has no field {id_source} with the id of its {self.type}.")
                field = id_source
                self.deciders[name] = DeciderBinding(
                    self, command, decide, reads, lambda message: str(getattr(message, field)), field, internal
                )
            else:
                self.deciders[name] = DeciderBinding(self, command, decide, reads, id_source, None, internal)
            return decide

        return bind

    def evolves(self, event: type[E]) -> Callable[[Evolver[S, E]], Evolver[S, E]]:
        """Bind the decorated evolver, `(state, event) -> state`, to an event type.

        An evolver returns a new state. It never refuses an event and never changes the state that it gets.

        Raises:
            ValueError: The aggregate evolves this event already.
        """
        name = event.DESCRIPTOR.full_name
        if name in self.evolvers:
            raise ValueError(f"{name} is evolved twice by aggregate {self.type}.")

        def bind(evolve: Evolver[S, E]) -> Evolver[S, E]:
            self.evolvers[name] = (event, evolve)
            return evolve

        return bind

    def upcast(self, old: type[Old], *new: type[E]) -> Callable[[Callable[[Old], E]], Callable[[Old], E]]:
        """Bind the decorated pure function, `(old event) -> new event`, to an event type that is no longer recorded.

        The log keeps the old event. Evolvers and folds get the new one; if that has an upcaster too, it is applied in
        turn. With several new types, the old event alone decides which one it becomes.

        Raises:
            ValueError: The aggregate upcasts the type already, no new type is named, or the type would become itself.
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
            @functools.wraps(upcast)
            def checked(event: Old) -> E:
                result = upcast(event)
                if type(result) not in new:
                    raise TypeError(
                        f"The upcaster of {name}, {named(upcast)}, returned a {type(result).__name__}, and it becomes "
                        f"{' or '.join(kind.DESCRIPTOR.full_name for kind in new)}."
                    )
                return result

            self.upcasters[name] = Upcaster(old, new, checked)
            return upcast

        return bind

    def unique(
        self, name: str, *, taken: Callable[[str], Refusal], version: int = 0
    ) -> Callable[[Callable[[S], str | None]], Callable[[S], str | None]]:
        """Declare the decorated pure function, `(state) -> value`, as unique among the aggregates of this type.

        The engine takes the new value and releases the old one in the transaction that records the events. None or
        empty stands for no value.

        Args:
            name: The name of the value, as `email`.
            taken: Returns the refusal for a value that another aggregate has.
            version: Version of the function, to be raised when it returns other values. 0: the engine compares the code
                of the function and of the aggregate's evolvers with the code that served the log before. If they
                differ, the command server folds the values again from the log before it serves.
        """

        def bind(value: Callable[[S], str | None]) -> Callable[[S], str | None]:
            self.uniques.append(UniqueBinding(name, value, taken, version))
            return value

        return bind

    def evolve(self, state: S, event: Message) -> S:
        """Return the state after an event.

        Raises:
            LookupError: The aggregate has no evolver for the event.
            TypeError: The evolver returned no state of the aggregate.
        """
        try:
            evolve = self.evolvers[event.DESCRIPTOR.full_name][1]
        except KeyError:
            raise LookupError(f"Aggregate {self.type} has no evolver for {event.DESCRIPTOR.full_name}.") from None
        evolved: S = evolve(state, event)
        if not isinstance(evolved, self._state_type):
            raise wrong_state(self.type, event, evolve, self._state_type, evolved)
        return evolved

    def recorded(self, name: str, data: bytes) -> Message:
        """Parse a recorded event and upcast it.

        Args:
            name: The full name of the recorded type.
            data: The recorded bytes.

        Raises:
            LookupError: The aggregate has neither an evolver nor an upcaster for the type.
            DecodeError: The bytes are no message of the type.
        """
        upcaster = self.upcasters.get(name)
        if upcaster is not None:
            return upcasted(upcaster.event.FromString(data), self.upcasters)
        try:
            kind = self.evolvers[name][0]
        except KeyError:
            raise LookupError(f"Aggregate {self.type} does not know the event {name}.") from None
        return kind.FromString(data)
