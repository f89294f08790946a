"""Explorer: the worlds that can follow one world."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message

from diptych.contract.validation import check
from diptych.domain.aggregate import Aggregate, AggregateRef, Deciding, MessageType
from diptych.domain.domain import Domain
from diptych.domain.inputs import Accepted, Answered, Failed, Refused
from diptych.domain.outputs import After, Call, Output, Send
from diptych.domain.process import InputBinding, Process
from diptych.domain.refusal import Refusal
from diptych.domain.results import checked_step
from diptych.domain.state_codec import StateCodec
from diptych.testing.log import NOW
from diptych.testing.world import AggregateSnapshot, PendingInput, World


class Answer(NamedTuple):
    """One possible result of an effect."""

    answer: Message | None
    """The answer; None for a permanent failure with `reason`."""
    memory: str
    """The memory of the systems outside from then on."""
    reason: str = ""


Effect = Callable[[Any, str], Iterable[Answer]]
"""Returns all possible results of an effect: `(request, memory of the systems outside) -> answers`."""


class Transition(NamedTuple):
    """A step that changed the state of an instance."""

    before: Any
    label: str
    """The input: `OrderPlaced`, `ReserveStock refused`."""
    after: Any


class Explorer:
    """Computes the worlds that can follow one world, and collects the transitions of a process.

    Args:
        domain: The domain.
        process: The process whose inputs are explored.
        effects: The possible results of each effect, by the request's type.
    """

    def __init__(self, domain: Domain, process: Process[Any], effects: Mapping[MessageType, Effect]) -> None:
        self.transitions: list[Transition] = []
        self._process = process
        self._effects = {request.DESCRIPTOR.full_name: effect for request, effect in effects.items()}
        self._codecs = {each.type: StateCodec(type(each.initial)) for each in domain.aggregates.values()}
        self._deciders = {
            name: (aggregate, binding)
            for aggregate in domain.aggregates.values()
            for name, binding in aggregate.deciders.items()
        }
        self._transition_keys: set[tuple[bytes, str, bytes]] = set()

    def following(self, world: World) -> Iterator[World]:
        """Yield every world that can follow next."""
        for index, (instance, output) in enumerate(world.outputs):
            rest = dataclasses.replace(world, outputs=_without(world.outputs, index))
            yield from self._execute_output(rest, world, instance, output)
        for index, outcome in enumerate(world.outcomes):
            yield self._handle(dataclasses.replace(world, outcomes=_without(world.outcomes, index)), outcome)
        if world.events:
            yield self._handle(dataclasses.replace(world, events=world.events[1:]), world.events[0])
        for index, command in enumerate(world.clients):
            yield self.execute(dataclasses.replace(world, clients=_without(world.clients, index)), command)[0]

    def execute(self, world: World, command: Message) -> tuple[World, Refusal | None]:
        """Return the world after a command; the same world and the refusal if it is refused."""
        aggregate, binding = self._deciders[command.DESCRIPTOR.full_name]
        ref = aggregate.ref(binding.id_of(command))
        reads = tuple(binding.reads(command)) if binding.reads is not None else ()
        decide: Callable[..., Sequence[Any]] = binding.decide
        if isinstance(aggregate, Process):
            decide = aggregate.starters[command.DESCRIPTOR.full_name]
        try:
            check(command)
            result = decide(world.state(aggregate, ref.id), command, _context(world, ref, reads))
            step = checked_step(f"The decider of {command.DESCRIPTOR.full_name}", decide, result)
            after = self._record(world, aggregate, ref, step, command.DESCRIPTOR.name.removesuffix("Request"))
            _check_unique_values(after, aggregate, ref)
        except Refusal as refusal:
            return world, refusal
        return after, None

    def _execute_output(self, rest: World, before: World, instance: AggregateRef, output: Output) -> Iterator[World]:
        """Yield the worlds after an output.

        None follow a compensation that does not succeed: the engine repeats it until it does.

        Args:
            rest: The world without the output.
            before: The world with it.
            instance: The instance that made the output.
            output: The output.
        """
        match output:
            case Send(command, compensates):
                world, refusal = self.execute(rest, command)
                if refusal is None:
                    ref = self._ref(command)
                    accepted = Accepted(command, ref, world.aggregates[ref].version if ref in world.aggregates else 0)
                    yield self._with_outcome(world, instance, "accepted", self._process.acceptances, command, accepted)
                elif not compensates:
                    refused = Refused(command, refusal.reason, str(refusal), refusal.metadata)
                    yield self._with_outcome(world, instance, "refused", self._process.refusals, command, refused)
            case Call(request, compensates):
                for result in self._effects[request.DESCRIPTOR.full_name](request, before.memory):
                    world = dataclasses.replace(rest, memory=result.memory)
                    if result.answer is not None:
                        answered = Answered(request, result.answer)
                        yield self._with_outcome(world, instance, "answered", self._process.answers, request, answered)
                    elif not compensates:
                        failed = Failed(request, result.reason, f"{result.reason}.")
                        yield self._with_outcome(world, instance, "failed", self._process.failures, request, failed)
            case After(_, timeout):
                yield self._with_outcome(rest, instance, "", self._process.timeouts, timeout, timeout)

    def _with_outcome(
        self,
        world: World,
        instance: AggregateRef,
        what: str,
        bindings: Mapping[str, InputBinding],
        message: Message,
        input: Any,  # noqa: A002
    ) -> World:
        """Return the world with a pending outcome; the same world if the process does not handle it."""
        binding = bindings.get(message.DESCRIPTOR.full_name)
        if binding is None:
            return world
        name = f"{message.DESCRIPTOR.name.removesuffix('Request')} {what}".strip()
        pending = PendingInput(instance, name, binding, input, message)
        return dataclasses.replace(world, outcomes=(*world.outcomes, pending))

    def _handle(self, world: World, pending: PendingInput) -> World:
        """Return the world after an instance handled an input."""
        ref = pending.instance
        handle = pending.binding.handle
        step = checked_step(
            f"Process {self._process.type} on {pending.binding.message.DESCRIPTOR.full_name}",
            handle,
            handle(world.state(self._process, ref.id), pending.input, _context(world, ref)),
        )
        return self._record(world, self._process, ref, step, pending.name)

    def _record(
        self, world: World, aggregate: Aggregate[Any], ref: AggregateRef, step: Sequence[Any], label: str
    ) -> World:
        """Return the world with the events and outputs of a decision or step."""
        state, version, encoded = world.aggregates.get(ref) or AggregateSnapshot(aggregate.initial, 0, b"")
        before = state
        events, outputs, pending = [], list(world.outputs), list(world.events)
        for item in step:
            if isinstance(item, Message):
                events.append(item)
            else:
                outputs.append((ref, item))
        for event in events:
            state = aggregate.evolve(state, event)
            binding = self._process.events.get(event.DESCRIPTOR.full_name)
            instance = binding.key(event) if binding is not None and binding.key is not None else None
            if binding is not None and instance:
                name = event.DESCRIPTOR.name
                pending.append(PendingInput(self._process.ref(instance), name, binding, event, event))
        if not events:
            return dataclasses.replace(world, outputs=tuple(outputs))
        after = AggregateSnapshot(state, version + len(events), self._codecs[ref.type].encode(state))
        if aggregate is self._process and (encoded, label, after.encoded) not in self._transition_keys:
            self._transition_keys.add((encoded, label, after.encoded))
            self.transitions.append(Transition(before, label, state))
        aggregates = {**world.aggregates, ref: after}
        return dataclasses.replace(world, aggregates=aggregates, outputs=tuple(outputs), events=tuple(pending))

    def _ref(self, command: Message) -> AggregateRef:
        aggregate, binding = self._deciders[command.DESCRIPTOR.full_name]
        return aggregate.ref(binding.id_of(command))


def _context(world: World, ref: AggregateRef, reads: Iterable[AggregateRef] = ()) -> Deciding:
    """Return the context in which an aggregate decides, with the states of the aggregates that it reads."""
    snapshot = world.aggregates.get(ref)
    states: dict[AggregateRef, tuple[Any, int]] = {}
    for read in reads:
        other = world.aggregates.get(read)
        states[read] = (other.state, other.version) if other else (None, 0)
    return Deciding(id=ref.id, version=snapshot.version if snapshot else 0, now=NOW, actor="", states=states)


def _check_unique_values(world: World, aggregate: Aggregate[Any], ref: AggregateRef) -> None:
    """Raise the refusal if another aggregate of the same type has the same unique value."""
    for unique in aggregate.uniques:
        value = unique.value(world.state(aggregate, ref.id))
        for other, snapshot in world.aggregates.items():
            if value and other.type == ref.type and other != ref and unique.value(snapshot.state) == value:
                raise unique.taken(value)


def _without(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return (*items[:index], *items[index + 1 :])
