"""Parked inputs: durable records of the inputs on which an instance failed, and of those that wait behind them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import structlog

from command_server.processes.inputs import EVENT, Input
from command_server.processes.instance_queue import InstanceQueue
from command_server.processes.parked_writer import ParkedWriter
from command_server.store.event_store import EventStore
from command_server.store.records import ParkedInput
from diptych.domain.errors import one_line, text_of

_log = structlog.get_logger(__name__)

_ERROR_CHARACTERS_MAX = 1000


class ParkedInputs:
    """Parks instances and keeps the records of their inputs.

    1. `park` records the first input of an instance with its error, and the events that wait behind it.
    2. `hold` records a further event for a parked instance. An outcome needs no record: its output is still open,
       and has it again after a restart. Only an outcome that an operator gave is recorded.
    3. `unpark` lets the instance take its inputs again, once the records are durable.
    4. The step of a parked input releases its record in its own commit (`Submission.unparks`).

    Args:
        store: the store of the records.
        on_recorded: called with each event whose record is durable: the mark may pass it.
    """

    def __init__(self, store: EventStore, on_recorded: Callable[[Input], None]) -> None:
        self._writer = ParkedWriter(store)
        self._on_recorded = on_recorded
        self.counts: Counter[str] = Counter()
        """Parked instances by type of process."""

    async def run(self) -> None:
        """Write records until cancelled."""
        await self._writer.run()

    def park(self, queue: InstanceQueue, error: BaseException) -> None:
        """Park an instance on its first input."""
        one = queue.inputs[0]
        before = one.parked
        attempts, since = 1, time.time_ns() // 1000
        if before is not None and before.error:
            attempts, since = before.attempts + 1, before.since
        text = one_line(text_of(error), _ERROR_CHARACTERS_MAX)
        _log.error("process parked", process=queue.process, instance=queue.id, position=one.position, error=text)
        queue.parked = _record(queue, one, text, attempts, since)
        self.counts[queue.process] += 1
        self._write(one, queue.parked)
        for waiting in list(queue.inputs)[1:]:
            self.hold(queue, waiting)

    def hold(self, queue: InstanceQueue, one: Input) -> None:
        """Record an input that waits behind a parked one."""
        if (one.ordinal == EVENT or one.given_up) and one.parked is None:
            self._write(one, _record(queue, one, "", 0, time.time_ns() // 1000))

    def restore(self, queue: InstanceQueue, one: Input, parked: ParkedInput) -> None:
        """Add an input that was recorded before the start; the one that parks the instance comes first."""
        one.parked = parked
        if parked.error:
            queue.inputs.appendleft(one)
            queue.parked = parked
            self.counts[parked.process] += 1
        else:
            queue.inputs.append(one)

    def unpark(self, queue: InstanceQueue, begin: Callable[[], None]) -> None:
        """Unpark an instance, and call `begin` when its records are durable.

        Before that, a record could still be written after its deletion, and park the instance again at a restart."""
        queue.parked = None
        self.counts[queue.process] -= 1
        self._writer.call_after_writes(begin)

    async def wait_until_written(self) -> None:
        """Wait until all records so far are durable. Cancelling ends the wait."""
        written = asyncio.Event()
        self._writer.call_after_writes(written.set)
        await written.wait()

    def delete(self, one: Input) -> None:
        """Delete the record of an input that no instance takes."""
        if one.parked is not None:
            self._writer.delete(one.parked.key)

    def _write(self, one: Input, parked: ParkedInput) -> None:
        before, one.parked = one.parked, parked
        self._writer.put(parked, lambda: self._on_recorded(one) if parked.ordinal == EVENT else None)
        if before is not None and before.key != parked.key:
            self._writer.delete(before.key)


def _record(queue: InstanceQueue, one: Input, error: str, attempts: int, since: int) -> ParkedInput:
    outcome = one.outcome.SerializeToString() if one.outcome is not None else b""
    return ParkedInput(queue.process, queue.id, one.position, one.ordinal, error, attempts, since, outcome)
