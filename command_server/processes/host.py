"""The host: runs all processes of a domain.

It follows the log from a durable mark for each type of process. An event that a process reacts to becomes an input
of the instance that hears it; the outputs of a step become commands, effects and timers. After a start the open
outputs are those of the store up to the head, and those of steps after it: nothing is lost, and what is done twice
is dropped by its request id.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import structlog

from command_server.event_tail import EventTail, TailClosed
from command_server.processes import metrics
from command_server.processes.commands import Commands
from command_server.processes.effects import Effects
from command_server.processes.inputs import EVENT, Input, came_of, heard, unknown_instance
from command_server.processes.instance_queues import Lanes
from command_server.processes.outputs import Content, OpenOutputs, Output, OutputQueue, backoff, contents
from command_server.processes.timers import Timers
from command_server.store.event_store import EventStore, StoreUnavailable
from command_server.store.records import ParkedInput, Work, WorkKind
from command_server.writer import Writer
from diptych.contract.frames import recorded
from diptych.contract.reasons import ProcessNotFound
from diptych.domain.loading import LoadedDomain
from diptych.domain.process import STEPPED, Process
from diptych.internal.v1.parking_pb2 import Outcome
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.processes_pb2 import ProcessStepped

_log = structlog.get_logger(__name__)

_MARK_SECONDS = 1.0
"""How often marks are written, at most."""
_HEALTH_SECONDS = 0.25
_WORK_PAGE = 10_000


class Mark:
    """Up to where one type of process has heard everything, and the events beyond it that it is hearing."""

    def __init__(self, position: int) -> None:
        self.start = position
        self._read = position
        self._hearing: deque[int] = deque()
        self._done: set[int] = set()

    @property
    def position(self) -> int:
        """Everything up to here was taken, or is kept among the parked inputs."""
        while self._hearing and self._hearing[0] in self._done:
            self._done.discard(self._hearing.popleft())
        return self._hearing[0] - 1 if self._hearing else self._read

    def hear(self, position: int) -> None:
        """An event is given to an instance."""
        self._hearing.append(position)

    def done(self, position: int) -> None:
        """An event was taken. It may be told so twice."""
        if self._hearing and position >= self._hearing[0]:
            self._done.add(position)

    def read(self, position: int) -> None:
        """The log was read up to a position."""
        self._read = max(self._read, position)


class ProcessHost:
    """Runs the processes of one domain. Told by `health` whether each type of process goes on."""

    def __init__(
        self,
        domain: LoadedDomain,
        store: EventStore,
        stream: EventTail,
        writer: Writer,
        health: Callable[[str, bool], Awaitable[None]],
    ) -> None:
        self._domain = domain
        self._processes = domain.domain.processes
        self._store = store
        self._stream = stream
        self._health = health
        self._reacting: dict[str, list[Process[Any]]] = {}
        for process in self._processes.values():
            for name in process.events:
                self._reacting.setdefault(name, []).append(process)
        self._types = frozenset({STEPPED, *self._reacting})
        self.outputs = OpenOutputs(store)
        self.lanes = Lanes(writer, store, self._taken)
        self._commands = Commands(domain, writer, self.outputs, self._told, self._closed)
        self._timers = Timers(self.outputs, self._told, self.lanes.wait_for_room)
        self._ports = {name: Effects(port, self.outputs, self._told) for name, port in domain.domain.ports.items()}
        self._unrouted = OutputQueue()
        """Effects from before the start, of which it must be read which port is to answer them."""
        self.marks: dict[str, Mark] = {}
        self._written: dict[str, int] = {}
        self._opened_until = 0
        """The outputs of steps up to this position were read from the store."""
        self._following = True
        self._broken = False
        self._healthy: dict[str, bool] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Reads what is open and parked, and begins. Called before the writer's first batch; raises `StoreUnavailable`.

        A type of process that is new hears what is recorded from now on.
        """
        if not self._processes:
            return
        head = (await self._store.head()).position
        self._opened_until = head
        self._written = dict(await self._store.process_marks())
        new = {name: head for name in self._processes if name not in self._written}
        if new:
            await self._store.put_process_marks(new)
            self._written.update(new)
        self.marks = {name: Mark(self._written[name]) for name in self._processes}
        parked_on = await self._restore_parked()
        self.lanes.begin_restored()
        await self._read_work(parked_on)
        for name in self._processes:
            self._measure(name)
        await self._tell_health_once()
        runs = [self._follow(), self._write_marks(), self._tell_health(), self._route(), self.lanes.run()]
        runs += [self._commands.run(), self._timers.run(), *(port.run() for port in self._ports.values())]
        self._tasks = [asyncio.create_task(self._guarded(run), name="processes") for run in runs]

    async def retry(self, process: str, id: str) -> ParkedInput | None:
        """Has an instance that is STUCK or PARKED try again now.

        Returns the input that it is parked on again, if it is; raises `ProcessNotFound`.
        """
        lane = self.lanes.parked_lane(process, id)
        stuck = [one for one in self.outputs.stuck.values() if (one.work.process, one.work.instance) == (process, id)]
        if lane is None and not stuck:
            raise ProcessNotFound(process=process, id=id)
        for output in stuck:
            if output.retry is not None:
                output.retry.timer.cancel()
                output.retry.start()
        return await self.lanes.retry(lane) if lane is not None else None

    def discard(self, process: str, id: str) -> int:
        """Discards the input that an instance is parked on; returns how many wait. Raises `ProcessNotFound`."""
        lane = self.lanes.parked_lane(process, id)
        if lane is None:
            raise ProcessNotFound(process=process, id=id)
        waiting = len(lane.inputs) - 1
        self.lanes.discard(lane)
        return waiting

    async def close(self) -> None:
        """Begins nothing further, closes the ports, and writes the marks."""
        self.lanes.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        try:
            await self._put_marks()
        except StoreUnavailable as error:
            _log.warning("the marks of processes cannot be written", cause=str(error))

    async def _restore_parked(self) -> set[tuple[int, int]]:
        """Takes the parked inputs; returns the outputs whose outcomes are among them."""
        outcomes: set[tuple[int, int]] = set()
        for parked in await self._store.parked_inputs():
            process = self._processes.get(parked.process)
            if process is None:
                _log.warning("an input of a process that the domain has no more", process=parked.process)
                continue
            frame = await self._store.frame_at(parked.position)
            assert frame is not None, "an input is of an event that is not there"
            event = recorded(frame)
            try:
                one = self._parked_input(process, event, parked)
            except LookupError as error:
                _log.warning("a parked input that the process knows no more", process=process.type, cause=str(error))
                continue
            self.lanes.restore(one, parked)
            if parked.ordinal != EVENT:
                outcomes.add((parked.position, parked.ordinal))
        return outcomes

    def _parked_input(self, process: Process[Any], event: RecordedEvent, parked: ParkedInput) -> Input:
        if parked.ordinal == EVENT:
            unknown = parked.instance == unknown_instance(event)
            message = process.events[event.event.TypeName()].message.FromString(event.event.value)
            return heard(process, event, None if unknown else parked.instance, message)
        content = contents(event, ProcessStepped.FromString(event.event.value))[parked.ordinal]
        outcome = Outcome.FromString(parked.outcome)
        key = (parked.position, parked.ordinal)
        return came_of(self._domain, process, parked.instance, key, content, outcome)

    async def _read_work(self, parked_on: set[tuple[int, int]]) -> None:
        after = (0, 0)
        while True:
            page = await self._store.read_work(after, _WORK_PAGE)
            for work in page:
                if work.process not in self._processes:
                    _log.warning("work of a process that the domain has no more", process=work.process)
                    continue
                output = self.outputs.add(work)
                if output.key not in parked_on:
                    self._start(output, None)
            if len(page) < _WORK_PAGE:
                return
            after = (page[-1].position, page[-1].ordinal)

    def _measure(self, name: str) -> None:
        for kind in WorkKind:
            metrics.measure(
                metrics.OPEN,
                lambda kind=kind: self.outputs.kinds[name, kind],  # type: ignore[misc]
                process=name,
                kind=kind.name.lower(),
            )
        metrics.measure(metrics.STUCK, lambda: len(self.stuck_instances(name)), process=name)
        metrics.measure(metrics.PARKED, lambda: self.lanes.parked[name], process=name)

    def stuck_instances(self, process: str) -> set[str]:
        """The instances of a type that are STUCK."""
        stuck = list(self.outputs.stuck.values())
        return {output.work.instance for output in stuck if output.work.process == process}

    async def _follow(self) -> None:
        position = min((mark.start for mark in self.marks.values()), default=self._stream.head)
        attempts = 0
        while True:
            try:
                await self.lanes.wait_for_room()
                page = await self._stream.read(position, self._types)
                if page.position == position:
                    await self._stream.wait_beyond(position, 60)
                    continue
            except TailClosed:
                return
            except StoreUnavailable as error:
                attempts += 1
                self._following = False
                _log.warning("processes cannot read the log", cause=str(error))
                await asyncio.sleep(backoff(attempts))
                continue
            attempts = 0
            self._following = True
            for frame in page.frames:
                self._event(recorded(frame))
            position = page.position
            for mark in self.marks.values():
                mark.read(position)
            await asyncio.sleep(0)  # What comes from memory lets nobody else in.

    def _event(self, event: RecordedEvent) -> None:
        name = event.event.TypeName()
        if name == STEPPED:
            if event.position > self._opened_until:
                self._open(event)
            return
        for process in self._reacting[name]:
            mark = self.marks[process.type]
            if event.position > mark.start:
                mark.hear(event.position)
                self._hear(process, event)

    def _hear(self, process: Process[Any], event: RecordedEvent) -> None:
        binding = process.events[event.event.TypeName()]
        message = binding.message.FromString(event.event.value)
        assert binding.key is not None
        if self.lanes.parked_lane(process.type, unknown_instance(event)) is not None:
            self.lanes.put(heard(process, event, None, message))  # Behind an event of the same aggregate.
            return
        try:
            id = binding.key(message)
        except Exception as error:
            self.lanes.park(heard(process, event, None, message), error)
            return
        if id:
            self.lanes.put(heard(process, event, id, message))
        else:
            self.marks[process.type].done(event.position)

    def _open(self, event: RecordedEvent) -> None:
        """Starts the outputs of a step."""
        if event.aggregate.type not in self._processes:
            return
        step = ProcessStepped.FromString(event.event.value)
        for ordinal, content in enumerate(contents(event, step)):
            output = step.outputs[ordinal]
            kind, due = WorkKind.COMMAND, 0
            if output.HasField("call"):
                kind = WorkKind.EFFECT
            elif output.HasField("timeout"):
                kind, due = WorkKind.TIMEOUT, output.timeout.due_time.ToMicroseconds()
            work = Work(event.position, ordinal, event.aggregate.type, event.aggregate.id, kind, due)
            self._start(self.outputs.add(work, content), content)

    def _start(self, output: Output, content: Content | None) -> None:
        match output.work.kind:
            case WorkKind.COMMAND:
                self._commands.start(output)
            case WorkKind.TIMEOUT:
                self._timers.start(output)
            case _ if content is None:
                self._unrouted.put(output)
            case _:
                self._call(output, content)

    async def _route(self) -> None:
        while True:
            output = await self._unrouted.take()
            self._call(output, await self.outputs.content(output))

    def _call(self, output: Output, content: Content) -> None:
        port = self._ports.get(content.message.TypeName())
        if port is None:
            reason = f"LookupError: the domain has no port for {content.message.TypeName()}"
            self.outputs.again(output, reason, lambda: self._call(output, content))
        else:
            port.start(output)

    def _told(self, output: Output, content: Content, outcome: Outcome) -> None:
        work = output.work
        process = self._processes[work.process]
        try:
            one = came_of(self._domain, process, work.instance, output.key, content, outcome)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self.outputs.again(output, reason, lambda: self._told(output, content, outcome))
        else:
            self.outputs.stuck.pop(output.key, None)
            self.lanes.put(one)

    def _taken(self, one: Input) -> None:
        if one.settles is not None:
            self.outputs.close(one.settles)
        else:
            self.marks[one.process.type].done(one.position)

    def _closed(self, output: Output) -> None:
        self.outputs.close(output.key)

    async def _guarded(self, run: Coroutine[Any, Any, None]) -> None:
        """Runs a part of the host. If it fails, the processes are not healthy, and commands go on."""
        try:
            await run
        except Exception as error:
            self._broken = True
            _log.error("a part of the processes failed", exc_info=error)

    async def _tell_health(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_SECONDS)
            await self._tell_health_once()

    async def _tell_health_once(self) -> None:
        for name, process in self._processes.items():
            ports = {*process.answers, *process.failures}
            serving = self._following and not self._broken and all(self._ports[port].open for port in ports)
            if self._healthy.get(name) != serving:
                self._healthy[name] = serving
                await self._health(f"diptych.process.{name}", serving)

    async def _write_marks(self) -> None:
        while True:
            await asyncio.sleep(_MARK_SECONDS)
            try:
                await self._put_marks()
            except StoreUnavailable as error:
                _log.warning("the marks of processes cannot be written", cause=str(error))

    async def _put_marks(self) -> None:
        changed: Mapping[str, int] = {
            name: mark.position for name, mark in self.marks.items() if mark.position != self._written[name]
        }
        if changed:
            await self._store.put_process_marks(changed)
            self._written.update(changed)
