"""Exploring a process without a server: every order in which things can happen, and where each of them ends.

A process that waits for several things at once is told of them in any order, and clients send commands at any
moment in between. `explore` tries all of it, with the domain's own deciders and a model of the world outside::

    explored = explore(
        domain, fulfilment,
        given=[CreateProductRequest(...), ...], first=PlaceOrderRequest(...), clients=[CancelOrderRequest(...)],
        effects={ChargePaymentRequest: charge, VoidPaymentRequest: void},
    )
    for end in explored.ends:
        assert end.state(fulfilment, "order-1").status == ...

What a process wants done is done at any later moment, what comes of it is heard at any moment after that, events are
heard in the order in which they were recorded, and a timeout is due at any moment. `diagram` draws the steps that were
seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from diptych.contract.validation import check
from diptych.domain.aggregate import Aggregate, AggregateRef, Deciding, MessageType
from diptych.domain.domain import Domain
from diptych.domain.inputs import Accepted, Answered, Failed, Refused
from diptych.domain.outputs import After, Call, Output, Send
from diptych.domain.process import InputBinding, Process
from diptych.domain.refusal import Refusal
from diptych.domain.state_codec import StateCodec
from diptych.testing import NOW

S = TypeVar("S")


class Answer(NamedTuple):
    """One way in which an effect can go."""

    answer: Message | None
    """None: it fails for good, by `reason`."""
    memory: str
    """What the world outside remembers from then on."""
    reason: str = ""


Effect = Callable[[Any, str], Iterable[Answer]]
"""All ways in which an effect can go, by its request and what the world outside remembers."""


class Heard(NamedTuple):
    """An input that waits to be heard by an instance."""

    instance: AggregateRef
    what: str
    binding: InputBinding
    input: Any
    message: Message


class Known(NamedTuple):
    """An aggregate as it stands."""

    state: Any
    version: int
    encoded: bytes


@dataclass(frozen=True)
class World:
    """All that there is at one moment. Worlds that are equal go on in the same way."""

    aggregates: Mapping[AggregateRef, Known]
    outputs: tuple[tuple[AggregateRef, Output], ...] = ()
    """What is wanted, and not done yet."""
    outcomes: tuple[Heard, ...] = ()
    """What was done, and not heard of yet."""
    events: tuple[Heard, ...] = ()
    """What was recorded, and not heard of yet."""
    clients: tuple[Message, ...] = ()
    """What clients may still send."""
    memory: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """The same for equal worlds."""
        return (
            tuple(sorted((ref, known.version, known.encoded) for ref, known in self.aggregates.items())),
            tuple(sorted((ref, type(output).__name__, _bytes(_message(output))) for ref, output in self.outputs)),
            tuple(sorted((each.instance, each.what, _bytes(each.message)) for each in self.outcomes)),
            tuple((each.instance, _bytes(each.message)) for each in self.events),
            tuple(_bytes(command) for command in self.clients),
            self.memory,
        )

    @property
    def at_rest(self) -> bool:
        """Whether nothing happens any more unless a client sends something."""
        return not (self.outputs or self.outcomes or self.events)

    def state(self, aggregate: Aggregate[S], id: str) -> S:
        """The state of an aggregate; initial: it does not exist."""
        known = self.aggregates.get(aggregate.ref(id))
        state: S = aggregate.initial if known is None else known.state
        return state


class Seen(NamedTuple):
    """A step that an instance took."""

    before: Any
    what: str
    """`OrderPlaced`, `ReserveStock refused`."""
    after: Any


class Explored:
    """All worlds that can come about."""

    def __init__(self) -> None:
        self.worlds = 0
        """How many."""
        self.ends: list[World] = []
        """Those in which nothing happens any more unless a client sends something."""
        self.steps: list[Seen] = []
        """The steps in which an instance changed."""


def explore(
    domain: Domain,
    process: Process[Any],
    *,
    first: Message,
    given: Sequence[Message] = (),
    clients: Sequence[Message] = (),
    effects: Mapping[MessageType, Effect],
    always: Callable[[World], None] = lambda world: None,
    worlds_max: int = 200_000,
) -> Explored:
    """Finds all worlds that can come about when `first` is sent after `given`.

    Each of `clients` is sent once or not at all, at any moment, in any order; what is refused changes nothing.
    `always` is called with every world and raises for one that must not be. Raises `AssertionError` if there are more
    than `worlds_max`.
    """
    explorer = _Explorer(domain, process, effects)
    world = World({}, clients=tuple(clients))
    for command in (*given, first):
        world, refusal = explorer.executed(world, command)
        assert refusal is None, f"{command.DESCRIPTOR.name} was refused: {refusal}"
    found = explorer.found
    waiting, known = [world], {world.key}
    while waiting:
        world = waiting.pop()
        found.worlds += 1
        assert found.worlds <= worlds_max, f"There are more than {worlds_max} worlds."
        always(world)
        if world.at_rest:
            found.ends.append(world)
        for following in explorer.moves(world):
            if following.key not in known:
                known.add(following.key)
                waiting.append(following)
    return found


def diagram(steps: Iterable[Seen], phase: Callable[[Any], str]) -> str:
    """Draws steps as a state diagram in Mermaid's language, with the phases that `phase` gives a state.

    Phases stand in the order of the steps that lead to them, and their labels in alphabetical order. A step within one
    phase is left out.
    """
    labels: dict[tuple[str, str], set[str]] = {}
    left: set[str] = set()
    for step in steps:
        before, after = phase(step.before), phase(step.after)
        if before != after:
            labels.setdefault((before, after), set()).add(step.what)
            left.add(before)
    first = next(before for before, _ in labels if before not in {after for _, after in labels})
    phases = _reached(first, labels)
    drawn = [
        f"    {'[*]' if before == first else before} --> {after}: {label}"
        for before in phases
        for after in phases
        for label in sorted(labels.get((before, after), ()))
    ]
    ends = [f"    {phase} --> [*]" for phase in phases if phase not in left]
    return "\n".join(["stateDiagram-v2", *drawn, *ends]) + "\n"


def _reached(first: str, labels: Iterable[tuple[str, str]]) -> list[str]:
    """All phases, nearest first; of those equally near, by name."""
    found, near = [first], [first]
    while near:
        near = sorted({after for before, after in labels if before in near} - set(found))
        found += near
    return found


class _Explorer:
    def __init__(self, domain: Domain, process: Process[Any], effects: Mapping[MessageType, Effect]) -> None:
        self.found = Explored()
        self._process = process
        self._effects = {request.DESCRIPTOR.full_name: effect for request, effect in effects.items()}
        self._codecs = {each.type: StateCodec(type(each.initial)) for each in domain.aggregates.values()}
        self._deciders = {
            name: (aggregate, binding)
            for aggregate in domain.aggregates.values()
            for name, binding in aggregate.deciders.items()
        }
        self._seen: set[tuple[bytes, str, bytes]] = set()

    def moves(self, world: World) -> Iterator[World]:
        """All that can happen next."""
        for place, (instance, output) in enumerate(world.outputs):
            yield from self._done(_changed(world, outputs=_without(world.outputs, place)), world, instance, output)
        for place, heard in enumerate(world.outcomes):
            yield self._told(_changed(world, outcomes=_without(world.outcomes, place)), heard)
        if world.events:
            yield self._told(_changed(world, events=world.events[1:]), world.events[0])
        for place, command in enumerate(world.clients):
            yield self.executed(_changed(world, clients=_without(world.clients, place)), command)[0]

    def executed(self, world: World, command: Message) -> tuple[World, Refusal | None]:
        """The world after a command, or why it was refused."""
        aggregate, binding = self._deciders[command.DESCRIPTOR.full_name]
        ref = aggregate.ref(binding.id_of(command))
        reads = tuple(binding.reads(command)) if binding.reads is not None else ()
        at = self._at(world, ref, {each: _known(world, each) for each in reads})
        decide: Callable[..., Sequence[Any]] = binding.decide
        if isinstance(aggregate, Process):
            decide = aggregate.starters[command.DESCRIPTOR.full_name]
        try:
            check(command)
            step = decide(world.state(aggregate, ref.id), command, at)
            after = self._recorded(world, aggregate, ref, step, command.DESCRIPTOR.name.removesuffix("Request"))
            _claim(after, aggregate, ref)
        except Refusal as refusal:
            return world, refusal
        return after, None

    def _done(self, after: World, before: World, instance: AggregateRef, output: Output) -> Iterator[World]:
        """The worlds after an output; what must succeed and does not changes nothing."""
        match output:
            case Send(command, compensates):
                world, refusal = self.executed(after, command)
                if refusal is None:
                    ref = self._ref(command)
                    accepted = Accepted(command, ref, world.aggregates[ref].version if ref in world.aggregates else 0)
                    yield self._heard(world, instance, "accepted", self._process.acceptances, command, accepted)
                elif not compensates:
                    refused = Refused(command, refusal.reason, str(refusal), refusal.metadata)
                    yield self._heard(world, instance, "refused", self._process.refusals, command, refused)
            case Call(request, compensates):
                for way in self._effects[request.DESCRIPTOR.full_name](request, before.memory):
                    world = _changed(after, memory=way.memory)
                    if way.answer is not None:
                        answered = Answered(request, way.answer)
                        yield self._heard(world, instance, "answered", self._process.answers, request, answered)
                    elif not compensates:
                        failed = Failed(request, way.reason, f"{way.reason}.")
                        yield self._heard(world, instance, "failed", self._process.failures, request, failed)
            case After(_, timeout):
                yield self._heard(after, instance, "", self._process.timeouts, timeout, timeout)

    def _heard(
        self,
        world: World,
        instance: AggregateRef,
        what: str,
        bindings: Mapping[str, InputBinding],
        message: Message,
        input: Any,  # noqa: A002
    ) -> World:
        """The world with an outcome that waits to be heard, if anybody does."""
        binding = bindings.get(message.DESCRIPTOR.full_name)
        if binding is None:
            return world
        name = f"{message.DESCRIPTOR.name.removesuffix('Request')} {what}".strip()
        return _changed(world, outcomes=(*world.outcomes, Heard(instance, name, binding, input, message)))

    def _told(self, world: World, heard: Heard) -> World:
        ref = heard.instance
        step = heard.binding.handle(world.state(self._process, ref.id), heard.input, self._at(world, ref, {}))
        return self._recorded(world, self._process, ref, step, heard.what)

    def _recorded(
        self, world: World, aggregate: Aggregate[Any], ref: AggregateRef, step: Sequence[Any], what: str
    ) -> World:
        """The world after a decision or a step."""
        state, version, encoded = _known(world, ref) or Known(aggregate.initial, 0, b"")
        before = state
        events, outputs, heard = [], list(world.outputs), list(world.events)
        for one in step:
            if isinstance(one, Message):
                events.append(one)
            else:
                outputs.append((ref, one))
        for event in events:
            state = aggregate.evolve(state, event)
            binding = self._process.events.get(event.DESCRIPTOR.full_name)
            instance = binding.key(event) if binding is not None and binding.key is not None else None
            if binding is not None and instance:
                name = event.DESCRIPTOR.name
                heard.append(Heard(self._process.ref(instance), name, binding, event, event))
        if not events:
            return _changed(world, outputs=tuple(outputs))
        after = Known(state, version + len(events), self._codecs[ref.type].encode(state))
        if aggregate is self._process and (encoded, what, after.encoded) not in self._seen:
            self._seen.add((encoded, what, after.encoded))
            self.found.steps.append(Seen(before, what, state))
        changed = {**world.aggregates, ref: after}
        return _changed(world, aggregates=changed, outputs=tuple(outputs), events=tuple(heard))

    def _ref(self, command: Message) -> AggregateRef:
        aggregate, binding = self._deciders[command.DESCRIPTOR.full_name]
        return aggregate.ref(binding.id_of(command))

    def _at(self, world: World, ref: AggregateRef, reads: Mapping[AggregateRef, Known | None]) -> Deciding:
        known = _known(world, ref)
        states = {each: (found.state, found.version) if found else (None, 0) for each, found in reads.items()}
        return Deciding(id=ref.id, version=known.version if known else 0, now=NOW, actor="", states=states)


def _claim(world: World, aggregate: Aggregate[Any], ref: AggregateRef) -> None:
    """Refuses a unique value of an aggregate that another one of its type has."""
    for unique in aggregate.uniques:
        value = unique.value(world.state(aggregate, ref.id))
        for other, known in world.aggregates.items():
            if value and other.type == ref.type and other != ref and unique.value(known.state) == value:
                raise unique.taken(value)


def _known(world: World, ref: AggregateRef) -> Known | None:
    return world.aggregates.get(ref)


def _changed(world: World, **parts: Any) -> World:
    whole: dict[str, Any] = {
        "aggregates": world.aggregates,
        "outputs": world.outputs,
        "outcomes": world.outcomes,
        "events": world.events,
        "clients": world.clients,
        "memory": world.memory,
    }
    return World(**{**whole, **parts})


def _without(things: tuple[Any, ...], place: int) -> tuple[Any, ...]:
    return (*things[:place], *things[place + 1 :])


def _message(output: Output) -> Message:
    """The command, the request or the timeout."""
    if isinstance(output, Send):
        return output.command  # type: ignore[no-any-return]
    return output.request if isinstance(output, Call) else output.timeout  # type: ignore[no-any-return]


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)
