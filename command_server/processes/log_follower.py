"""The log follower: reads the log for processes."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from command_server.event_tail import EventTail, TailClosed
from command_server.processes.backoff import backoff
from command_server.processes.event_inputs import EventInputs, unknown_instance
from command_server.processes.instance_queues import InstanceQueues
from command_server.processes.marks import Marks
from command_server.processes.output_router import OutputRouter
from command_server.store.event_store import StoreUnavailable
from diptych.contract.frames import recorded
from diptych.domain.process import STEPPED, Process
from diptych.v1.events_pb2 import RecordedEvent

_log = structlog.get_logger(__name__)

_WAIT_SECONDS = 60.0


class LogFollower:
    """Gives each event to the instances whose processes react to it, and each step's outputs to the router.

    Args:
        events: makes inputs of events.
        tail: the event tail.
        marks: the marks; reading begins at the lowest.
        queues: the instances' queues.
        router: starts the outputs of steps.
        outputs_stored_through: position through which the store's open outputs were started already.
    """

    def __init__(
        self,
        events: EventInputs,
        tail: EventTail,
        marks: Marks,
        queues: InstanceQueues,
        router: OutputRouter,
        outputs_stored_through: int,
    ) -> None:
        self._tail = tail
        self._marks = marks
        self._queues = queues
        self._router = router
        self._outputs_stored_through = outputs_stored_through
        self._events = events
        self._types = events.types | {STEPPED}
        self.available = True
        """False while the log cannot be read."""

    async def run(self) -> None:
        """Follow the log until cancelled or until the tail is closed. While the log is unavailable, retry."""
        position = min((mark.start for mark in self._marks.values()), default=self._tail.head)
        attempts = 0
        while True:
            try:
                await self._queues.wait_for_room()
                page = await self._tail.read(position, self._types)
                if page.position == position:
                    await self._tail.wait_beyond(position, _WAIT_SECONDS)
                    continue
            except TailClosed:
                return
            except StoreUnavailable as error:
                attempts += 1
                self.available = False
                _log.warning("log not read for processes, retrying", cause=str(error))
                await asyncio.sleep(backoff(attempts))
                continue
            attempts = 0
            self.available = True
            for frame in page.frames:
                self._on_event(recorded(frame))
            position = page.position
            for mark in self._marks.values():
                mark.read_through(position)
            await asyncio.sleep(0)  # Reading from memory never suspends; other tasks need a turn.

    def _on_event(self, event: RecordedEvent) -> None:
        name = event.event.TypeName()
        if name == STEPPED:
            if event.position > self._outputs_stored_through:
                self._router.start_step(event)
            return
        for process in self._events.reacting(name):
            mark = self._marks[process.type]
            if event.position > mark.start:
                mark.begin(event.position)
                self._put(process, event)

    def _put(self, process: Process[Any], event: RecordedEvent) -> None:
        """Give an event to the instance that the key function names; park it if its instance cannot be determined."""
        events, queues = self._events, self._queues
        if queues.parked_queue(process.type, unknown_instance(event)) is not None:
            queues.put(events.of_unknown_instance(process, event))  # Behind an event of the same aggregate.
            return
        try:
            one = events.routed(process, event)
        except Exception as error:
            queues.park(events.of_unknown_instance(process, event), error)
            return
        if one is not None:
            queues.put(one)
        else:
            self._marks[process.type].finish(event.position)
