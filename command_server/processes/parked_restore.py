"""Restore of parked inputs at the start of the server."""

from __future__ import annotations

from typing import Any

import structlog

from command_server.processes.event_inputs import EventInputs, unknown_instance
from command_server.processes.inputs import EVENT, Input, failing_outcome_input, outcome_input
from command_server.processes.instance_queues import InstanceQueues
from command_server.processes.outputs import contents
from command_server.store.event_store import EventStore
from command_server.store.records import ParkedInput, WorkKey
from diptych.contract.frames import recorded
from diptych.domain.loading import LoadedDomain
from diptych.domain.process import Process
from diptych.internal.v1.parking_pb2 import Outcome
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.processes_pb2 import ProcessStepped

_log = structlog.get_logger(__name__)


async def restore_parked(
    domain: LoadedDomain, store: EventStore, queues: InstanceQueues, events: EventInputs
) -> set[WorkKey]:
    """Put the parked inputs of the store into the queues; return the outputs whose outcomes are among them.

    An input of a type that the code does not handle any more stays parked. Inputs of processes that the domain does
    not have any more are logged and left in the store.

    Raises:
        StoreUnavailable: the store cannot read.
    """
    outcomes: set[WorkKey] = set()
    for parked in await store.parked_inputs():
        process = domain.domain.processes.get(parked.process)
        if process is None:
            _log.warning("parked input of a process that the domain does not have", process=parked.process)
            continue
        frame = await store.frame_at(parked.position)
        assert frame is not None, "a parked input is of an event that is not in the log"
        queues.restore(_parked_input(domain, process, recorded(frame), parked, events), parked)
        if parked.ordinal != EVENT:
            outcomes.add((parked.position, parked.ordinal))
    queues.start_restored()
    return outcomes


def _parked_input(
    domain: LoadedDomain, process: Process[Any], event: RecordedEvent, parked: ParkedInput, events: EventInputs
) -> Input:
    if parked.ordinal == EVENT:
        if parked.instance == unknown_instance(event):
            return events.of_unknown_instance(process, event)
        return events.of_instance(process, event, parked.instance)
    key = (parked.position, parked.ordinal)
    content = contents(event, ProcessStepped.FromString(event.event.value))[parked.ordinal]
    outcome = Outcome.FromString(parked.outcome)
    try:
        one = outcome_input(domain, process, parked.instance, key, content, outcome)
        if one.handle is None:
            raise LookupError
    except LookupError:
        error = LookupError(
            f"process {process.type} has no handler for this outcome of {content.message.TypeName()}: add it, or "
            "discard the input"
        )
        return failing_outcome_input(process, parked.instance, key, content, outcome, error)
    return one
