"""The writer: group commit.

Commands that arrive while a commit is under way form the next batch, which is one call of the event store; it waits a
moment for a crowd. A refused command fails alone; a failed commit fails its whole batch, and records nothing of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import structlog

from command_server.batch import Batch, Catalogue
from command_server.metrics import BATCH_COMMANDS, COMMANDS
from command_server.state_cache import StateCache
from command_server.store.event_store import CommitNotKnown, EventStore, StoreUnavailable
from command_server.store.records import Committed
from command_server.submission import Submission, nobody
from diptych.contract.reasons import CommandNotInTime, LogUnavailable, OutcomeUnknown, Overloaded
from diptych.domain.loading import LoadedDomain
from diptych.domain.refusal import Refusal
from diptych.server import failpoints
from diptych.server.errors import internal_error
from diptych.server.settings import CommandServerSettings
from diptych.storage.batch_window import Crowd

_log = structlog.get_logger(__name__)

_OVERLOAD_RETRY_SECONDS = 0.1

STOPPING = "the server is stopping"
"""Why the log is not available to commands that come too late."""


class Writer:
    """Decides and records all commands of this process, one batch after the other.

    `published` is called with every commit that recorded something: the commit, the types of its events, and the
    new versions of its streams.
    """

    def __init__(
        self,
        domain: LoadedDomain,
        store: EventStore,
        settings: CommandServerSettings,
        published: Callable[[Committed, Sequence[str], Mapping[str, int]], None],
    ) -> None:
        self._catalogue = Catalogue(domain, settings.snapshot_events)
        self._cache = StateCache(settings.state_cache_entries)
        self._store = store
        self._batch_max = settings.batch_commands_max
        self._queue_max = settings.queue_commands_max
        self._published = published
        self._queue: deque[Submission] = deque()
        self._arrived = asyncio.Event()
        self._awaited = 1
        """With how many commands in the queue the writer is woken."""
        self._taken = asyncio.Event()
        self._closing = False
        self._committing: list[Submission] = []

    def submit(self, submission: Submission) -> None:
        """Queues a command; its `done` is called when its outcome is known. Raises `Overloaded`, `LogUnavailable`."""
        if len(self._queue) >= self._queue_max:
            raise Overloaded(what="waiting commands", limit=self._queue_max).with_details(
                retry_seconds=_OVERLOAD_RETRY_SECONDS
            )
        if self._closing:
            raise LogUnavailable(cause=STOPPING)
        self._queue.append(submission)
        if len(self._queue) >= self._awaited:
            self._arrived.set()

    async def wait_for_room(self) -> None:
        """Waits until at most half of the queue is full: streams are slowed down, and leave room for single calls."""
        while len(self._queue) > self._queue_max // 2:
            self._taken.clear()
            await self._taken.wait()

    async def run(self) -> None:
        """Commits batches until `close` is called and the queue is empty."""
        time = asyncio.get_running_loop().time
        crowd, until = Crowd.after(0), time()
        while True:
            if not self._queue:
                if self._closing:
                    return
                await self._wait_for(1)
            if len(self._queue) < crowd.size and not self._closing:
                await self._wait_for(crowd.size, until - time())
            batch = self._take()
            self._taken.set()
            if batch:
                self._committing = batch
                await self._commit(batch)
                self._committing = []
            crowd = Crowd.after(len(batch) + len(self._queue), self._batch_max)
            until = time() + crowd.seconds

    async def _wait_for(self, count: int, seconds: float | None = None) -> None:
        """Waits until so many commands are in the queue, the time is over, or `close` is called."""
        if seconds is not None and seconds <= 0:
            return
        self._awaited = count
        self._arrived.clear()
        timer = seconds and asyncio.get_running_loop().call_later(seconds, self._arrived.set)
        await self._arrived.wait()
        if timer:
            timer.cancel()

    def _take(self) -> list[Submission]:
        """The next batch, without what nobody waits for any more, and what is too late."""
        batch: list[Submission] = []
        now = asyncio.get_running_loop().time()
        while self._queue and len(batch) < self._batch_max:
            submission = self._queue.popleft()
            if submission.abandoned or submission.deadline <= now:
                COMMANDS.labels("abandoned").inc()
                submission.refusal = CommandNotInTime()
                submission.done()
            else:
                batch.append(submission)
        return batch

    def close(self) -> None:
        """Takes no further commands; `run` returns when those that wait are done."""
        self._closing = True
        self._arrived.set()

    def give_up(self) -> None:
        """Refuses what waits, and tells whoever is in the commit under way that its outcome is not known."""
        self.close()
        queued, self._queue = self._queue, deque()
        self._taken.set()
        if queued:
            self._fail(list(queued), lambda _: LogUnavailable(cause=STOPPING))
        for submission in self._committing:
            submission.lost = OutcomeUnknown(request_id=submission.request_id)
            submission.done()
            submission.done = nobody

    async def _commit(self, submissions: list[Submission]) -> None:
        batch = Batch(submissions, self._catalogue, self._cache, datetime.now(UTC))
        try:
            failpoints.hit("commit.taken")
            committed = await self._store.commit(batch.reads(), batch.decide)
        except CommitNotKnown as error:
            _log.error("it is not known whether a batch was recorded", cause=str(error), commands=len(submissions))
            self._fail(submissions, lambda one: OutcomeUnknown(request_id=one.request_id))
            return
        except StoreUnavailable as error:
            _log.error("the log is not available", cause=str(error), commands=len(submissions))
            cause = str(error)
            self._fail(submissions, lambda _: LogUnavailable(cause=cause))
            return
        except Exception as error:
            internal = internal_error(error, "", where="commit")
            self._fail(submissions, lambda _: internal)
            return
        changed = batch.finish(committed)
        if committed.frames:
            self._published(committed, batch.event_types, changed)
            failpoints.hit("publish.done")
        BATCH_COMMANDS.observe(len(submissions))
        refused = 0
        for submission in submissions:
            refused += submission.refusal is not None
            submission.done()
        failpoints.hit("commit.answered")
        COMMANDS.labels("accepted").inc(len(submissions) - refused)
        COMMANDS.labels("refused").inc(refused)

    @staticmethod
    def _fail(submissions: Sequence[Submission], refusal: Callable[[Submission], Refusal]) -> None:
        COMMANDS.labels("failed").inc(len(submissions))
        for submission in submissions:
            submission.accepted = None
            submission.position = 0
            submission.refusal = refusal(submission)
            submission.done()
