"""The writer: group commit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import structlog

from command_server.batch import Batch
from command_server.catalogue import Catalogue
from command_server.metrics import BATCH_COMMANDS, COMMANDS
from command_server.state_cache import StateCache
from command_server.store.event_store import CommitNotKnown, EventStore, StoreUnavailable
from command_server.store.records import Committed
from command_server.submission import Submission, ignore
from diptych.contract.reasons import CommandNotInTime, LogUnavailable, OutcomeUnknown, Overloaded
from diptych.domain.loading import LoadedDomain
from diptych.domain.refusal import Refusal
from diptych.server import failpoints
from diptych.server.errors import internal_error
from diptych.server.settings import CommandServerSettings
from diptych.storage.batch_window import BatchWindow, BatchWindows

_log = structlog.get_logger(__name__)

_OVERLOAD_RETRY_SECONDS = 0.1

STOPPING = "the server is stopping"
"""Cause of LOG_UNAVAILABLE for commands that arrive after the stop."""


class Writer:
    """Decides and records all commands of this server, one batch after the other.

    1. `submit` queues a command. Commands that arrive during a commit form the next batch.
    2. `run` waits until the queue has a command, and then for a batch window, so that concurrent callers share a
       commit. A lone caller does not wait.
    3. It takes a batch from the queue, and refuses commands whose callers no longer wait or whose deadline is over.
    4. One call of the store reads, decides and records the batch.
    5. The commit is published to the event tail; then each command's `done` is called. A refused command fails
       alone; a failed commit fails its batch, and records nothing of it.
    6. `close` lets `run` end when the queue is empty. `give_up` refuses the queue, and reports an unknown outcome to
       the callers of the running commit.

    Args:
        domain: the domain whose deciders decide.
        store: the log.
        settings: limits of queue, batch, cache and snapshots.
        publish: called with every commit that recorded events: the commit, the types of its events, and the new
            versions of its streams.
    """

    def __init__(
        self,
        domain: LoadedDomain,
        store: EventStore,
        settings: CommandServerSettings,
        publish: Callable[[Committed, Sequence[str], Mapping[str, int]], None],
    ) -> None:
        self._catalogue = Catalogue(domain, settings.snapshot_events)
        self._cache = StateCache(settings.state_cache_entries, settings.state_cache_bytes_max)
        self._store = store
        self._batch_max = settings.batch_commands_max
        self._queue_max = settings.queue_commands_max
        self._publish = publish
        self._queue: deque[Submission] = deque()
        self._wake = asyncio.Event()
        self._wake_count = 1
        """Commands in the queue that wake `run`."""
        self._room = asyncio.Event()
        self._closing = False
        self._committing: list[Submission] = []

    def submit(self, submission: Submission) -> None:
        """Queue a command; its `done` is called when its outcome is set.

        Raises:
            Overloaded: the queue is full.
            LogUnavailable: the server is stopping.
        """
        if len(self._queue) >= self._queue_max:
            raise Overloaded(what="waiting commands", limit=self._queue_max).with_details(
                retry_seconds=_OVERLOAD_RETRY_SECONDS
            )
        if self._closing:
            raise LogUnavailable(cause=STOPPING)
        self._queue.append(submission)
        if len(self._queue) >= self._wake_count:
            self._wake.set()

    async def wait_for_room(self) -> None:
        """Wait until at most half of the queue is full: streams slow down and leave room for single calls."""
        while len(self._queue) > self._queue_max // 2:
            self._room.clear()
            await self._room.wait()

    async def run(self) -> None:
        """Commit batches until `close` was called and the queue is empty.

        Cancelling leaves the outcome of the running commit unknown, and its commands without an outcome.
        """
        time = asyncio.get_running_loop().time
        windows = BatchWindows(self._batch_max)
        window, until = BatchWindow.after(0), time()
        while True:
            if not self._queue:
                if self._closing:
                    return
                await self._wait_for(1)
            if len(self._queue) < window.size and not self._closing:
                left = until - time()
                await self._wait_for(window.size, left)
                if left > 0 and not self._closing:
                    windows.observe(len(self._queue) >= window.size)
            batch = self._take_batch()
            self._room.set()
            if batch:
                self._committing = batch
                await self._commit(batch)
                self._committing = []
            window = windows.after(len(batch) + len(self._queue))
            until = time() + window.seconds

    def close(self) -> None:
        """Take no further commands; `run` returns when the queued commands are done."""
        self._closing = True
        self._wake.set()

    def give_up(self) -> None:
        """Close, refuse all queued commands, and report an unknown outcome for those of the running commit."""
        self.close()
        queued, self._queue = self._queue, deque()
        self._room.set()
        if queued:
            self._fail(list(queued), lambda _: LogUnavailable(cause=STOPPING))
        for submission in self._committing:
            submission.early_refusal = OutcomeUnknown(request_id=submission.request_id)
            _report(submission)
            submission.done = ignore

    async def _wait_for(self, count: int, seconds: float | None = None) -> None:
        """Wait until the queue has `count` commands, the time is up, or `close` is called."""
        if seconds is not None and seconds <= 0:
            return
        self._wake_count = count
        self._wake.clear()
        timer = seconds and asyncio.get_running_loop().call_later(seconds, self._wake.set)
        await self._wake.wait()
        if timer:
            timer.cancel()

    def _take_batch(self) -> list[Submission]:
        """Take the next batch from the queue, without commands that are abandoned or too late."""
        batch: list[Submission] = []
        now = asyncio.get_running_loop().time()
        while self._queue and len(batch) < self._batch_max:
            submission = self._queue.popleft()
            if submission.abandoned or submission.deadline <= now:
                COMMANDS.labels("abandoned").inc()
                submission.refusal = CommandNotInTime()
                _report(submission)
            else:
                batch.append(submission)
        return batch

    async def _commit(self, submissions: list[Submission]) -> None:
        batch = Batch(submissions, self._catalogue, self._cache, datetime.now(UTC))
        try:
            failpoints.hit("commit.taken")
            committed = await self._store.commit(batch.reads(), batch.decide)
        except CommitNotKnown as error:
            _log.error("outcome of a commit unknown", cause=str(error), commands=len(submissions))
            self._fail(submissions, lambda one: OutcomeUnknown(request_id=one.request_id))
            return
        except StoreUnavailable as error:
            _log.error("log not available", cause=str(error), commands=len(submissions))
            cause = str(error)
            self._fail(submissions, lambda _: LogUnavailable(cause=cause))
            return
        except Exception as error:
            internal = internal_error(error, "", where="commit")
            self._fail(submissions, lambda _: internal)
            return
        changed = batch.finish(committed)
        if committed.frames:
            self._publish(committed, batch.event_types, changed)
            failpoints.hit("publish.done")
        BATCH_COMMANDS.observe(len(submissions))
        refused = 0
        for submission in submissions:
            refused += submission.refusal is not None
            _report(submission)
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
            _report(submission)


def _report(submission: Submission) -> None:
    """Call `done` of a submission. If that fails, log the error: the other submissions of the batch are reported."""
    try:
        submission.done()
    except Exception as error:
        internal_error(error, submission.request_id, where="report of an outcome")
