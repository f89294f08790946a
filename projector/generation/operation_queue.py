"""Operation queue: pauses, rebuilds, switches and refolds of one projection, one at a time, each run to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from diptych.domain.refusal import Refusal
from diptych.server.errors import internal_error

T = TypeVar("T")


class OperationQueue:
    """Queue of operations, run in the order of the calls. An operation runs to its end even if its caller goes away."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._operations: set[asyncio.Task[Any]] = set()

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run an operation when all earlier ones have ended, and return its result.

        Cancelling this call does not cancel the operation, which runs to its end. An error of it is then logged, unless
        it is a refusal, which concerns the caller alone.

        Raises:
            Exception: The error of the operation.
        """

        async def in_turn() -> T:
            async with self._turn:
                return await operation()

        task = asyncio.create_task(in_turn())
        self._operations.add(task)
        task.add_done_callback(self._operations.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_error)
            raise

    async def wait_idle(self) -> None:
        """Wait until every operation that was begun has ended."""
        await asyncio.gather(*self._operations, return_exceptions=True)


def _log_error(operation: asyncio.Task[Any]) -> None:
    """Log the error of an operation whose caller has gone away."""
    error = None if operation.cancelled() else operation.exception()
    if error is not None and not isinstance(error, Refusal):
        internal_error(error, "", where="operation")
