"""Supervision: background tasks run in one `asyncio.TaskGroup`; the first failure ends all of them and names its task.

::

    async with TaskSupervisor() as tasks:
        tasks.start(follower.run(), name="follower notes")
        await tasks.wait()  # Raises TaskFailedError if the follower fails.

Leaving the block cancels the tasks that still run and waits for their end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

R = TypeVar("R")


class TaskFailedError(Exception):
    """A supervised task failed. The message names the task; the cause is its exception."""


class TaskSupervisor:
    """Owns background tasks from its opening to its closing.

    The task group runs in a task of its own. A failure therefore does not cancel the code inside `async with`:
    that code learns of it by `wait` and can stop in its own order.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._first_failure: asyncio.Task[Any] | None = None
        self._open = False
        self._closing = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        opened = asyncio.Event()
        self._runner = asyncio.create_task(self._run(opened), name="supervisor")
        await opened.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def start(self, work: Coroutine[Any, Any, R], *, name: str) -> asyncio.Task[R]:
        """Run a coroutine as a background task.

        Args:
            work: The coroutine. It may end by itself; an exception ends all other tasks.
            name: Name of the task, for errors and log lines.

        Raises:
            RuntimeError: The supervisor is not open, or a task has failed already.
        """
        if not self._open:
            work.close()
            raise RuntimeError(f"Task {name!r} cannot start: its supervisor is not open.")
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_end)
        return task

    async def wait(self) -> None:
        """Wait until a task fails, or until `close`. Cancelling it leaves the tasks running.

        Raises:
            TaskFailedError: A task failed. The other tasks have ended.
        """
        assert self._runner is not None, "wait is called inside the async with block"
        await asyncio.shield(self._runner)

    async def wait_for(self, event: asyncio.Event) -> None:
        """Wait until an event is set. Cancelling it leaves the tasks running.

        Raises:
            TaskFailedError: A task failed before the event was set. The other tasks have ended.
        """
        if self._open:
            waiting = self.start(event.wait(), name="wait")
            try:
                await asyncio.wait((waiting,))  # The failure of another task cancels it.
            finally:
                waiting.cancel()
        if not event.is_set():
            await self.wait()

    async def close(self) -> None:
        """Cancel all tasks and wait for their end. Raises nothing: failures are reported by `wait`."""
        self._open = False
        self._closing.set()
        if self._runner is not None:
            await asyncio.wait((self._runner,))
            if not self._runner.cancelled():
                self._runner.exception()  # Marks it as retrieved.

    async def _run(self, opened: asyncio.Event) -> None:
        try:
            async with self._group:
                self._open = True
                opened.set()
                await self._closing.wait()
                for task in self._tasks:
                    task.cancel()
        except BaseExceptionGroup as failures:
            failed = self._first_failure
            name = failed.get_name() if failed is not None else "unknown"
            raise TaskFailedError(f"The task {name!r} failed.") from failures.exceptions[0]
        finally:
            self._open = False

    def _on_end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if self._first_failure is None and not task.cancelled() and task.exception() is not None:
            self._first_failure = task
            self._open = False
