"""Instance queues: each instance takes its inputs one after the other, independently of all others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from command_server.processes.inputs import Input
from command_server.processes.instance_queue import InstanceQueue
from command_server.processes.parked_inputs import ParkedInputs
from command_server.processes.steps import Steps
from command_server.store.event_store import EventStore
from command_server.store.records import ParkedInput
from command_server.writer import Writer

_INPUTS_MAX = 10_000
"""Waiting inputs beyond which no event is read and no timeout fires."""


class InstanceQueues:
    """The queues of all instances that have inputs.

    1. `put` appends an input to the queue of its instance. The first input of a queue goes through the writer, the
       others wait.
    2. A recorded input leaves its queue, and the next one starts. An empty queue is dropped.
    3. An input on which the code of the process fails parks its instance: durably, with all inputs that come after
       it. The other instances go on.
    4. `retry` and `discard` unpark an instance.

    Args:
        writer: the writer that decides and records the steps.
        store: the store of parked inputs.
        on_taken: called with each input that is recorded as a step, and with each event that is recorded as parked;
            with an event perhaps twice.
    """

    def __init__(self, writer: Writer, store: EventStore, on_taken: Callable[[Input], None]) -> None:
        self._on_taken = on_taken
        self._steps = Steps(writer, self._forward, self._finish, self._park)
        self.parked = ParkedInputs(store, on_taken)
        self._queues: dict[tuple[str, str], InstanceQueue] = {}
        self._room = asyncio.Event()
        self.waiting = 0
        """Inputs in the queues of instances that are not parked."""

    def close(self) -> None:
        """Begin no further step."""
        self._steps.close()

    async def wait_for_room(self) -> None:
        """Wait until fewer inputs wait than the limit."""
        while self.waiting >= _INPUTS_MAX:
            self._room.clear()
            await self._room.wait()

    def parked_queues(self) -> list[InstanceQueue]:
        """Return the queues of parked instances, by name."""
        parked = (queue for queue in self._queues.values() if queue.parked is not None)
        return sorted(parked, key=lambda queue: (queue.process, queue.id))

    def parked_queue(self, process: str, id: str) -> InstanceQueue | None:
        """Return the queue of an instance; None if it is not parked."""
        queue = self._queues.get((process, id))
        return queue if queue is not None and queue.parked is not None else None

    def put(self, one: Input) -> None:
        """Append an input to the queue of its instance."""
        queue = self._queue(one.process.type, one.id)
        queue.inputs.append(one)
        if queue.parked is not None:
            self.parked.hold(queue, one)
            return
        self.waiting += 1
        if not queue.busy:
            self._steps.start(queue)

    def park(self, one: Input, error: BaseException) -> None:
        """Park an instance on an input that is not in its queue yet."""
        queue = self._queue(one.process.type, one.id)
        queue.inputs.append(one)
        self.waiting += 1
        self._park(queue, error)

    def restore(self, one: Input, parked: ParkedInput) -> None:
        """Add an input that was parked before the start."""
        self.parked.restore(self._queue(parked.process, parked.instance), one, parked)

    def start_restored(self) -> None:
        """Start restored inputs that wait behind none: the one before them was taken before the start."""
        for queue in list(self._queues.values()):
            if queue.parked is None and not queue.busy:
                self.waiting += len(queue.inputs)
                self._steps.start(queue)

    async def retry(self, queue: InstanceQueue) -> ParkedInput | None:
        """Unpark an instance, and wait until its input is taken; return the input's record if it is parked again.

        Cancelling leaves the instance unparked.
        """
        waiter: asyncio.Future[ParkedInput | None] = asyncio.get_running_loop().create_future()
        queue.waiters.append(waiter)
        self._unpark(queue)
        return await waiter

    async def wait_until_taken(self, process: str, id: str, taken: Callable[[], bool]) -> ParkedInput | None:
        """Wait until inputs of an instance are taken, or recorded behind a parked input; return that input's record.

        Cancelling ends the wait.

        Args:
            process: the type of process.
            id: the instance.
            taken: returns True when the inputs are taken.

        Raises:
            OutcomeUnknown: the server stops during the commit of an input.
        """
        while not taken() and (queue := self._queues.get((process, id))) is not None:
            if queue.parked is not None:
                await self.parked.wait_until_written()
                return queue.parked
            waiter: asyncio.Future[ParkedInput | None] = asyncio.get_running_loop().create_future()
            queue.waiters.append(waiter)
            await waiter
        return None

    def discard(self, queue: InstanceQueue) -> None:
        """Discard the input on which an instance is parked, and unpark the instance."""
        # Without a handler the step records no event; it still closes the output and releases the parked input.
        queue.inputs[0].handle = queue.inputs[0].route = None
        self._unpark(queue)

    def _queue(self, process: str, id: str) -> InstanceQueue:
        queue = self._queues.get((process, id))
        if queue is None:
            queue = self._queues[process, id] = InstanceQueue(process, id)
        return queue

    def _forward(self, queue: InstanceQueue) -> None:
        """Give the first event to the instance that its key function names, if it names one."""
        one = queue.inputs[0]
        assert one.route is not None
        try:
            routed = one.route()
        except Exception as error:
            self._park(queue, error)
            return
        if routed is not None:
            routed.parked, one.parked = one.parked, None
            self.put(routed)
        else:
            self.parked.delete(one)
        self._finish(queue, forwarded=routed is not None)

    def _finish(self, queue: InstanceQueue, *, forwarded: bool = False) -> None:
        one = queue.inputs.popleft()
        queue.attempts = 0
        self.waiting -= 1
        self._room.set()
        queue.end_retries(None)
        if queue.inputs:
            self._steps.start(queue)
        else:
            del self._queues[queue.process, queue.id]
        if not forwarded:
            self._on_taken(one)

    def _park(self, queue: InstanceQueue, error: BaseException) -> None:
        queue.busy = False
        queue.attempts = 0
        self.waiting -= len(queue.inputs)
        self.parked.park(queue, error)
        queue.end_retries(queue.parked)

    def _unpark(self, queue: InstanceQueue) -> None:
        queue.busy = True
        self.waiting += len(queue.inputs)
        self.parked.unpark(queue, lambda: self._steps.start(queue))
