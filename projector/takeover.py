"""Takeover: the runner of each projection, which leads it or stands by until it can take over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import structlog

from diptych.domain.projection import Projection
from diptych.server.channels import Channel
from diptych.server.health import Health
from diptych.server.settings import ProjectorSettings
from diptych.server.supervise import TaskSupervisor
from diptych.storage.errors import StoreError
from diptych.storage.read_store import Lease, ReadStore
from projector.feed.feed import Feed
from projector.generation.follower import Follower
from projector.generation.throttle import LAG_SECONDS, FoldingLoad
from projector.log_head import LogHead
from projector.projection_runner import ProjectionRunner
from projector.shared import Shared
from projector.standby_runner import StandbyRunner

_BUSY_SECONDS = 0.25
"""Seconds after a batch in which a live projection counts as busy: it will soon have another batch."""

_PRIMARY_POLL_SECONDS = 0.5

_log = structlog.get_logger(__name__)


class Runners:
    """Runner of each projection.

    1. `open` acquires the lease of every free projection. A `ProjectionRunner` leads it; a `StandbyRunner` mirrors
       each of the others.
    2. A standby runner that acquires the lease ends, and a `ProjectionRunner` takes over in its place.
    3. A projector that is not the first on its read store becomes the primary when the first one ends.
    """

    def __init__(
        self,
        store: ReadStore,
        channel: Channel,
        head: LogHead,
        feed: Feed,
        health: Health,
        settings: ProjectorSettings,
    ) -> None:
        """Create the runners without any.

        Args:
            store: The opened read store.
            channel: Channel to the command server.
            head: Head of the log.
            feed: Feed to the query servers.
            health: Health of the projector.
            settings: Settings of the projector.
        """
        self.by_projection: dict[str, ProjectionRunner | StandbyRunner] = {}
        """Runner of each projection, by name."""
        self._store = store
        load = FoldingLoad(self._live_lag_seconds, self._live_busy, self._live_at_head)
        self._shared = Shared(store, channel, head, feed, health, load, settings)

    async def open(self, projections: Iterable[Projection]) -> None:
        """Open the runner of each projection.

        Raises:
            StartError: The store has a newer version of a projection, or this version with another shape.
            ReadStoreError: The store cannot be read or written.
        """
        for projection in projections:
            acquired = await self._store.acquire(projection)
            if isinstance(acquired, Lease):
                await self._lead(acquired)
            else:
                standby = StandbyRunner(self._shared, projection, acquired)
                await standby.open()
                self.by_projection[projection.name] = standby

    def start(self, tasks: TaskSupervisor) -> None:
        """Run each projection in a task. No task should fail: the failure of a projection becomes its state."""
        for name in self.by_projection:
            tasks.start(self._run(name), name=f"projection {name}")
        if not self._store.primary:
            tasks.start(self._become_primary(), name="takeover of the primary's place")

    def on_head_change(self) -> None:
        """Measure the lag of every projection after the head, or its age, has changed."""
        for runner in self.by_projection.values():
            runner.on_head_change()

    async def close(self) -> None:
        """Write the checkpoints of all led projections, after their tasks have ended."""
        for name, runner in self.by_projection.items():
            try:
                await runner.close()
            except StoreError as error:
                _log.warning("checkpoint not written", projection=name, cause=str(error))

    async def _run(self, name: str) -> None:
        runner = self.by_projection[name]
        if isinstance(runner, StandbyRunner):
            runner = await self._lead(await runner.run())
        await runner.run()

    async def _lead(self, lease: Lease) -> ProjectionRunner:
        runner = ProjectionRunner(self._shared, lease)
        await runner.open()
        self.by_projection[lease.projection.name] = runner
        return runner

    async def _become_primary(self) -> None:
        while True:
            await asyncio.sleep(_PRIMARY_POLL_SECONDS)
            if self._store.become_primary():
                return

    def _live(self) -> list[Follower]:
        runners = self.by_projection.values()
        return [each.live for each in runners if isinstance(each, ProjectionRunner) and each.live is not None]

    def _busy(self) -> list[Follower]:
        since = time.monotonic() - _BUSY_SECONDS
        return [follower for follower in self._live() if follower.progress.folded_at >= since]

    def _live_lag_seconds(self) -> float:
        return max((follower.lag_seconds for follower in self._live()), default=0.0)

    def _live_busy(self) -> bool:
        # A projector that is not the primary runs beside one whose followers it does not see.
        return not self._store.primary or bool(self._busy())

    def _live_at_head(self) -> bool:
        return not self._store.primary or any(follower.lag_seconds < LAG_SECONDS for follower in self._busy())
