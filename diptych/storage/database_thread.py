"""A thread of a database's own: calls run on it one after the other, and a loop waits for what comes of them.

It does what a `ThreadPoolExecutor` of one thread does, with one queue and one wake-up of the loop for a call; the
executor's locks and chained futures add some 0.03 ms to every commit.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

T = TypeVar("T")
_Job = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]

_log = structlog.get_logger(__name__)


class DatabaseThread:
    """One thread, from the first call until `close`."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._started = False

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """What a call returns or raises. Cancelled before its turn, it does not run."""
        if not self._started:
            self._started = True
            self._thread.start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((future, call, arguments))
        return await future

    async def close(self) -> None:
        """Ends the thread when it has done what it was given."""
        self._jobs.put(None)
        if self._started:
            await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call, arguments = job
            if future.cancelled():
                continue
            try:
                self._tell(future, _succeed, call(*arguments))
            except BaseException as error:
                self._tell(future, _fail, error)
            del job, future, call, arguments  # Or they would live until the next job comes.

    @staticmethod
    def _tell(future: asyncio.Future[Any], tell: Callable[[asyncio.Future[Any], Any], None], what: Any) -> None:
        try:
            future.get_loop().call_soon_threadsafe(tell, future, what)
        except RuntimeError:
            _log.debug("a call ended after its event loop")


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
