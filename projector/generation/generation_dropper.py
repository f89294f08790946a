"""Generation dropper: deletes the rows and tables of dropped generations, a few rows at a time."""

from __future__ import annotations

import asyncio
import time

import structlog

from diptych.storage.errors import StoreError
from diptych.storage.read_store import Lease, ReadStore

_PAUSE_SECONDS = 0.05
"""Shortest pause between two deletions. It is as long as the last deletion, if that took longer."""

_RETRY_SECONDS = 30.0

_log = structlog.get_logger(__name__)


class GenerationDropper:
    """Deletes the dropped generations of one projection."""

    def __init__(self, store: ReadStore, lease: Lease) -> None:
        self._store = store
        self._lease = lease
        self._requested = asyncio.Event()
        self._requested.set()

    def request(self) -> None:
        """Look for dropped generations, as there may be one."""
        self._requested.set()

    async def run(self) -> None:
        """Delete dropped generations at each request, until the task is cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            try:
                await self._drop_all()
            except StoreError as error:
                _log.warning(
                    "dropping a generation failed, retrying",
                    projection=self._lease.projection.name,
                    cause=str(error),
                    retry_seconds=_RETRY_SECONDS,
                )
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._requested.set)

    async def _drop_all(self) -> None:
        while True:
            started = time.monotonic()
            if not await self._store.drop_some(self._lease):
                return
            await asyncio.sleep(max(_PAUSE_SECONDS, time.monotonic() - started))
