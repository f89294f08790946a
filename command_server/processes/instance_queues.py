"""Lanes: each instance takes its inputs one after the other, and one that cannot is parked.

An instance has a lane as long as it has inputs. Its first input is on its way through the writer, the others wait.
Where the code of the process fails on an input, the instance is parked: durably, with that input and all that come
after it, until an operator has it taken again or discarded. Others go on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable

import structlog

from command_server.processes.inputs import EVENT, Input
from command_server.processes.outputs import backoff
from command_server.store.event_store import EventStore, StoreUnavailable
from command_server.store.records import ParkedInput
from command_server.submission import Submission
from command_server.writer import Writer
from diptych.contract.reasons import InternalError, LogUnavailable
from diptych.domain.refusal import Refusal

_log = structlog.get_logger(__name__)

_STEPS_MAX = 1000
"""Steps in the writer at once."""
_INPUTS_MAX = 10_000
"""Inputs that wait; beyond it no event is read, and no timeout told."""
_ERROR_CHARACTERS_MAX = 1000


class Lane:
    """The inputs of one instance, oldest first."""

    __slots__ = ("attempts", "busy", "id", "inputs", "parked", "process", "waiters")

    def __init__(self, process: str, id: str) -> None:
        self.process = process
        self.id = id
        self.inputs: deque[Input] = deque()
        self.busy = False
        """Whether the first input is on its way, or waits for its turn."""
        self.parked: ParkedInput | None = None
        """The input that it is parked on, which is the first."""
        self.attempts = 0
        """How often the first input was taken in vain, as the log was not available."""
        self.waiters: list[asyncio.Future[ParkedInput | None]] = []
        """Who wants to know what becomes of the first input: parked again, or not."""


class Lanes:
    """All instances that have inputs.

    `taken` is called with every input that is done with, and with every event that is kept among the parked inputs.
    """

    def __init__(self, writer: Writer, store: EventStore, taken: Callable[[Input], None]) -> None:
        self._writer = writer
        self._taken = taken
        self._parking = _Parking(store)
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._ready: deque[Lane] = deque()
        self._under_way = 0
        self._submitting = False
        self._closing = False
        self._room = asyncio.Event()
        self.waiting = 0
        """Inputs that are not done with, but for those of parked instances."""
        self.parked: Counter[str] = Counter()
        """Instances that are parked, by type of process."""

    def close(self) -> None:
        """Begins no further step."""
        self._closing = True

    async def run(self) -> None:
        """Writes down what is parked, for as long as it is not cancelled."""
        await self._parking.run()

    async def wait_for_room(self) -> None:
        """Waits until fewer inputs wait than may."""
        while self.waiting >= _INPUTS_MAX:
            self._room.clear()
            await self._room.wait()

    def parked_lanes(self) -> list[Lane]:
        """The instances that are parked, by name."""
        return sorted(
            (lane for lane in self._lanes.values() if lane.parked is not None), key=lambda lane: (lane.process, lane.id)
        )

    def parked_lane(self, process: str, id: str) -> Lane | None:
        """An instance, if it is parked."""
        lane = self._lanes.get((process, id))
        return lane if lane is not None and lane.parked is not None else None

    def put(self, one: Input) -> None:
        """Gives an instance an input, which it takes after those that it was given before."""
        lane = self._lane(one.process.type, one.id)
        lane.inputs.append(one)
        if lane.parked is not None:
            self._hold(lane, one)
            return
        self.waiting += 1
        if not lane.busy:
            self._begin(lane)

    def park(self, one: Input, error: BaseException) -> None:
        """Parks an instance on an input that it has not been given yet."""
        lane = self._lane(one.process.type, one.id)
        lane.inputs.append(one)
        self.waiting += 1
        self._park(lane, error)

    def restore(self, one: Input, parked: ParkedInput) -> None:
        """Takes a parked input from before the start; the one that its instance is parked on comes first."""
        lane = self._lane(parked.process, parked.instance)
        one.written = parked
        if parked.error:
            lane.inputs.appendleft(one)
            lane.parked = parked
            self.parked[parked.process] += 1
        else:
            lane.inputs.append(one)

    def begin_restored(self) -> None:
        """Has inputs taken that waited behind one which was taken, when the server ended."""
        for lane in list(self._lanes.values()):
            if lane.parked is None and not lane.busy:
                self.waiting += len(lane.inputs)
                self._begin(lane)

    async def retry(self, lane: Lane) -> ParkedInput | None:
        """Has a parked instance take its input again; returns it if it is parked again."""
        waiter: asyncio.Future[ParkedInput | None] = asyncio.get_running_loop().create_future()
        lane.waiters.append(waiter)
        self._unpark(lane)
        return await waiter

    def discard(self, lane: Lane) -> None:
        """Discards the input that an instance is parked on, and lets it go on with the others."""
        # Without a handler it leads to no event; the open work of an output is done with all the same.
        lane.inputs[0].handle = lane.inputs[0].key = None
        self._unpark(lane)

    def _lane(self, process: str, id: str) -> Lane:
        lane = self._lanes.get((process, id))
        if lane is None:
            lane = self._lanes[process, id] = Lane(process, id)
        return lane

    def _begin(self, lane: Lane) -> None:
        lane.busy = True
        self._ready.append(lane)
        self._submit()

    def _submit(self) -> None:
        if self._submitting:
            return
        self._submitting = True
        while self._ready and self._under_way < _STEPS_MAX and not self._closing:
            lane = self._ready.popleft()
            if lane.inputs[0].key is not None:
                self._forward(lane)
            else:
                self._step(lane)
        self._submitting = False

    def _forward(self, lane: Lane) -> None:
        """Finds out who hears an event, and tells them."""
        one = lane.inputs[0]
        assert one.key is not None
        try:
            id = one.key(one.value)
        except Exception as error:
            self._park(lane, error)
            return
        if id:
            self.put(one.told_to(id))
            one.written = None  # That goes when the other is done with.
        self._took(lane, forwarded=bool(id))

    def _step(self, lane: Lane) -> None:
        submission = lane.inputs[0].submission()

        def done() -> None:
            self._done(lane, submission)

        submission.done = done
        try:
            self._writer.submit(submission)
        except Refusal as refusal:
            self._later(lane, refusal)
        else:
            self._under_way += 1

    def _done(self, lane: Lane, submission: Submission) -> None:
        self._under_way -= 1
        refusal = submission.refusal
        if refusal is None:
            self._took(lane)
        elif refusal.__cause__ is not None:
            self._park(lane, refusal.__cause__)
        elif isinstance(refusal, LogUnavailable | InternalError):
            self._later(lane, refusal)  # Nothing of that batch was recorded.
        else:
            self._park(lane, refusal)
        self._submit()

    def _later(self, lane: Lane, refusal: Refusal) -> None:
        """Has a lane go on after a while, as the log is not available now."""
        if self._closing:
            return
        lane.attempts += 1
        _log.warning("a step must wait", process=lane.process, instance=lane.id, cause=str(refusal))
        asyncio.get_running_loop().call_later(backoff(lane.attempts), self._begin, lane)

    def _took(self, lane: Lane, *, forwarded: bool = False) -> None:
        one = lane.inputs.popleft()
        lane.attempts = 0
        self.waiting -= 1
        self._room.set()
        if one.written is not None:
            self._parking.delete(one.written)
        _tell(lane, None)
        if lane.inputs:
            self._begin(lane)
        else:
            del self._lanes[lane.process, lane.id]
        if not forwarded:
            self._taken(one)

    def _park(self, lane: Lane, error: BaseException) -> None:
        one = lane.inputs[0]
        attempts = one.written.attempts + 1 if one.written is not None and one.written.error else 1
        text = f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS_MAX]
        since = one.written.since if attempts > 1 and one.written is not None else time.time_ns() // 1000
        _log.error("a process is parked", process=lane.process, instance=lane.id, position=one.position, error=text)
        lane.busy = False
        lane.attempts = 0
        lane.parked = _parked(lane, one, text, attempts, since)
        self.parked[lane.process] += 1
        self.waiting -= len(lane.inputs)
        for waiting in lane.inputs:
            if waiting is one:
                self._write_down(one, lane.parked)
            else:
                self._hold(lane, waiting)
        _tell(lane, lane.parked)

    def _hold(self, lane: Lane, one: Input) -> None:
        """Keeps an input that waits behind a parked one. What came of an output is told again after a restart."""
        if one.ordinal == EVENT and one.written is None:
            self._write_down(one, _parked(lane, one, "", 0, time.time_ns() // 1000))

    def _write_down(self, one: Input, parked: ParkedInput) -> None:
        before, one.written = one.written, parked
        self._parking.put(parked, lambda: self._taken(one) if parked.ordinal == EVENT else None)
        if before is not None and before[:4] != parked[:4]:
            self._parking.delete(before)

    def _unpark(self, lane: Lane) -> None:
        lane.parked = None
        self.parked[lane.process] -= 1
        self.waiting += len(lane.inputs)
        self._begin(lane)


def _parked(lane: Lane, one: Input, error: str, attempts: int, since: int) -> ParkedInput:
    outcome = one.outcome.SerializeToString() if one.outcome is not None else b""
    return ParkedInput(lane.process, lane.id, one.position, one.ordinal, error, attempts, since, outcome)


def _tell(lane: Lane, parked: ParkedInput | None) -> None:
    waiters, lane.waiters = lane.waiters, []
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(parked)


class _Parking:
    """Writes parked inputs down and deletes them, in the order that it is told to."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._waiting: deque[tuple[bool, ParkedInput, Callable[[], None]]] = deque()
        self._arrived = asyncio.Event()

    def put(self, parked: ParkedInput, written: Callable[[], None]) -> None:
        """Has an input written down, and `written` called when it is."""
        self._waiting.append((True, parked, written))
        self._arrived.set()

    def delete(self, parked: ParkedInput) -> None:
        """Has an input deleted."""
        self._waiting.append((False, parked, lambda: None))
        self._arrived.set()

    async def run(self) -> None:
        """Does what it is told, however long the log is not available."""
        attempts = 0
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            put, parked, written = self._waiting[0]
            try:
                await (self._store.put_parked([parked]) if put else self._store.delete_parked([parked.key]))
            except StoreUnavailable as error:
                _log.warning("a parked input cannot be written now", cause=str(error))
                attempts += 1
                await asyncio.sleep(backoff(attempts))
            else:
                attempts = 0
                self._waiting.popleft()
                written()
