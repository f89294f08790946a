"""Scenarios: an aggregate or a process after the events that came before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

from google.protobuf.message import Message

from diptych.domain.aggregate import Aggregate
from diptych.domain.process import Process
from diptych.domain.upcasting import upcasted
from diptych.testing.aggregate_scenario import Given
from diptych.testing.process_scenario import GivenProcess

S = TypeVar("S")


@overload
def given(aggregate: Process[S], *events: Message, id: str = "") -> GivenProcess[S]: ...
@overload
def given(aggregate: Aggregate[S], *events: Message, id: str = "") -> Given[S]: ...
def given(aggregate: Aggregate[S], *events: Message, id: str = "") -> Given[S]:
    """Return an aggregate or a process after these events.

    Args:
        aggregate: The aggregate or process.
        *events: Its events, old types included; they are upcast as from the log. None: it does not exist.
        id: Its id. Empty: the first event has it in the field `Aggregate.id`; without events, the command names it.
    """
    history = [upcasted(event, aggregate.upcasters) for event in events]
    if isinstance(aggregate, Process):
        return GivenProcess(aggregate, history, id or _id_of(aggregate, history))
    return Given(aggregate, history, id or _id_of(aggregate, history))


def _id_of(aggregate: Aggregate[Any], events: Sequence[Message]) -> str:
    if not events or not isinstance(aggregate.id, str):
        return ""
    return str(getattr(events[0], aggregate.id, ""))
