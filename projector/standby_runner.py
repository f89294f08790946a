"""A standby: a projection that another projector on the same read store folds, as long as it does.

A projector with newer versions of some projections runs beside the older one, which goes on with the others. Their
query servers need word of those from this one, too: it tells what the read store shows, asks the other one to write
its checkpoint when somebody waits, and takes the lead when the other one has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from google.protobuf.duration_pb2 import Duration

from diptych.contract.identity_codec import identity_from_columns, identity_to_message
from diptych.contract.reasons import ProjectionLedElsewhere
from diptych.contract.token import LogIdentity
from diptych.domain.aggregate import AggregateRef
from diptych.domain.projection import Projection
from diptych.internal.v1 import feed_pb2, feed_pb2_grpc
from diptych.server.channels import CallError, open_server_channel
from diptych.storage.errors import ReadStoreError
from diptych.storage.read_store import Generation, Lease, LeaseHolder, ParkedStream
from diptych.storage.read_store_schema import shape
from diptych.v1 import projections_pb2 as states
from projector.generation.follower import views_of
from projector.generation.rebuild import Build
from projector.generation.status_publisher import Outlet
from projector.log_head import Lag
from projector.projection_runner import Parts, info_of

_LOOK_SECONDS = 0.1

_BEHIND_SECONDS = 3.0
"""It is CATCHING_UP when it has not been at the head for so long: a checkpoint alone is written once a second."""

_ASK_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class Standby:
    """Tells of one projection what another projector makes of it, and waits for its lead."""

    def __init__(
        self, parts: Parts, projection: Projection, holder: LeaseHolder, take_lead: Callable[[Lease], Awaitable[None]]
    ) -> None:
        self.projection = projection
        self._parts = parts
        self._store = parts.store
        self._holder = holder
        self._take_lead = take_lead
        self._shape = shape(projection)
        self._outlet = Outlet(parts.feed, parts.health, projection.name, speaking=True)
        self._lag = Lag(parts.head)
        self._found: list[Generation] = []
        self._told: tuple[object, ...] = ()
        self._log = _log.bind(projection=projection.name)

    async def open(self) -> None:
        """Looks for the first time; raises `ReadStoreError`."""
        self._log.info("another projector folds this projection", owner=self._holder.owner)
        await self._look()

    async def run(self) -> None:
        """Runs until the other projector has ended, then gives the lead to whoever it was told."""
        lease: Lease | None = None
        while lease is None:
            try:
                acquired = await self._store.acquire(self.projection)
                if isinstance(acquired, Lease):
                    lease = acquired
                    break
                self._holder = acquired
                await self._look()
            except ReadStoreError as error:
                self._log.warning("the read store cannot be read", error=str(error))
            await asyncio.sleep(_LOOK_SECONDS)
        self._log.info("the other projector has ended; its lead is taken")
        await self._take_lead(lease)

    def head_heard(self) -> None:
        """Takes word that the head has changed."""
        self._lag.note(self._position)

    async def write_checkpoint(self) -> int:
        """Has the other projector write its checkpoint, if it can be reached; returns the position on disk."""
        address = self._holder.address
        if address:
            async with open_server_channel(address) as channel:
                wanted = feed_pb2.WriteCheckpointRequest(projection=self.projection.name)
                try:
                    await feed_pb2_grpc.FeedServiceStub(channel).WriteCheckpoint(wanted, timeout=_ASK_SECONDS)
                except CallError as error:
                    self._log.debug("no checkpoint was written", error=error.details())
        await self._look()
        return self._position

    async def close(self) -> None:
        """There is nothing to close."""

    async def status(self) -> states.ProjectionStatus:
        """What operators are told."""
        identity, lag, position = self._identity, Duration(), self._position
        lag.FromNanoseconds(int(self._lag.seconds(position) * 1e9))
        return states.ProjectionStatus(
            name=self.projection.name,
            version=self.projection.version,
            generation=self._answering.generation if self._answering is not None else 0,
            state=self._state,
            progress=states.VersionProgress(
                token=identity.token(position) if identity is not None else "",
                applied_position=position,
                head_position=max(self._parts.head.position, position),
                lag_events=max(0, self._parts.head.position - position),
                lag_time=lag,
            ),
            views=views_of(self.projection),
            parked_streams=self._answering.parked_streams if self._answering is not None else 0,
            left_out_events=self._answering.left_out_events if self._answering is not None else 0,
            generations=map(info_of, self._found),
        )

    async def pause(self) -> None:
        """Raises `ProjectionLedElsewhere`, as do all of these."""
        raise self._refusal()

    async def resume(self) -> None:
        """Raises `ProjectionLedElsewhere`."""
        raise self._refusal()

    async def cancel(self) -> None:
        """Raises `ProjectionLedElsewhere`."""
        raise self._refusal()

    async def rebuild(self) -> Build:
        """Raises `ProjectionLedElsewhere`."""
        raise self._refusal()

    async def switch_to(self, generation: int) -> Build | None:
        """Raises `ProjectionLedElsewhere`."""
        raise self._refusal()

    async def list_parked(self, after: int, size: int, *, discarded: bool) -> tuple[list[ParkedStream], bool]:
        """Raises `ProjectionLedElsewhere`."""
        raise self._refusal()

    async def discard_parked(self, aggregate: AggregateRef) -> int:
        """Raises `ProjectionLedElsewhere`."""
        raise self._refusal()

    async def retry_parked(self, aggregate: AggregateRef) -> int:
        """Raises `ProjectionLedElsewhere`."""
        raise self._refusal()

    def _refusal(self) -> ProjectionLedElsewhere:
        return ProjectionLedElsewhere(projection=self.projection.name, owner=self._holder.owner)

    @property
    def _answering(self) -> Generation | None:
        return next((one for one in self._found if one.active and one.shape == self._shape), None)

    @property
    def _position(self) -> int:
        return self._answering.position if self._answering is not None else 0

    @property
    def _identity(self) -> LogIdentity | None:
        found = self._answering
        return None if found is None else identity_from_columns(found.log_id, found.epochs)

    @property
    def _state(self) -> states.ProjectionState:
        found = self._answering
        if found is not None and found.paused:
            return states.PROJECTION_STATE_PAUSED
        if found is None or self._parts.head.heard is None or self._lag.seconds(found.position) >= _BEHIND_SECONDS:
            return states.PROJECTION_STATE_CATCHING_UP
        return states.PROJECTION_STATE_RUNNING

    async def _look(self) -> None:
        """Looks at the store, and tells what is new there: not which rows, as those are the other one's."""
        self._found = await self._store.generations(self.projection.name)
        self._lag.note(self._position)
        found, state = self._answering, self._state
        if found is None or self._told == (found, state):
            return
        self._told = found, state
        feed = feed_pb2.ProjectionFeed(
            name=self.projection.name,
            version=found.version,
            generation=found.generation,
            state=state,
            applied_position=found.position,
            changed_position=found.position,
            shape=found.shape,
            parked_streams=found.parked_streams,
            left_out_events=found.left_out_events,
            left_out_position=found.left_out_position,
            filling=found.filling,
        )
        identity = self._identity
        if identity is not None:
            feed.identity.CopyFrom(identity_to_message(identity))
        self._outlet.publish(feed, None)
        await self._outlet.tell_health(state != states.PROJECTION_STATE_PAUSED)
