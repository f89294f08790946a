"""The queue of one instance."""

from __future__ import annotations

import asyncio
from collections import deque

from command_server.processes.inputs import Input
from command_server.store.records import ParkedInput


class InstanceQueue:
    """The inputs of one instance, oldest first."""

    __slots__ = ("attempts", "busy", "id", "inputs", "parked", "process", "waiters")

    def __init__(self, process: str, id: str) -> None:
        self.process = process
        self.id = id
        self.inputs: deque[Input] = deque()
        self.busy = False
        """True while the first input is in the writer or waits for its turn."""
        self.parked: ParkedInput | None = None
        """Record of the first input, on which the instance is parked; None: the instance is not parked."""
        self.attempts = 0
        """Failed attempts at the first input because the log was not available."""
        self.waiters: list[asyncio.Future[ParkedInput | None]] = []
        """Operators' retries that wait until the first input is taken (None) or parked again."""

    def end_retries(self, parked: ParkedInput | None) -> None:
        """Report the result to all retries."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(parked)

    def fail_retries(self, error: Exception) -> None:
        """Raise an error from all retries."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
