"""World of an exploration: the state of a domain and of the systems outside at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from diptych.domain.aggregate import Aggregate, AggregateRef
from diptych.domain.outputs import Call, Output, Send
from diptych.domain.process import InputBinding

S = TypeVar("S")


class AggregateSnapshot(NamedTuple):
    """State and version of one aggregate."""

    state: Any
    version: int
    encoded: bytes
    """The bytes of the state, for comparisons."""


class PendingInput(NamedTuple):
    """An input that an instance has not handled yet."""

    instance: AggregateRef
    name: str
    """The label of a transition: `OrderPlaced`, `ReserveStock refused`."""
    binding: InputBinding
    input: Any
    message: Message
    """The event, command, request or timeout of the input, for comparisons."""


@dataclass(frozen=True)
class World:
    """The state of everything at one moment. Worlds with the same `key` continue in the same ways."""

    aggregates: Mapping[AggregateRef, AggregateSnapshot]
    outputs: tuple[tuple[AggregateRef, Output], ...] = ()
    """Outputs of instances that are not executed yet."""
    outcomes: tuple[PendingInput, ...] = ()
    """Outcomes of executed outputs that are not handled yet, in any order."""
    events: tuple[PendingInput, ...] = ()
    """Events that are not handled yet, in the order of the log."""
    clients: tuple[Message, ...] = ()
    """Commands that clients can still send."""
    memory: str = ""
    """The memory of the systems outside, see `Answer.memory`."""

    @property
    def key(self) -> tuple[object, ...]:
        """A hashable value that is equal for equal worlds."""
        return (
            tuple(sorted((ref, each.version, each.encoded) for ref, each in self.aggregates.items())),
            tuple(sorted((ref, type(output).__name__, _bytes(_message(output))) for ref, output in self.outputs)),
            tuple(sorted((each.instance, each.name, _bytes(each.message)) for each in self.outcomes)),
            tuple((each.instance, _bytes(each.message)) for each in self.events),
            tuple(_bytes(command) for command in self.clients),
            self.memory,
        )

    @property
    def at_rest(self) -> bool:
        """True while nothing can happen unless a client sends a command."""
        return not (self.outputs or self.outcomes or self.events)

    def state(self, aggregate: Aggregate[S], id: str) -> S:
        """Return the state of an aggregate; the initial state if it does not exist."""
        snapshot = self.aggregates.get(aggregate.ref(id))
        state: S = aggregate.initial if snapshot is None else snapshot.state
        return state


def _message(output: Output) -> Message:
    """Return the command, request or timeout of an output."""
    if isinstance(output, Send):
        return output.command  # type: ignore[no-any-return]
    return output.request if isinstance(output, Call) else output.timeout  # type: ignore[no-any-return]


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)
