"""Change queue: changes of a projection's course, one at a time, each completed even if its caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from diptych.domain.refusal import Refusal
from diptych.server.errors import internal_error

T = TypeVar("T")


class ChangeQueue:
    """Queue of changes, run in the order of the calls."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()

    async def run(self, change: Callable[[], Awaitable[T]]) -> T:
        """Run a change when all earlier ones have ended, and return its result.

        Cancelling this call does not cancel the change, which runs to its end. An error of it is then logged, unless
        it is a refusal, which concerns the caller alone.

        Raises:
            Exception: The error of the change.
        """

        async def in_turn() -> T:
            async with self._turn:
                return await change()

        task = asyncio.create_task(in_turn())
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_error)
            raise

    async def wait_idle(self) -> None:
        """Wait until every change that was begun has ended."""
        await asyncio.gather(*self._changes, return_exceptions=True)


def _log_error(change: asyncio.Task[Any]) -> None:
    """Log the error of a change whose caller has gone away."""
    error = None if change.cancelled() else change.exception()
    if error is not None and not isinstance(error, Refusal):
        internal_error(error, "", where="change")
