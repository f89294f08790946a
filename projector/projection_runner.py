"""Projection runner: one projection that this projector leads, over all its generations."""

from __future__ import annotations

import structlog

from diptych.contract.reasons import ReadStoreUnavailable
from diptych.server.supervise import TaskSupervisor
from diptych.storage.errors import ReadStoreError
from diptych.storage.read_store import Generation, Lease
from diptych.v1.projections_pb2 import (
    GENERATION_STATE_ACTIVE,
    GENERATION_STATE_FILLING,
    GENERATION_STATE_KEPT,
    GenerationInfo,
    ProjectionStatus,
)
from projector.followers import Followers
from projector.generation.follower import Follower
from projector.generation.generation_dropper import GenerationDropper
from projector.generation.operation_queue import OperationQueue
from projector.generation_switch import GenerationSwitch
from projector.parked_operations import ParkedOperations
from projector.rebuild_operations import RebuildOperations
from projector.shared import Shared

_log = structlog.get_logger(__name__)


class ProjectionRunner:
    """Runs one projection.

    The active generation answers reads, and has a follower. Beside it another generation may be filled by a follower
    of its own: after a rebuild was started, when a kept generation is to answer again, or because this code is a newer
    version than that of the active generation. When the filled generation has caught up, `GenerationSwitch` replaces
    the active one.
    """

    def __init__(self, shared: Shared, lease: Lease) -> None:
        self.projection = lease.projection
        self._store = shared.store
        self._lease = lease
        self._operations = OperationQueue()
        self._dropper = GenerationDropper(shared.store, lease)
        self._followers = Followers(shared, lease)
        self._switch = GenerationSwitch(shared, self._followers, self._operations, self._dropper.request)
        self.rebuilds = RebuildOperations(shared.store, lease, self._followers, self._operations, self._dropper.request)
        self.parked = ParkedOperations(shared.channel, self._followers, self._operations)

    @property
    def live(self) -> Follower | None:
        """Follower of the active generation; None while this version of the projection has none."""
        return self._followers.live

    async def open(self) -> None:
        """Open the generations of the lease, and publish the projection's state. Raise `ReadStoreError`."""
        lease, followers = self._lease, self._followers
        if lease.active:
            await followers.open_live(lease.active)
            self._warn_of_changed_code()
        if lease.filling:
            # A paused projection is not filled either.
            await followers.open_rebuild(lease.filling, started=not lease.paused)
        if followers.live is not None:
            followers.live.machine.rebuilding = followers.rebuild is not None
        await followers.representative.announce()

    def _warn_of_changed_code(self) -> None:
        live = self._followers.live
        if live is not None and live.writer.code_changed:
            _log.warning(
                "code of a projection changed without a new version",
                projection=self.projection.name,
                version=self.projection.version,
                generation=live.writer.generation,
                remedy=f"raise its version, or run `diptych rebuild {self.projection.name}`",
            )

    async def run(self) -> None:
        """Follow the log until this call is cancelled.

        Raises:
            TaskFailedError: A task failed by an unforeseen error.
        """
        try:
            async with TaskSupervisor() as tasks:
                self._followers.start(tasks, self._switch.watch)
                tasks.start(self._dropper.run(), name=f"generation dropper of {self.projection.name}")
                await tasks.wait()
        finally:
            await self._operations.wait_idle()
            if self._followers.rebuild is not None:
                self._followers.rebuild.fail(
                    ReadStoreUnavailable(projection=self.projection.name, cause="the projector is stopping")
                )

    def on_head_change(self) -> None:
        """Measure the lag after the head, or its age, has changed."""
        for follower in self._followers.all():
            follower.on_head_change()

    async def write_checkpoint(self) -> int:
        """Write the checkpoint of the active generation; return the stored position.

        Raises:
            LeaseLostError, ReadStoreError: It cannot be written.
        """
        return await self._followers.representative.write_checkpoint()

    async def close(self) -> None:
        """Write all checkpoints after `run` has ended.

        Raises:
            LeaseLostError, ReadStoreError: A checkpoint cannot be written.
        """
        for follower in self._followers.all():
            await follower.write_checkpoint()

    async def status(self) -> ProjectionStatus:
        """Return the projection's status for operators, without generations if the store cannot be read."""
        status = self._followers.representative.publisher.status()
        try:
            generations = await self._store.generations(self.projection.name)
        except ReadStoreError as error:
            _log.warning("generations cannot be read", projection=self.projection.name, cause=str(error))
            return status
        status.generations.extend(map(generation_info, generations))
        return status

    async def pause(self) -> None:
        """Apply no more events, also after a restart.

        Raises:
            LeaseLostError, ReadStoreError: The pause cannot be written; nothing is paused.
        """

        async def operation() -> None:
            await self._followers.representative.pause()
            if self._followers.rebuild is not None:
                await self._followers.rebuild.follower.task.stop()

        await self._operations.run(operation)

    async def resume(self) -> None:
        """Apply events again after a pause, or try again after a stall.

        Raises:
            LeaseLostError, ReadStoreError: The end of the pause cannot be written; the projection stays paused.
        """

        async def operation() -> None:
            await self._followers.representative.resume()
            rebuild = self._followers.rebuild
            if rebuild is not None and not rebuild.failure:
                rebuild.follower.task.start()

        await self._operations.run(operation)


def generation_info(generation: Generation) -> GenerationInfo:
    """Return a generation for operators."""
    state = GENERATION_STATE_FILLING if generation.is_filling else GENERATION_STATE_KEPT
    return GenerationInfo(
        generation=generation.generation,
        version=generation.version,
        state=GENERATION_STATE_ACTIVE if generation.active else state,
        position=generation.position,
    )
