"""Exploration of a process: every order in which things can happen.

A process that waits for several things gets them in any order, and clients send commands at any moment in between.
`explore` tries all orders with the domain's own deciders and a model of the systems outside::

    explored = explore(
        domain, fulfilment,
        given=[CreateProductRequest(...), ...], first=PlaceOrderRequest(...), clients=[CancelOrderRequest(...)],
        effects={ChargePaymentRequest: charge, VoidPaymentRequest: void},
    )
    for end in explored.ends:
        assert end.state(fulfilment, "order-1").status == ...

An output is executed at any later moment, and its outcome is handled at any moment after that. Events are handled in
the order of the log. A timeout is due at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from diptych.domain.aggregate import MessageType
from diptych.domain.domain import Domain
from diptych.domain.process import Process
from diptych.testing.explorer import Effect, Explorer, Transition
from diptych.testing.world import World


class Explored:
    """The result of an exploration."""

    def __init__(self, steps: list[Transition]) -> None:
        self.worlds = 0
        """The number of different worlds."""
        self.ends: list[World] = []
        """The worlds in which nothing can happen unless a client sends a command."""
        self.steps = steps
        """The different steps that changed an instance, for `diagram`."""


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
    """Return all worlds that can follow when `first` is sent after `given`.

    Args:
        domain: The domain.
        process: The process.
        first: The command that starts the exploration.
        given: Commands before it.
        clients: Commands that clients send once or not at all, at any moment, in any order. A refused one changes
            nothing.
        effects: The possible results of each effect, by the request's type.
        always: Called with every world; raises for one that must not exist.
        worlds_max: The limit on the number of worlds.

    Raises:
        AssertionError: `first` or one of `given` is refused, or there are more than `worlds_max` worlds.
    """
    explorer = Explorer(domain, process, effects)
    world = World({}, clients=tuple(clients))
    for command in (*given, first):
        world, refusal = explorer.execute(world, command)
        assert refusal is None, f"{command.DESCRIPTOR.name} was refused: {refusal}"
    explored = Explored(explorer.transitions)
    queue, keys = [world], {world.key}
    while queue:
        world = queue.pop()
        explored.worlds += 1
        assert explored.worlds <= worlds_max, f"There are more than {worlds_max} worlds."
        always(world)
        if world.at_rest:
            explored.ends.append(world)
        for following in explorer.following(world):
            if following.key not in keys:
                keys.add(following.key)
                queue.append(following)
    return explored
