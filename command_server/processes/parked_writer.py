"""The parked writer: writes and deletes records of parked inputs in the background."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from command_server.processes.backoff import backoff
from command_server.store.event_store import EventStore, StoreUnavailable
from command_server.store.records import ParkedInput, ParkedKey

_log = structlog.get_logger(__name__)


class ParkedWriter:
    """Writes to the store in the order of the calls, and retries each write until it succeeds."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._jobs: deque[tuple[Callable[[], Awaitable[None]], Callable[[], None]]] = deque()
        self._arrived = asyncio.Event()

    def put(self, parked: ParkedInput, on_written: Callable[[], None]) -> None:
        """Write a record, and call `on_written` when it is durable."""
        self._add(lambda: self._store.put_parked([parked]), on_written)

    def delete(self, key: ParkedKey) -> None:
        """Delete a record."""
        self._add(lambda: self._store.delete_parked([key]), _ignore)

    def call_after_writes(self, call: Callable[[], None]) -> None:
        """Call `call` when all earlier writes are durable: now, if there are none."""
        if self._jobs:
            self._add(_write_nothing, call)
        else:
            call()

    async def run(self) -> None:
        """Write until cancelled. Writes that remain are made after the next start, from the log."""
        attempts = 0
        while True:
            while not self._jobs:
                self._arrived.clear()
                await self._arrived.wait()
            write, on_written = self._jobs[0]
            try:
                await write()
            except StoreUnavailable as error:
                _log.warning("parked input not written, retrying", cause=str(error))
                attempts += 1
                await asyncio.sleep(backoff(attempts))
            else:
                attempts = 0
                self._jobs.popleft()
                on_written()

    def _add(self, write: Callable[[], Awaitable[None]], on_written: Callable[[], None]) -> None:
        self._jobs.append((write, on_written))
        self._arrived.set()


async def _write_nothing() -> None:
    return


def _ignore() -> None:
    return
