"""Events as inputs of processes: parsed, upcast, and given to the instance that the key function names.

An event of an old type is upcast first, and a process reacts to the upcast event. No event is dropped because the code
fails on it: an event whose upcaster or key function fails parks under the name of its aggregate. A parked event for
which the code has no handler any more stays parked until it has one, or until an operator discards it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from command_server.processes.inputs import EVENT, Input, failing
from diptych.domain.aggregate import AggregateRef
from diptych.domain.process import Process
from diptych.domain.upcasting import Upcaster, becomes, upcasted
from diptych.v1.events_pb2 import RecordedEvent


def unknown_instance(event: RecordedEvent) -> str:
    """Return the instance under which an event is listed while its instance cannot be determined."""
    return f"@{event.aggregate.type}/{event.aggregate.id}"


class EventInputs:
    """Makes inputs of events, for the processes of one domain.

    Args:
        processes: the types of process by name.
        upcasters: the upcasters of all aggregates by the old type.
    """

    def __init__(self, processes: Mapping[str, Process[Any]], upcasters: Mapping[str, Upcaster]) -> None:
        self._upcasters = upcasters
        self._reacting: dict[str, list[Process[Any]]] = {}
        for process in processes.values():
            old = (name for name in upcasters if becomes(name, upcasters) & process.events.keys())
            for name in (*process.events, *old):
                self._reacting.setdefault(name, []).append(process)
        self.types = frozenset(self._reacting)
        """Event types that a process reacts to, and old types that can become one of them."""

    def reacting(self, name: str) -> list[Process[Any]]:
        """Return the processes that react to an event type, or to a type that it can become."""
        return self._reacting.get(name, [])

    def routed(self, process: Process[Any], event: RecordedEvent) -> Input | None:
        """Return an event as an input of the instance that the key function names; None if no instance takes it.

        Raises:
            Exception: the upcaster or the key function fails, the key is no id, or the process does not react.
        """
        message = self._upcast(process, event)
        binding = process.events.get(message.DESCRIPTOR.full_name)
        if binding is None:
            if process in self.reacting(event.event.TypeName()):
                return None
            raise _no_handler(process, event)
        assert binding.key is not None
        id = binding.key(message)
        return self.of_instance(process, event, AggregateRef(process.type, id).id) if id else None

    def of_unknown_instance(self, process: Process[Any], event: RecordedEvent) -> Input:
        """Return an event as an input whose instance is determined when its turn comes."""
        one = _input(process, event, unknown_instance(event), event.event)
        one.route = lambda: self.routed(process, event)
        return one

    def of_instance(self, process: Process[Any], event: RecordedEvent, id: str) -> Input:
        """Return an event as an input of an instance. Its step fails if the code cannot handle the event."""
        try:
            message = self._upcast(process, event)
            binding = process.events.get(message.DESCRIPTOR.full_name)
            if binding is None:
                raise _no_handler(process, event)
        except Exception as error:
            one = _input(process, event, id, event.event)
            one.handle = failing(error)
        else:
            one = _input(process, event, id, message)
            one.handle = binding.handle
        return one

    def _upcast(self, process: Process[Any], event: RecordedEvent) -> Message:
        name = event.event.TypeName()
        if name in self._upcasters:
            return upcasted(self._upcasters[name].event.FromString(event.event.value), self._upcasters)
        if name in process.events:
            return process.events[name].message.FromString(event.event.value)
        raise _no_handler(process, event)


def _no_handler(process: Process[Any], event: RecordedEvent) -> LookupError:
    return LookupError(
        f"process {process.type} has no handler for event {event.event.TypeName()}: add the handler or an upcaster, or "
        "discard the input"
    )


def _input(process: Process[Any], event: RecordedEvent, id: str, message: Message) -> Input:
    return Input(
        process=process,
        id=id,
        position=event.position,
        ordinal=EVENT,
        message=message,
        value=message,
        handle=None,
        cause=event.position,
        source_id=event.event_id,
        correlation_id=event.metadata.correlation_id or event.event_id,
        traceparent=event.metadata.traceparent,
    )
