"""Followers: the followers of one projection, one for the active generation and one for a rebuild."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from diptych.server.supervise import TaskSupervisor
from diptych.storage.read_store import Lease
from projector.generation.follower import Follower
from projector.generation.rebuild import Rebuild
from projector.generation.throttle import LiveThrottle, RebuildThrottle
from projector.shared import Shared
from projector.store.row_writer import RowWriter
from projector.store.tombstones import Tombstones


class Followers:
    """Followers of one projection, and the tasks of each generation.

    Followers that are opened before `start` run from then on.
    """

    def __init__(self, shared: Shared, lease: Lease) -> None:
        """Create the followers without any.

        Args:
            shared: Parts of the projector.
            lease: Lease of the projection.
        """
        self.live: Follower | None = None
        """Follower of the active generation; None while this version of the projection has none."""
        self.rebuild: Rebuild | None = None
        """The generation that is being filled; None if none is."""
        self._shared = shared
        self._lease = lease
        self._supervisor: TaskSupervisor | None = None
        self._watch: Callable[[Rebuild], Coroutine[Any, Any, None]]
        self._tasks: dict[int, list[asyncio.Task[None]]] = {}

    @property
    def representative(self) -> Follower:
        """Follower that represents the projection: the live one, or that of the first filling."""
        if self.live is not None:
            return self.live
        assert self.rebuild is not None, "a projection has a generation from the beginning"
        return self.rebuild.follower

    def all(self) -> list[Follower]:
        """Return all followers, the live one first."""
        filling = [] if self.rebuild is None else [self.rebuild.follower]
        return filling if self.live is None else [self.live, *filling]

    async def open_live(self, generation: int) -> None:
        """Open the active generation. Raise `ReadStoreError`."""
        throttle = LiveThrottle(self._shared.load, self._shared.settings.batch_events_max)
        writer = await self._open_writer(generation)
        self.live = Follower(self._shared, writer, throttle, answers=True, publishes=True)
        if self._supervisor is not None:
            self._start_live(self.live)

    async def open_rebuild(self, generation: int, *, started: bool = True) -> Rebuild:
        """Open a generation to be filled. Raise `ReadStoreError`.

        Args:
            generation: Number of the generation.
            started: False if its follower waits for a resume, because the projection is paused.
        """
        throttle = RebuildThrottle(self._shared.load, self._shared.settings.batch_events_max)
        writer = await self._open_writer(generation)
        follower = Follower(self._shared, writer, throttle, answers=False, publishes=self.live is None, started=started)
        self.rebuild = Rebuild(follower, throttle, self._shared.head)
        if self._supervisor is not None:
            self._start_rebuild(self.rebuild)
        return self.rebuild

    def start(self, supervisor: TaskSupervisor, watch: Callable[[Rebuild], Coroutine[Any, Any, None]]) -> None:
        """Run the opened followers, and those opened later, as tasks.

        Args:
            supervisor: Supervisor of the tasks.
            watch: Function that runs beside a rebuild's follower, and switches to the generation.
        """
        self._supervisor, self._watch = supervisor, watch
        if self.live is not None:
            self._start_live(self.live)
        if self.rebuild is not None:
            self._start_rebuild(self.rebuild)

    def promote(self, rebuild: Rebuild) -> None:
        """Put a rebuild's follower, which goes on running, in the place of the live one, which ends."""
        replaced, self.live, self.rebuild = self.live, rebuild.follower, None
        rebuild.throttle.release()
        if replaced is not None:
            replaced.publisher.enabled = False
            self._end(replaced.generation)
        self._start_tombstones(rebuild.follower)

    def drop_rebuild(self, rebuild: Rebuild) -> None:
        """End a rebuild's follower."""
        self.rebuild = None
        self._end(rebuild.generation)

    async def _open_writer(self, generation: int) -> RowWriter:
        return RowWriter(await self._shared.store.open_generation(self._lease, generation))

    def _start_live(self, follower: Follower) -> None:
        self._start(follower.generation, "follower", follower.run())
        self._start_tombstones(follower)

    def _start_tombstones(self, follower: Follower) -> None:
        keep_seconds = self._shared.settings.tombstone_hours * 3600
        tombstones = Tombstones(follower.writer.store, keep_seconds=keep_seconds)
        self._start(follower.generation, "tombstones", tombstones.run())

    def _start_rebuild(self, rebuild: Rebuild) -> None:
        self._start(rebuild.generation, "follower", rebuild.follower.run())
        self._start(rebuild.generation, "rebuild watch", self._watch(rebuild))

    def _start(self, generation: int, kind: str, work: Coroutine[Any, Any, None]) -> None:
        assert self._supervisor is not None, "followers run from `start` on"
        name = f"{kind} of {self._lease.projection.name}, generation {generation}"
        self._tasks.setdefault(generation, []).append(self._supervisor.start(work, name=name))

    def _end(self, generation: int) -> None:
        for task in self._tasks.pop(generation, ()):
            task.cancel()
