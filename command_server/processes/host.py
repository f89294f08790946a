"""The host: runs all processes of a domain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from command_server.event_tail import EventTail
from command_server.processes import metrics
from command_server.processes.event_inputs import EventInputs
from command_server.processes.health import ProcessHealth
from command_server.processes.inputs import Input
from command_server.processes.instance_queues import InstanceQueues
from command_server.processes.log_follower import LogFollower
from command_server.processes.marks import Marks
from command_server.processes.output_router import OutputRouter
from command_server.processes.outputs import OpenOutputs
from command_server.processes.parked_restore import restore_parked
from command_server.store.event_store import EventStore
from command_server.store.records import ParkedInput, WorkKind
from command_server.writer import Writer
from diptych.contract.reasons import ProcessNotFound
from diptych.domain.loading import LoadedDomain
from diptych.server.supervise import TaskSupervisor

_log = structlog.get_logger(__name__)


class ProcessHost:
    """Runs the processes of one domain.

    1. `start` reads the marks, the parked inputs and the open outputs, up to the head. A new type of process starts
       at the head.
    2. The log follower reads on from the lowest mark. An event becomes an input of one instance; a step's outputs
       are started.
    3. An input becomes a step, which is recorded once under its request key. Its commit closes the output and
       releases the parked input that it is about.
    4. An outcome of an output becomes an input.
    5. The marks are written every second. After a crash the events since then are read again; their steps are
       recorded already, and dropped by their request keys.

    Args:
        domain: the domain.
        store: the log, and the records of processes beside it.
        tail: the event tail.
        writer: decides and records steps and commands.
        report_health: called with the health service of each type of process, and its health.
    """

    def __init__(
        self,
        domain: LoadedDomain,
        store: EventStore,
        tail: EventTail,
        writer: Writer,
        report_health: Callable[[str, bool], Awaitable[None]],
    ) -> None:
        self._domain = domain
        self._processes = domain.domain.processes
        self._store = store
        self._tail = tail
        self.marks = Marks(store)
        self.outputs = OpenOutputs(store)
        self.queues = InstanceQueues(writer, store, self._on_taken)
        self._router = OutputRouter(domain, store, writer, self.outputs, self.queues)
        self._health = ProcessHealth(self._processes, self._router.ports, self._running, report_health)
        self._follower: LogFollower | None = None
        self._failed = False
        self._tasks = TaskSupervisor()

    async def start(self) -> None:
        """Restore the processes and begin. Call it before the writer's first batch.

        Raises:
            StoreUnavailable: the store cannot read or write.
        """
        if not self._processes:
            return
        head = (await self._store.head()).position
        await self.marks.load(self._processes, head)
        events = EventInputs(self._processes, self._domain.domain.upcasters)
        outcomes = await restore_parked(self._domain, self._store, self.queues, events)
        await self._router.start_stored(except_for=outcomes)
        self._follower = LogFollower(events, self._tail, self.marks, self.queues, self._router, head)
        for name in self._processes:
            self._measure(name)
        await self._health.check()
        await self._tasks.__aenter__()
        for task, run in (
            ("process log follower", self._follower.run()),
            ("process marks", self.marks.run()),
            ("process health", self._health.run()),
            ("parked inputs", self.queues.parked.run()),
            *self._router.runs(),
        ):
            self._tasks.start(self._guard(task, run), name=task)

    async def retry(self, process: str, id: str) -> ParkedInput | None:
        """Let an instance that is STUCK or PARKED try again now; return its record if it is parked again.

        Cancelling leaves the attempt running.

        Raises:
            ProcessNotFound: the instance is neither STUCK nor PARKED.
        """
        queue = self.queues.parked_queue(process, id)
        stuck = self.outputs.stuck_of(process, id)
        if queue is None and not stuck:
            raise ProcessNotFound(process=process, id=id)
        for output in stuck:
            if output.retry is not None:
                output.retry.start_now()
        return await self.queues.retry(queue) if queue is not None else None

    def discard(self, process: str, id: str) -> int:
        """Discard the input on which an instance is parked; return the number of inputs that wait behind it.

        Raises:
            ProcessNotFound: the instance is not PARKED.
        """
        queue = self.queues.parked_queue(process, id)
        if queue is None:
            raise ProcessNotFound(process=process, id=id)
        waiting = len(queue.inputs) - 1
        self.queues.discard(queue)
        return waiting

    async def give_up(self, process: str, id: str) -> tuple[int, ParkedInput | None]:
        """Give up the outputs on which an instance is STUCK; return their number.

        If the instance is parked, return the record of the parked input, behind which the failures wait durably.
        Cancelling does not undo it.

        Raises:
            OutcomeUnknown: the server stops during the commit.
            ProcessNotFound: the instance is not STUCK.
        """
        contents = [(output, await self.outputs.content(output)) for output in self.outputs.stuck_of(process, id)]
        stuck = [(output, content) for output, content in contents if self.outputs.stuck.get(output.key) is output]
        if not stuck:
            raise ProcessNotFound(process=process, id=id)
        for output, content in stuck:
            self._router.give_up(output, content)

        def taken() -> bool:
            return not any(self.outputs.get(output.key) is output for output, _ in stuck)

        return len(stuck), await self.queues.wait_until_taken(process, id, taken)

    async def close(self) -> None:
        """Begin nothing further, close the ports, and write the marks."""
        self.queues.close()
        await self._tasks.close()
        await self.marks.write()

    def _running(self) -> bool:
        return not self._failed and (self._follower is None or self._follower.available)

    def _on_taken(self, one: Input) -> None:
        if one.settles is not None:
            self.outputs.close(one.settles)
        else:
            self.marks[one.process.type].finish(one.position)

    async def _guard(self, task: str, run: Coroutine[Any, Any, None]) -> None:
        """Run a part of the host. If it fails, the processes become unhealthy, and commands are still served."""
        try:
            await run
        except Exception as error:
            self._failed = True
            _log.error("part of the processes failed", task=task, exc_info=error)

    def _measure(self, name: str) -> None:
        for kind in WorkKind:
            metrics.measure(
                metrics.OPEN,
                lambda kind=kind: self.outputs.kinds[name, kind],  # type: ignore[misc]
                process=name,
                kind=kind.name.lower(),
            )
        metrics.measure(metrics.STUCK, lambda: len(self.outputs.stuck_instances(name)), process=name)
        metrics.measure(metrics.PARKED, lambda: self.queues.parked.counts[name], process=name)
