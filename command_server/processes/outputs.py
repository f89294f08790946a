"""Outputs of steps: commands, effects and timeouts, open until the process has taken their outcome."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import structlog
from google.protobuf.any_pb2 import Any

from command_server.processes.backoff import backoff
from command_server.store.event_store import EventStore, StoreUnavailable
from command_server.store.records import Work, WorkKey, WorkKind
from diptych.contract.frames import recorded
from diptych.domain.errors import one_line
from diptych.internal.v1.parking_pb2 import Outcome
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.processes_pb2 import ProcessStepped

_log = structlog.get_logger(__name__)

STUCK_ATTEMPTS = 3
"""Failed attempts after which an output is STUCK."""

_REASON_CHARACTERS_MAX = 1000

_CONTENTS_MAX = 20_000
"""Contents in memory; those of further outputs are read from the log."""


class Content(NamedTuple):
    """Content of an output, and its origin."""

    message: Any
    """The command, request or timeout."""
    compensates: bool
    """True if the output is retried until it succeeds."""
    event_id: str
    """Event id of the step."""
    correlation_id: str
    traceparent: str


class Output:
    """An open output."""

    __slots__ = ("attempts", "content", "given_up", "reason", "retry", "since", "work")

    def __init__(self, work: Work, content: Content | None) -> None:
        self.work = work
        self.content = content
        """None: the content must be read from the log."""
        self.attempts = 0
        """Failed attempts."""
        self.reason = ""
        """Reason of the last failed attempt."""
        self.since = 0.0
        """Time of the first failed attempt, in seconds since 1970; 0: there was none."""
        self.retry: Retry | None = None
        self.given_up = False
        """True after an operator gave it up: it is not tried again, and a further outcome is dropped."""

    @property
    def key(self) -> WorkKey:
        """Position of the step, and the ordinal."""
        return self.work.position, self.work.ordinal

    @property
    def stuck(self) -> bool:
        """True after `STUCK_ATTEMPTS` failed attempts: an operator should look at the output."""
        return self.attempts >= STUCK_ATTEMPTS and bool(self.reason)


OutcomeHandler = Callable[[Output, Content, Outcome], None]
"""Function that takes the outcome of an output."""


class Retry(NamedTuple):
    """A scheduled attempt."""

    timer: asyncio.TimerHandle
    start: Callable[[], None]

    def start_now(self) -> None:
        """Make the attempt now."""
        self.timer.cancel()
        self.start()


class OpenOutputs:
    """All open commands and effects, the earliest timeouts, and as many of their contents as fit into memory."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._open: dict[WorkKey, Output] = {}
        self._contents = 0
        self.kinds: Counter[tuple[str, WorkKind]] = Counter()
        """Number of open outputs by type of process and kind."""
        self.instances: dict[str, Counter[str]] = {}
        """Number of open outputs in memory by type of process and instance."""
        self.stored: Counter[str] = Counter()
        """Number of open timeouts that only the store has, by type of process."""
        self.closed: set[WorkKey] | None = None
        """Outputs that were closed while timeouts are read from the store; None: no read is running."""
        self.stuck: dict[WorkKey, Output] = {}

    def __iter__(self) -> Iterator[Output]:
        return iter(list(self._open.values()))

    def get(self, key: WorkKey) -> Output | None:
        """Return an open output; None if it is not open."""
        return self._open.get(key)

    def stuck_of(self, process: str, instance: str) -> list[Output]:
        """Return the outputs of an instance that are STUCK."""
        return [one for one in self.stuck.values() if (one.work.process, one.work.instance) == (process, instance)]

    def stuck_instances(self, process: str) -> set[str]:
        """Return the instances of a type that have an output that is STUCK."""
        stuck = list(self.stuck.values())
        return {output.work.instance for output in stuck if output.work.process == process}

    def add(self, work: Work, content: Content | None = None) -> Output:
        """Add an output; its content stays in memory if there is room."""
        output = Output(work, None)
        if content is not None and self._contents < _CONTENTS_MAX:
            output.content = content
            self._contents += 1
        self._open[output.key] = output
        self.kinds[work.process, work.kind] += 1
        self.instances.setdefault(work.process, Counter())[work.instance] += 1
        return output

    def count_stored(self, work: Work) -> None:
        """Count a timeout that stays in the store."""
        self.kinds[work.process, work.kind] += 1
        self.stored[work.process] += 1

    def add_stored(self, work: Work) -> bool:
        """Add a counted timeout that was read from the store.

        Return False for a timeout that is open in memory, was closed during the read, or is not counted.
        """
        key = (work.position, work.ordinal)
        if key in self._open or key in (self.closed or ()) or not self.stored[work.process]:
            return False
        self.stored[work.process] -= 1
        self.kinds[work.process, work.kind] -= 1
        self.add(work)
        return True

    def leave_to_store(self, key: WorkKey) -> None:
        """Remove a timeout from memory; it stays open in the store."""
        output = self._open.get(key)
        if output is not None:
            self._remove(output)
            self.count_stored(output.work)

    def close(self, key: WorkKey) -> None:
        """Remove an output whose outcome the process has taken."""
        output = self._open.get(key)
        if output is None:
            return
        self._remove(output)
        if self.closed is not None:
            self.closed.add(key)

    def _remove(self, output: Output) -> None:
        work = output.work
        del self._open[output.key]
        self.stuck.pop(output.key, None)
        self._contents -= output.content is not None
        self.kinds[work.process, work.kind] -= 1
        instances = self.instances[work.process]
        instances[work.instance] -= 1
        if not instances[work.instance]:
            del instances[work.instance]

    async def content(self, output: Output) -> Content:
        """Return the content of an output; read it from the log if necessary, until the log is available.

        Cancelling ends the wait.
        """
        if output.content is not None:
            return output.content
        attempts = 0
        while True:
            try:
                frame = await self._store.frame_at(output.work.position)
            except StoreUnavailable as error:
                _log.warning("output of a process not read", position=output.work.position, cause=str(error))
                attempts += 1
                await asyncio.sleep(backoff(attempts))
                continue
            assert frame is not None, "an output was opened by an event that is not in the log"
            event = recorded(frame)
            return contents(event, ProcessStepped.FromString(event.event.value))[output.work.ordinal]

    def retry_later(self, output: Output, reason: str, start: Callable[[], None]) -> None:
        """Schedule a further attempt, after a delay that grows with each attempt.

        Args:
            output: the output.
            reason: reason of the failed attempt.
            start: function that makes the attempt.
        """
        if output.given_up:
            return
        loop = asyncio.get_running_loop()
        output.attempts += 1
        output.reason = reason = one_line(reason, _REASON_CHARACTERS_MAX)
        output.since = output.since or time.time()
        if output.stuck:
            if output.key not in self.stuck:
                work = output.work
                _log.warning("process stuck", process=work.process, instance=work.instance, reason=reason)
            self.stuck[output.key] = output

        def begin() -> None:
            output.retry = None
            start()

        output.retry = Retry(loop.call_later(backoff(output.attempts), begin), begin)


def contents(event: RecordedEvent, step: ProcessStepped) -> list[Content]:
    """Return the contents of a step's outputs, by ordinal."""
    result = []
    correlation_id = event.metadata.correlation_id or event.event_id
    for output in step.outputs:
        match output.WhichOneof("output"):
            case "command":
                message = output.command
            case "call":
                message = output.call
            case _:
                message = output.timeout.timeout
        result.append(Content(message, output.compensates, event.event_id, correlation_id, event.metadata.traceparent))
    return result


class OutputQueue:
    """Outputs that wait for their turn; one task takes them."""

    def __init__(self) -> None:
        self._outputs: deque[Output] = deque()
        self._arrived = asyncio.Event()

    def put(self, output: Output) -> None:
        """Append an output."""
        self._outputs.append(output)
        self._arrived.set()

    async def take(self) -> Output:
        """Wait for an output, and take the first. Cancelling takes none."""
        while not self._outputs:
            self._arrived.clear()
            await self._arrived.wait()
        return self._outputs.popleft()
