"""Reads of the log's head that concurrent callers share."""

from __future__ import annotations

import asyncio

from command_server.store.event_store import EventStore
from command_server.store.records import LogHead


class HeadReader:
    """Reads the head of a log with several writers, once for all callers that wait at the same time.

    A caller joins only a read that has not begun. The head it gets is therefore at or beyond every event that was
    recorded before its call, whichever server recorded it.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._reading = asyncio.Lock()
        self._next: asyncio.Task[LogHead] | None = None

    async def read(self) -> LogHead:
        """Return the head as of now.

        Cancelling one caller leaves the read to the others.

        Raises:
            StoreUnavailable: the store cannot read.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._read(), name="read-head")
            self._next.add_done_callback(_retrieve_error)
        return await asyncio.shield(self._next)

    async def _read(self) -> LogHead:
        async with self._reading:
            self._next = None  # A later caller needs a later read.
            return await self._store.head()


def _retrieve_error(task: asyncio.Task[LogHead]) -> None:
    """Retrieve a failure, so that asyncio does not report it when every caller was cancelled."""
    if not task.cancelled():
        task.exception()
