"""Upcasters: pure functions that turn an event of an old type into one of a newer type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import Message


class Upcaster(NamedTuple):
    """The conversion of one old event type, which is no longer recorded."""

    event: Any
    """The old type."""
    becomes: tuple[Any, ...]
    """The types that an event can become."""
    upcast: Callable[[Any], Message]


def upcasted(event: Message, upcasters: Mapping[str, Upcaster]) -> Message:
    """Return the event that evolvers and folds get: upcast until its type has no upcaster."""
    while (upcaster := upcasters.get(event.DESCRIPTOR.full_name)) is not None:
        event = upcaster.upcast(event)
    return event


def becomes(name: str, upcasters: Mapping[str, Upcaster]) -> set[str]:
    """Return every type that an event type can become, by one upcaster or by several in turn."""
    reachable: set[str] = set()
    queue = [name]
    while queue:
        upcaster = upcasters.get(queue.pop())
        for kind in upcaster.becomes if upcaster is not None else ():
            if kind.DESCRIPTOR.full_name not in reachable:
                reachable.add(kind.DESCRIPTOR.full_name)
                queue.append(kind.DESCRIPTOR.full_name)
    return reachable
