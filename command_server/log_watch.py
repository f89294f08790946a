"""Log watch: reports that the log's files were removed or replaced under the server, also while no command arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from command_server.store.event_store import EventStore, StoreUnavailable
from diptych.server.health import Health

_CHECK_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class LogWatch:
    """Sets the health of the server's services by the presence of the log's files."""

    def __init__(self, store: EventStore, health: Health, services: Iterable[str]) -> None:
        """Prepare the watch.

        Args:
            store: The log.
            health: Health of the server.
            services: Services that are NOT_SERVING without the log; "" is the whole server.
        """
        self._store = store
        self._health = health
        self._services = sorted(services)
        self._fault = ""

    async def run(self) -> None:
        """Check once a second, until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            await self.check()

    async def check(self) -> None:
        """Check once, and report a change."""
        try:
            self._store.check_files()
            fault = ""
        except StoreUnavailable as error:
            fault = str(error)
        if fault == self._fault:
            return
        self._fault = fault
        if fault:
            _log.error("log not available, commands are refused", cause=fault)
        else:
            _log.info("log available again")
        for service in self._services:
            await self._health.set(service, not fault)
