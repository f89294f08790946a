"""Standby runner: mirrors a projection that another projector on the same read store leads, until that one ends."""

from __future__ import annotations

import asyncio

import structlog

from diptych.contract.identity_codec import identity_from_columns
from diptych.contract.projection_state import CATCHING_UP, PAUSED, RUNNING, STATES
from diptych.contract.reasons import ProjectionLedElsewhere
from diptych.contract.token import LogIdentity
from diptych.domain.projection import Projection
from diptych.internal.v1 import feed_pb2, feed_pb2_grpc
from diptych.server.channels import CallError, open_server_channel
from diptych.storage.errors import ReadStoreError
from diptych.storage.read_store import Generation, Lease, LeaseHolder
from diptych.storage.read_store_schema import shape
from diptych.v1.projections_pb2 import ProjectionState, ProjectionStatus
from projector.generation.status_publisher import add_identity, health_service, version_progress, views_of
from projector.lag import LagClock
from projector.projection_runner import generation_info
from projector.shared import Shared

_POLL_SECONDS = 0.1
"""Seconds between two reads of the store."""

_BEHIND_SECONDS = 3.0
"""Lag in seconds from which the projection is CATCHING_UP. The store shows a checkpoint without rows once a second."""

_CHECKPOINT_CALL_SECONDS = 2.0
"""Deadline of a call to the leader for its checkpoint."""

_log = structlog.get_logger(__name__)


class StandbyRunner:
    """Mirrors one projection from the read store to this projector's feed.

    A projector with newer versions of some projections runs beside the older projector, which leads the others. The
    query servers of this projector need those in its feed too:

    1. Poll the read store, and publish each new checkpoint and state, without the keys of the changed rows.
    2. Call the leader for its checkpoint when a query server waits.
    3. Acquire the lease when the leader has ended, and return it.
    """

    def __init__(self, shared: Shared, projection: Projection, holder: LeaseHolder) -> None:
        """Create the runner.

        Args:
            shared: Parts of the projector.
            projection: The projection.
            holder: Projector that holds the lease.
        """
        self.projection = projection
        self._store = shared.store
        self._feed = shared.feed
        self._health = shared.health
        self._head = shared.head
        self._holder = holder
        self._shape = shape(projection)
        self._lag = LagClock(shared.head)
        self._generations: list[Generation] = []
        self._published: tuple[Generation, ProjectionState] | None = None
        self._log = _log.bind(projection=projection.name)

    async def open(self) -> None:
        """Read and publish the projection for the first time. Raise `ReadStoreError`."""
        self._log.info("standing by, another projector leads the projection", leader=self._holder.owner)
        await self._mirror()

    async def run(self) -> Lease:
        """Mirror the projection until its leader has ended; return the acquired lease.

        Cancelling it acquires no lease, unless it was acquired at the same moment.
        """
        while True:
            try:
                acquired = await self._store.acquire(self.projection)
                if isinstance(acquired, Lease):
                    self._log.info("lease acquired, its leader has ended", leader=self._holder.owner)
                    return acquired
                self._holder = acquired
                await self._mirror()
            except ReadStoreError as error:
                self._log.warning("read store cannot be read, retrying", cause=str(error))
            await asyncio.sleep(_POLL_SECONDS)

    def on_head_change(self) -> None:
        """Measure the lag after the head has changed."""
        self._lag.record(self._position)

    async def write_checkpoint(self) -> int:
        """Let the leader write its checkpoint if it can be reached; return the stored position.

        Raises:
            ReadStoreError: The store cannot be read.
        """
        if self._holder.address:
            async with open_server_channel(self._holder.address) as channel:
                request = feed_pb2.WriteCheckpointRequest(projection=self.projection.name)
                try:
                    stub = feed_pb2_grpc.FeedServiceStub(channel)
                    await stub.WriteCheckpoint(request, timeout=_CHECKPOINT_CALL_SECONDS)
                except CallError as error:
                    self._log.debug("leader wrote no checkpoint", cause=error.details())
        await self._mirror()
        return self._position

    async def close(self) -> None:
        """Return at once: a standby has no checkpoint to write."""

    async def status(self) -> ProjectionStatus:
        """Return the projection's status for operators, as the store last showed it."""
        active, position = self._active, self._position
        return ProjectionStatus(
            name=self.projection.name,
            version=self.projection.version,
            generation=active.generation if active is not None else 0,
            state=self._state,
            progress=version_progress(
                self._identity,
                position,
                head_position=max(self._head.position, position),
                lag_seconds=self._lag.seconds(position),
            ),
            views=views_of(self.projection),
            parked_streams=active.parked_streams if active is not None else 0,
            left_out_events=active.left_out_events if active is not None else 0,
            generations=map(generation_info, self._generations),
        )

    def led_elsewhere(self) -> ProjectionLedElsewhere:
        """Return the refusal of an operation, which names the leader."""
        return ProjectionLedElsewhere(projection=self.projection.name, owner=self._holder.owner)

    @property
    def _active(self) -> Generation | None:
        return next((each for each in self._generations if each.active and each.shape == self._shape), None)

    @property
    def _position(self) -> int:
        return self._active.position if self._active is not None else 0

    @property
    def _identity(self) -> LogIdentity | None:
        active = self._active
        return None if active is None else identity_from_columns(active.log_id, active.epochs)

    @property
    def _state(self) -> ProjectionState:
        active = self._active
        if active is not None and active.paused:
            return PAUSED
        if active is None or self._head.observed_at is None or self._lag.seconds(active.position) >= _BEHIND_SECONDS:
            return CATCHING_UP
        return RUNNING

    async def _mirror(self) -> None:
        """Read the store, and publish a new checkpoint or state."""
        self._generations = await self._store.generations(self.projection.name)
        self._lag.record(self._position)
        active, state = self._active, self._state
        if active is None or self._published == (active, state):
            return
        self._published = active, state
        frame = feed_pb2.ProjectionFeed(
            name=self.projection.name,
            version=active.version,
            generation=active.generation,
            state=state,
            applied_position=active.position,
            changed_position=active.position,
            shape=active.shape,
            parked_streams=active.parked_streams,
            left_out_events=active.left_out_events,
            left_out_position=active.left_out_position,
            filling=active.filling,
        )
        add_identity(frame, self._identity)
        self._feed.publish(frame, None)
        await self._health.set(health_service(self.projection), STATES[state].serving)
