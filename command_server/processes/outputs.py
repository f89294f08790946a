"""Outputs: what processes want done, from the step that asked for it until they have heard what came of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import structlog
from google.protobuf.any_pb2 import Any

from command_server.store.event_store import EventStore, StoreUnavailable
from command_server.store.records import Work, WorkKey, WorkKind
from diptych.contract.frames import recorded
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.processes_pb2 import ProcessStepped

_log = structlog.get_logger(__name__)

STUCK_ATTEMPTS = 3
"""An output that was tried so often, and must be tried again, is STUCK."""

_BACKOFF_SECONDS = (0.1, 30.0)
_CONTENTS_MAX = 20_000


class Content(NamedTuple):
    """What an output says, and where it came from."""

    message: Any
    compensates: bool
    event_id: str
    """Of the step."""
    correlation_id: str
    traceparent: str


class Output:
    """An output that is open."""

    __slots__ = ("attempts", "content", "reason", "retry", "since", "work")

    def __init__(self, work: Work, content: Content | None) -> None:
        self.work = work
        self.content = content
        """None: it is to be read from the log."""
        self.attempts = 0
        self.reason = ""
        """Why it must be tried again."""
        self.since = 0.0
        """When it was first tried in vain, in seconds since 1970."""
        self.retry: Retry | None = None

    @property
    def key(self) -> WorkKey:
        """The step's position, and the ordinal."""
        return self.work.position, self.work.ordinal

    @property
    def stuck(self) -> bool:
        """Whether an operator should know of it."""
        return self.attempts >= STUCK_ATTEMPTS and bool(self.reason)


class Retry(NamedTuple):
    """A further attempt, later."""

    timer: asyncio.TimerHandle
    start: Callable[[], None]


class OpenOutputs:
    """All outputs that are open, and what they say."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._open: dict[WorkKey, Output] = {}
        self._contents = 0
        self.kinds: Counter[tuple[str, WorkKind]] = Counter()
        """How many are open, by type of process and kind."""
        self.instances: dict[str, Counter[str]] = {}
        """How many are open, by type of process and instance."""
        self.stuck: dict[WorkKey, Output] = {}

    def __iter__(self) -> Iterator[Output]:
        return iter(list(self._open.values()))

    def get(self, key: WorkKey) -> Output | None:
        """The open output of that key."""
        return self._open.get(key)

    def add(self, work: Work, content: Content | None = None) -> Output:
        """Takes one. What it says is kept, if there is room."""
        output = Output(work, None)
        if content is not None and self._contents < _CONTENTS_MAX:
            output.content = content
            self._contents += 1
        self._open[output.key] = output
        self.kinds[work.process, work.kind] += 1
        self.instances.setdefault(work.process, Counter())[work.instance] += 1
        return output

    def close(self, key: WorkKey) -> None:
        """Forgets one that is done with."""
        output = self._open.pop(key, None)
        if output is None:
            return
        work = output.work
        self.stuck.pop(key, None)
        self._contents -= output.content is not None
        self.kinds[work.process, work.kind] -= 1
        instances = self.instances[work.process]
        instances[work.instance] -= 1
        if not instances[work.instance]:
            del instances[work.instance]

    async def content(self, output: Output) -> Content:
        """What an output says, from the log if need be, however long that takes."""
        if output.content is not None:
            return output.content
        attempts = 0
        while True:
            try:
                frame = await self._store.frame_at(output.work.position)
            except StoreUnavailable as error:
                _log.warning("the log cannot be read for an output", position=output.work.position, cause=str(error))
                attempts += 1
                await asyncio.sleep(backoff(attempts))
                continue
            assert frame is not None, "an output was opened by an event that is not there"
            event = recorded(frame)
            return contents(event, ProcessStepped.FromString(event.event.value))[output.work.ordinal]

    def again(self, output: Output, reason: str, start: Callable[[], None]) -> None:
        """Has an output tried again, after a time that grows with every attempt."""
        loop = asyncio.get_running_loop()
        output.attempts += 1
        output.reason = reason
        output.since = output.since or time.time()
        if output.stuck:
            if output.key not in self.stuck:
                _log.warning(
                    "a process is stuck", process=output.work.process, instance=output.work.instance, reason=reason
                )
            self.stuck[output.key] = output

        def begin() -> None:
            output.retry = None
            start()

        output.retry = Retry(loop.call_later(backoff(output.attempts), begin), begin)


def contents(event: RecordedEvent, step: ProcessStepped) -> list[Content]:
    """What the outputs of a step say."""
    found = []
    correlation_id = event.metadata.correlation_id or event.event_id
    for output in step.outputs:
        match output.WhichOneof("output"):
            case "command":
                message = output.command
            case "call":
                message = output.call
            case _:
                message = output.timeout.timeout
        found.append(Content(message, output.compensates, event.event_id, correlation_id, event.metadata.traceparent))
    return found


def backoff(attempts: int) -> float:
    """How long to wait after so many attempts, in seconds, with jitter so that many do not come back at once."""
    least, most = _BACKOFF_SECONDS
    delay: float = min(most, least * 2 ** min(attempts - 1, 20))
    return delay * random.uniform(0.5, 1.0)


class OutputQueue:
    """Outputs that wait for their turn. One task takes them."""

    def __init__(self) -> None:
        self._waiting: deque[Output] = deque()
        self._arrived = asyncio.Event()

    def put(self, output: Output) -> None:
        """Adds one at the end."""
        self._waiting.append(output)
        self._arrived.set()

    async def take(self) -> Output:
        """Takes the first, when there is one."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()
