"""The watch over the read store, and over the health that follows from it.

It finds the store when it appears, notices when it is replaced, and is the slow poll that stands behind every
notification. While somebody waits and no feed would wake them, it polls faster.
"""

from __future__ import annotations

import asyncio

import structlog

from diptych.server.health import Health
from query_server.freshness.tracker import Freshness
from query_server.rows.row_reader import RowReader
from query_server.upstream import Upstreams

POLL_SECONDS = 0.1
"""Between two looks at the store."""

POLL_SECONDS_WITHOUT_FEED = 0.05
"""The same, while there are waits that no feed will wake."""

_log = structlog.get_logger(__name__)


class StoreWatch:
    """Watches the read store and tells health."""

    def __init__(
        self, reader: RowReader, freshness: Freshness, upstreams: Upstreams, health: Health, services: list[str]
    ) -> None:
        self._reader = reader
        self._freshness = freshness
        self._upstreams = upstreams
        self._health = health
        self._services = ["", *services]
        self._told: dict[str, bool] = {}
        self._file_changes = 0

    async def run(self) -> None:
        """Watches for ever."""
        while True:
            await self.look()
            alone = self._freshness.waits > 0 and not self._freshness.feed_live
            if alone:
                await asyncio.sleep(POLL_SECONDS_WITHOUT_FEED)
                continue
            self._freshness.poll_wanted.clear()
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._freshness.poll_wanted.wait()
            except TimeoutError:
                pass

    async def look(self) -> None:
        """Looks once."""
        freshness = self._freshness
        if freshness.waits and not freshness.feed_live:
            # What a projector has applied in memory alone is of use to those who wait when it is on disk.
            for tracker in freshness.trackers.values():
                if tracker.heap:
                    self._upstreams.ask_checkpoint(tracker.name)
        found = await self._reader.generations()
        if self._reader.file_changes != self._file_changes:
            self._file_changes = self._reader.file_changes
            freshness.replaced_store()
            self._upstreams.follow_feed_anew()
        freshness.read_store(found)
        for service in self._services:
            await self._tell(service, freshness.readable)
        now = freshness.now
        for tracker in freshness.trackers.values():
            await self._tell(f"diptych.projection.{tracker.name}", tracker.serving(now))

    async def _tell(self, service: str, serving: bool) -> None:
        if self._told.get(service) != serving:
            self._told[service] = serving
            if not service:
                _log.info("the read store can be read" if serving else "the read store cannot be read yet")
            await self._health.set(service, serving)
