"""Poller of the read store, and of the health that follows from it.

It finds the store when it appears, notices when it is replaced, and is the slow poll behind every notification. It
also is the one poll that all reads share which wait until the store shows a position:

- without such waits it polls every 100 ms;
- every 50 ms while calls wait for a projection and no live feed would wake them;
- while reads wait for the store, at once for a new wait, then after pauses that grow from 5 to 50 ms.
"""

from __future__ import annotations

import asyncio

import structlog

from diptych.server.health import Health
from query_server.freshness.tracker import FreshnessTracker
from query_server.rows.row_source import RowSource
from query_server.upstream import Upstreams

POLL_SECONDS = 0.1
"""Pause between two polls of the store."""

POLL_SECONDS_WITHOUT_FEED = 0.05
"""The same while calls wait that no feed will wake."""

_SHOWN_PAUSE_FIRST, _SHOWN_PAUSE_MAX = 0.005, POLL_SECONDS_WITHOUT_FEED

_log = structlog.get_logger(__name__)


class StorePoller:
    """Polls the read store, and sets the health of this server's services and projections."""

    def __init__(
        self, source: RowSource, tracker: FreshnessTracker, upstreams: Upstreams, health: Health, services: list[str]
    ) -> None:
        self._source = source
        self._tracker = tracker
        self._upstreams = upstreams
        self._health = health
        self._services = ["", *services]
        self._serving: dict[str, bool] = {}
        self._store_changes = 0
        self._shown_pause = 0.0

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self.poll()
            await self._pause()

    async def _pause(self) -> None:
        tracker = self._tracker
        if any(tracked.waits_for_store for tracked in tracker.projections.values()):
            await self._pause_between_shown()
            return
        self._shown_pause = 0.0
        if tracker.waits.count > 0 and not tracker.is_feed_live:
            await asyncio.sleep(POLL_SECONDS_WITHOUT_FEED)
            return
        tracker.poll_needed.clear()
        await self._poll_needed_within(POLL_SECONDS)

    async def _pause_between_shown(self) -> None:
        pause = self._shown_pause = min(max(2 * self._shown_pause, _SHOWN_PAUSE_FIRST), _SHOWN_PAUSE_MAX)
        self._tracker.poll_needed.clear()
        await asyncio.sleep(_SHOWN_PAUSE_FIRST)
        if await self._poll_needed_within(pause - _SHOWN_PAUSE_FIRST):
            self._shown_pause = 0.0

    async def _poll_needed_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._tracker.poll_needed.wait()
        except TimeoutError:
            return False

    async def poll(self) -> None:
        """Poll once."""
        tracker = self._tracker
        self._request_checkpoints()
        rows = await self._source.generations()
        if self._source.store_changes != self._store_changes:
            self._store_changes = self._source.store_changes
            tracker.on_store_replaced()
            self._upstreams.reconnect_feed()
        tracker.on_store_poll(rows)
        for service in self._services:
            await self._set_health(service, tracker.is_readable)
        now = tracker.now
        for tracked in tracker.projections.values():
            await self._set_health(f"diptych.projection.{tracked.name}", tracked.serving(now))

    def _request_checkpoints(self) -> None:
        """Request checkpoints for waits: the store cannot show positions that the projector applied in memory alone."""
        tracker = self._tracker
        alone = tracker.waits.count > 0 and not tracker.is_feed_live
        for tracked in tracker.projections.values():
            if tracked.waits_for_store or (alone and tracked.applied_waits):
                self._upstreams.request_checkpoint(tracked.name)

    async def _set_health(self, service: str, serving: bool) -> None:
        if self._serving.get(service) != serving:
            self._serving[service] = serving
            if not service:
                _log.info("the read store is readable" if serving else "the read store is not readable yet")
            await self._health.set(service, serving)
