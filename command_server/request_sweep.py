"""The sweep of request ids: forgets those of clients when their retention time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from command_server.store.event_store import EventStore, StoreUnavailable
from command_server.submission import is_client_key

_log = structlog.get_logger(__name__)

_STEP_REQUESTS = 500
"""Requests that one step examines."""
_STEP_PAUSE_SECONDS = 0.25
_SWEEP_PAUSE_SECONDS = 3600.0
_DAY_MICROSECONDS = 86_400_000_000


class RequestSweep:
    """Forgets old request ids in the background.

    1. A sweep examines all remembered requests in the order of their keys, 500 in one step. It needs no index of
       times, so commits pay nothing for it.
    2. A step deletes the requests of clients that are older than the retention time, in one transaction of its own. It
       waits until at most half of the writer's queue is full, and pauses after each step.
    3. Request ids of processes stay: an open output is sent again under its id, however late.
    4. A sweep that was interrupted begins anew.

    Acceptance times and the sweep are of one wall clock. A clock that is set forward by days forgets early.

    Args:
        store: the log.
        retention_days: time for which request ids are remembered; 0: for ever.
        wait_for_room: returns when at most half of the writer's queue is full.
    """

    def __init__(self, store: EventStore, retention_days: float, wait_for_room: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._retention = round(retention_days * _DAY_MICROSECONDS)
        self._wait_for_room = wait_for_room

    async def run(self) -> None:
        """Sweep once an hour, until cancelled. Returns at once if request ids are remembered for ever."""
        while self._retention:
            await asyncio.sleep(_STEP_PAUSE_SECONDS)
            try:
                forgotten = await self.sweep(datetime.now(UTC), pause_seconds=_STEP_PAUSE_SECONDS)
                if forgotten:
                    _log.info("request ids forgotten", count=forgotten)
            except StoreUnavailable as error:
                _log.warning("sweep of request ids postponed", cause=str(error))
            await asyncio.sleep(_SWEEP_PAUSE_SECONDS)

    async def sweep(self, now: datetime, *, pause_seconds: float = 0) -> int:
        """Examine all remembered requests once, and return the number of those that were forgotten.

        Cancelling ends the sweep after a complete step.

        Args:
            now: the time from which the retention time counts back.
            pause_seconds: pause after each step.

        Raises:
            StoreUnavailable: the store cannot read or write now.
        """
        before = int(now.timestamp() * 1_000_000) - self._retention
        after, forgotten = "", 0
        while True:
            await self._wait_for_room()
            page = await self._store.request_times(after, _STEP_REQUESTS)
            keys = [key for key, accepted_at in page if accepted_at < before and is_client_key(key)]
            if keys:
                await self._wait_for_room()
                forgotten += await self._store.forget_requests(keys, before)
            if len(page) < _STEP_REQUESTS:
                return forgotten
            after = page[-1][0]
            await asyncio.sleep(pause_seconds)
