"""Reader threads: each has a connection of its own, and takes jobs from a queue."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog

from diptych.contract.reasons import Overloaded
from diptych.storage.read_connection import ReadConnection
from query_server.rows.time_limit import TimeLimit

READS_MAX = 10_000
"""Reads that wait for a connection, or keys that wait for the next select. More are refused."""

_CACHE_KIBIBYTES = 16_384

_INTERRUPT_SECONDS = 0.05
"""Pause between interrupts of a read: one that comes before its statement begins has no effect."""

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class Job(Protocol):
    """Work for a reader thread."""

    def run(self, threads: ReaderThreads, connection: ReadConnection) -> None:
        """Read, and deliver the result to the event loop."""
        ...


class ReaderThreads:
    """Threads that read one store, for one event loop."""

    def __init__(self, path: Path, readers: int) -> None:
        """Start the threads.

        Args:
            path: The store's file.
            readers: Number of threads that read rows; one more polls and looks up events. With several,
                one reads by key only, so that no long list delays those reads.
        """
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self._key_jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._other_jobs = self._key_jobs if readers == 1 else queue.SimpleQueue[Job | None]()
        self._control_jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._queues = [self._control_jobs, self._key_jobs, *[self._other_jobs] * (readers - 1)]
        self._threads = [
            threading.Thread(target=self._work, args=(jobs,), name=f"reader-{index}", daemon=True)
            for index, jobs in enumerate(self._queues)
        ]
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """End the threads after the jobs that they have, and close their connections."""
        for jobs in self._queues:
            jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def submit_keys(self, job: Job) -> None:
        """Give a job to the thread that reads by key."""
        self._key_jobs.put(job)

    async def submit_control(self, work: Callable[[ReadConnection], T]) -> T:
        """Run a short look-up that no list may delay, on a connection of its own. Cancelling it drops the result."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._control_jobs.put(_OtherJob(future, work))
        return await future

    async def submit(self, work: Callable[[ReadConnection], T], time_limit: TimeLimit | None = None) -> T:
        """Run some work on a connection. Cancelling it interrupts the statement and drops the result.

        Args:
            work: Reads, on the thread.
            time_limit: Limit of the wait for a connection and of the work; None: there is none.

        Raises:
            Overloaded: Too many reads wait, or the time limit has passed. The statement is interrupted then.
        """
        if self._waiting >= READS_MAX:
            raise Overloaded(what="reads", limit=READS_MAX).with_details(retry_seconds=1)
        future: asyncio.Future[T] = self._loop.create_future()
        job = _OtherJob(future, work)
        self._waiting += 1
        if time_limit is not None:
            self._end_at(time_limit, future)
        try:
            self._other_jobs.put(job)
            return await future
        finally:
            self._waiting -= 1
            self._interrupt(job)

    def _end_at(self, time_limit: TimeLimit, future: asyncio.Future[Any]) -> None:
        """Refuse a read when its time limit has passed, which may be extended until then."""

        def check() -> None:
            if future.done():
                return
            if (seconds := time_limit.seconds_left) > 0:
                timer[0] = self._loop.call_later(seconds, check)
            else:
                limit = time_limit.milliseconds
                future.set_exception(Overloaded(what="milliseconds for one read of the store", limit=limit))

        timer = [self._loop.call_later(time_limit.seconds_left, check)]
        future.add_done_callback(lambda _: timer[0].cancel())

    def _interrupt(self, job: _OtherJob) -> None:
        """Interrupt a read that nobody waits for, until it has ended."""
        if job.abandon():
            self._loop.call_later(_INTERRUPT_SECONDS, self._interrupt, job)

    def deliver(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Call back on the event loop, from a thread. The loop may have ended."""
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            _log.debug("read ended after its event loop")

    def _work(self, jobs: queue.SimpleQueue[Job | None]) -> None:
        connection = ReadConnection(self._path, cache_kibibytes=_CACHE_KIBIBYTES)
        while (job := jobs.get()) is not None:
            job.run(self, connection)
        connection.close()


class _OtherJob:
    """A read for one caller."""

    __slots__ = ("_connection", "_is_abandoned", "_lock", "future", "work")

    def __init__(self, future: asyncio.Future[Any], work: Callable[[ReadConnection], Any]) -> None:
        self.future = future
        self.work = work
        self._lock = threading.Lock()
        self._connection: ReadConnection | None = None  # While the work runs.
        self._is_abandoned = False

    def run(self, threads: ReaderThreads, connection: ReadConnection) -> None:
        with self._lock:
            if self._is_abandoned:
                return
            self._connection = connection
        try:
            outcome: tuple[Callable[[Any], None], Any] = self._succeed, self.work(connection)
        except Exception as error:
            outcome = self._fail, error
        with self._lock:  # An interrupt from now on would meet the next job.
            self._connection = None
        threads.deliver(*outcome)

    def abandon(self) -> bool:
        """Keep the work from starting, or interrupt it. Return True while it runs."""
        with self._lock:
            self._is_abandoned = True
            if self._connection is None:
                return False
            self._connection.interrupt()
            return True

    def _succeed(self, result: Any) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
