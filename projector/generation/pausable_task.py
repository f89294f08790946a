"""Pausable task: work that stops between two steps and starts again on request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

_CANCEL_AGAIN_SECONDS = 0.1


class PausableTask:
    """Task that runs one piece of work while it is allowed to.

    Work that ends by itself stays ended until `start` is called again.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], *, started: bool) -> None:
        """Create the task.

        Args:
            work: Function that returns the coroutine of a new run.
            started: True if the first run may begin at once.
        """
        self.step = asyncio.Lock()
        """Lock that the work holds over each step that must not be interrupted."""
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._start_requested = asyncio.Event()
        if started:
            self._start_requested.set()

    async def run(self) -> None:
        """Run the work each time it is started. Cancelling this call cancels the running work.

        Raises:
            Exception: An error that the work ends with.
        """
        while True:
            await self._start_requested.wait()
            if not self._start_requested.is_set():
                continue  # Stopped again in the meantime.
            self._start_requested.clear()
            self._task = asyncio.create_task(self._work())
            (result,) = await asyncio.gather(self._task, return_exceptions=True)
            if isinstance(result, Exception):
                raise result

    def start(self) -> None:
        """Let the work run again, after it was stopped or has ended."""
        self._start_requested.set()

    async def stop(self) -> bool:
        """Stop the work between two steps, and return when it has ended.

        Returns:
            True if the work was running or about to.
        """
        task = self._task
        running = self._start_requested.is_set() or (task is not None and not task.done())
        self._start_requested.clear()
        while task is not None and not task.done():
            async with self.step:
                task.cancel()
            # Code that was closing a resource may have swallowed the cancellation: then cancel again.
            await asyncio.wait((task,), timeout=_CANCEL_AGAIN_SECONDS)
        return running
