"""Rebuild operations: an operator's rebuild, return to an earlier generation, and cancellation."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from diptych.contract.projection_state import PAUSED
from diptych.contract.reasons import (
    GenerationNotFound,
    ProjectionPaused,
    RebuildCancelled,
    RebuildNotRunning,
    RebuildUnderWay,
)
from diptych.storage.read_store import Lease, ReadStore
from projector.followers import Followers
from projector.generation.operation_queue import OperationQueue
from projector.generation.rebuild import Rebuild

_log = structlog.get_logger(__name__)


class RebuildOperations:
    """Operations on the generations of one projection.

    Each operation runs in the operation queue, to its end even if its caller goes away. Each raises `LeaseLostError` or
    `ReadStoreError` if the store cannot be written; nothing has changed then.
    """

    def __init__(
        self,
        store: ReadStore,
        lease: Lease,
        followers: Followers,
        operations: OperationQueue,
        on_cancel: Callable[[], None],
    ) -> None:
        """Create the operations.

        Args:
            store: The read store.
            lease: Lease of the projection.
            followers: Followers of the projection.
            operations: Queue of the projection's operations.
            on_cancel: Function to call after a cancellation, which may leave a generation to drop.
        """
        self._store = store
        self._lease = lease
        self._name = lease.projection.name
        self._followers = followers
        self._operations = operations
        self._on_cancel = on_cancel
        self._log = _log.bind(projection=self._name)

    async def start(self) -> Rebuild:
        """Begin to fill a new generation, or return the rebuild that is under way, after a new attempt if it stalled.

        Raises:
            ProjectionPaused: An operator paused the projection.
        """

        async def operation() -> Rebuild:
            self._check_not_paused()
            rebuild = self._followers.rebuild
            if rebuild is None:
                return await self._fill(await self._store.begin(self._lease))
            await self._retry(rebuild)
            return rebuild

        return await self._operations.run(operation)

    async def return_to(self, generation: int) -> Rebuild | None:
        """Begin to fill a kept generation up to the head, to make it active again; return None if it is active.

        Raises:
            ProjectionPaused: An operator paused the projection.
            RebuildUnderWay: Another generation is being filled.
            GenerationNotFound: No such generation is kept.
        """

        async def operation() -> Rebuild | None:
            live, rebuild = self._followers.live, self._followers.rebuild
            if live is not None and live.generation == generation:
                return None
            self._check_not_paused()
            if rebuild is not None:
                if rebuild.generation != generation:
                    raise RebuildUnderWay(projection=self._name, generation=rebuild.generation)
                await self._retry(rebuild)
                return rebuild
            if not await self._store.begin_return(self._lease, generation):
                raise GenerationNotFound(projection=self._name, generation=generation)
            return await self._fill(generation)

        return await self._operations.run(operation)

    async def cancel(self) -> None:
        """End the rebuild that is under way.

        Raises:
            RebuildNotRunning: No rebuild is under way, or it is the first filling, which has nothing to return to.
        """

        async def operation() -> None:
            live, rebuild = self._followers.live, self._followers.rebuild
            if rebuild is None or live is None:
                raise RebuildNotRunning(projection=self._name)
            running = await rebuild.follower.task.stop()
            try:
                await self._store.cancel(self._lease, rebuild.generation)
            except BaseException:
                if running:
                    rebuild.follower.task.start()
                raise
            self._followers.drop_rebuild(rebuild)
            rebuild.fail(RebuildCancelled(projection=self._name, generation=rebuild.generation))
            live.set_rebuilding(False)
            self._on_cancel()
            self._log.info("rebuild cancelled", generation=rebuild.generation)

        await self._operations.run(operation)

    def _check_not_paused(self) -> None:
        if self._followers.representative.machine.state == PAUSED:
            raise ProjectionPaused(projection=self._name)

    async def _fill(self, generation: int) -> Rebuild:
        rebuild = await self._followers.open_rebuild(generation)
        self._log.info("rebuild started", generation=generation)
        if self._followers.live is not None:
            self._followers.live.set_rebuilding(True)
        return rebuild

    async def _retry(self, rebuild: Rebuild) -> None:
        if rebuild.failure:
            await rebuild.follower.resume()
