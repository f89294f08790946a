"""A line: one projection as this projector runs it, over all its generations.

One generation answers, and has a follower. Beside it another one may be filled, by a follower of its own: after a
rebuild was asked for, when a kept generation is to answer again, or because this code is a newer version than what
answers, which is then another projector's, or nobody's. When that one has caught up, it takes over:

- The generation that answers is halted between two steps, so that its applied position stands still.
- The new one comes up to there, which is milliseconds, or the old one goes on and it is tried again later.
- One transaction makes the new one active in place of the old one, and the feed tells so.

So the applied position never falls, neither in the store nor on the feed. It does not fall behind what an earlier
process told, either: the new one must have reached the head of the log as this process first heard it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple

import structlog

from diptych.contract.reasons import (
    GenerationNotFound,
    ProjectionPaused,
    ReadStoreUnavailable,
    RebuildCancelled,
    RebuildNotRunning,
    RebuildUnderWay,
)
from diptych.domain.aggregate import AggregateRef
from diptych.domain.projection import Projection
from diptych.server.channels import Channel
from diptych.server.health import Health
from diptych.server.settings import ProjectorSettings
from diptych.storage.errors import ReadStoreError, StoreError
from diptych.storage.read_store import Generation, Lease, ParkedStream, ReadStore
from diptych.v1 import projections_pb2 as states
from projector.feed.feed import Feed
from projector.generation.change_queue import ChangeQueue
from projector.generation.follower import Follower
from projector.generation.parked_refold import ParkedRefold
from projector.generation.rebuild import Build
from projector.generation.retry_policy import RetryPolicy
from projector.generation.status_publisher import Outlet
from projector.generation.throttle import FoldingLoad, LiveThrottle, RebuildThrottle
from projector.log_head import Head
from projector.store.row_writer import RowWriter
from projector.store.tombstones import Tombstones

NEAR_EVENTS = 1000
"""A generation so few events behind the one that answers may try to take over."""

_LOOK_SECONDS = 0.05
_TAKE_OVER_SECONDS = 1.0  # For so long the old generation stands still at most, if the new one does not come up.
_AGAIN_SECONDS = (0.2, 5.0)
_DROP_PAUSE_SECONDS = 0.05
_DROP_AGAIN_SECONDS = 30.0

_log = structlog.get_logger(__name__)


class Parts(NamedTuple):
    """What all lines of a projector share."""

    store: ReadStore
    channel: Channel
    head: Head
    feed: Feed
    health: Health
    share: FoldingLoad
    settings: ProjectorSettings


class Line:
    """Runs one projection."""

    def __init__(self, parts: Parts, lease: Lease) -> None:
        self.projection: Projection = lease.projection
        self._lease = lease
        self.live: Follower | None = None
        """Folds the generation that answers. None: this version has none yet."""
        self.build: Build | None = None
        """The generation that is being filled."""
        self._parts = parts
        self._store = parts.store
        self._turns = ChangeQueue()
        self._retrying = asyncio.Lock()
        self._tasks: dict[asyncio.Task[None], object] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._drop = asyncio.Event()
        self._drop.set()
        self._log = _log.bind(projection=self.projection.name)

    async def open(self) -> None:
        """Opens what there is in the read store, and says so; raises `StartError`."""
        lease = self._lease
        if lease.active:
            pace = LiveThrottle(self._parts.share, self._parts.settings.batch_events_max)
            self.live = await self._follower(lease.active, pace, answering=True, speaking=True, going=True)
            self.live.rebuilding = bool(lease.filling)
        if lease.filling:
            # What an operator paused is not filled either.
            self.build = await self._build(lease.filling, going=not lease.paused)
        await self.speaker.begin()

    @property
    def speaker(self) -> Follower:
        """The follower that speaks for the projection."""
        if self.live is not None:
            return self.live
        assert self.build is not None, "a line has one of them from the beginning"
        return self.build.follower

    async def run(self) -> None:
        """Runs until it is cancelled; raises what a part of it fails with."""
        if self.live is not None:
            self._start_live(self.live)
        if self.build is not None:
            self._start_build(self.build)
        self._start(self, self._drop_for_ever())
        try:
            await self._failed
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._turns.wait_idle()
            if self.build is not None:
                self.build.fail(
                    ReadStoreUnavailable(projection=self.projection.name, cause="the projector is stopping")
                )

    def head_heard(self) -> None:
        """Takes word that the head, or the silence about it, has changed."""
        for follower in self._followers():
            follower.head_heard()

    async def write_checkpoint(self) -> int:
        """Writes the checkpoint of what answers to the read store; returns the position on disk."""
        return await self.speaker.write_checkpoint()

    async def close(self) -> None:
        """Writes all checkpoints, after the line has ended; raises `LeaseLostError`, `ReadStoreError`."""
        for follower in self._followers():
            await follower.write_checkpoint()

    async def status(self) -> states.ProjectionStatus:
        """What operators are told."""
        status = self.speaker.status()
        try:
            found = await self._store.generations(self.projection.name)
        except ReadStoreError as error:
            self._log.warning("the generations cannot be read", error=str(error))
            return status
        status.generations.extend(map(info_of, found))
        return status

    # What operators ask for.

    async def pause(self) -> None:
        """Applies nothing more, also after a restart; raises `LeaseLostError`, `ReadStoreError`."""

        async def change() -> None:
            await self.speaker.pause()
            if self.build is not None:
                await self.build.follower.halt()

        await self._turns.run(change)

    async def resume(self) -> None:
        """Goes on, or tries again what it stalled on; raises `LeaseLostError`, `ReadStoreError`."""

        async def change() -> None:
            await self.speaker.resume()
            if self.build is not None and not self.build.failure:
                self.build.follower.go()

        await self._turns.run(change)

    async def rebuild(self) -> Build:
        """Begins to fill a new generation, or goes on with the one there is.

        Raises `ProjectionPaused`, `LeaseLostError`, `ReadStoreError`.
        """

        async def change() -> Build:
            self._check_going()
            if self.build is None:
                await self._begin(await self._store.begin(self._lease))
            elif self.build.failure:
                await self.build.follower.resume()
            assert self.build is not None
            return self.build

        return await self._turns.run(change)

    async def switch_to(self, generation: int) -> Build | None:
        """Begins to catch a kept generation up, which then takes over; None: it answers already.

        Raises `ProjectionPaused`, `RebuildUnderWay`, `GenerationNotFound`, `LeaseLostError`, `ReadStoreError`.
        """

        async def change() -> Build | None:
            if self.live is not None and self.live.generation == generation:
                return None
            self._check_going()
            name = self.projection.name
            if self.build is not None:
                if self.build.generation != generation:
                    raise RebuildUnderWay(projection=name, generation=self.build.generation)
                if self.build.failure:
                    await self.build.follower.resume()
                return self.build
            if not await self._store.begin_return(self._lease, generation):
                raise GenerationNotFound(projection=name, generation=generation)
            await self._begin(generation)
            return self.build

        return await self._turns.run(change)

    async def cancel(self) -> None:
        """Ends the filling of a generation; raises `RebuildNotRunning`, `LeaseLostError`, `ReadStoreError`."""

        async def change() -> None:
            build = self.build
            if build is None or self.live is None:  # A first filling has nothing to go back to.
                raise RebuildNotRunning(projection=self.projection.name)
            going = await build.follower.halt()
            try:
                await self._store.cancel(self._lease, build.generation)
            except BaseException:
                if going:
                    build.follower.go()
                raise
            self.build = None
            self._end(build)
            build.fail(RebuildCancelled(projection=self.projection.name, generation=build.generation))
            self.live.tell_rebuilding(False)
            self._drop.set()
            self._log.info("the rebuild is cancelled", generation=build.generation)

        await self._turns.run(change)

    async def list_parked(self, after: int, size: int, *, discarded: bool) -> tuple[list[ParkedStream], bool]:
        """Parked streams by their first position, after one, and whether there are more; raises `ReadStoreError`."""
        return await self.speaker.list_parked(after, size, discarded=discarded)

    async def discard_parked(self, aggregate: AggregateRef) -> int:
        """Lets a parked stream go on without what is left out; returns how many events that is.

        Raises `ParkedNotFound`, `LeaseLostError`, `ReadStoreError`.
        """
        return await self._turns.run(lambda: self.speaker.discard_parked(aggregate))

    async def retry_parked(self, aggregate: AggregateRef) -> int:
        """Folds what is parked of a stream in place, and lets it go on; returns how many events that is.

        Raises `ParkedNotFound`, `StillParked`, `EntangledError`, `LogUnavailable`, `LeaseLostError`, `ReadStoreError`.
        Then everything is as before.
        """
        async with self._retrying:
            while True:
                speaker = self.speaker
                refold = await speaker.collect_parked(aggregate)

                async def change(speaker: Follower = speaker, refold: ParkedRefold = refold) -> int | None:
                    # Another generation may answer by now, which parks for itself.
                    return await speaker.refold_parked(aggregate, refold) if speaker is self.speaker else None

                folded = await self._turns.run(change)
                if folded is not None:
                    return folded

    def _check_going(self) -> None:
        if self.speaker.state == states.PROJECTION_STATE_PAUSED:
            raise ProjectionPaused(projection=self.projection.name)

    # Filling.

    async def _begin(self, generation: int) -> None:
        self.build = await self._build(generation, going=True)
        self._log.info("a generation is being filled", generation=generation)
        if self.live is not None:
            self.live.tell_rebuilding(True)
        self._start_build(self.build)

    async def _build(self, generation: int, *, going: bool) -> Build:
        pace = RebuildThrottle(self._parts.share, self._parts.settings.batch_events_max)
        speaking = self.live is None
        follower = await self._follower(generation, pace, answering=False, speaking=speaking, going=going)
        return Build(follower, pace, self._parts.head)

    async def _follower(
        self, generation: int, pace: LiveThrottle | RebuildThrottle, *, answering: bool, speaking: bool, going: bool
    ) -> Follower:
        parts = self._parts
        writer = RowWriter(await parts.store.open_generation(self._lease, generation))
        outlet = Outlet(parts.feed, parts.health, self.projection.name, speaking=speaking)
        return Follower(
            writer,
            parts.channel,
            parts.head,
            outlet,
            pace,
            RetryPolicy(parts.settings.park_attempts, parts.settings.park_pause_seconds),
            answering=answering,
            parked_streams_max=parts.settings.parked_streams_max,
            going=going,
        )

    async def _see_through(self, build: Build) -> None:
        """Lets a generation take over when it has caught up."""
        head = self._parts.head
        least: int | None = None
        pause = _AGAIN_SECONDS[0]
        while self.build is build:
            build.note()
            if least is None and head.heard is not None:
                least = head.position  # Nothing beyond was told to be applied, by whoever ran here before.
            if (
                least is not None
                and self._near(build, least)
                and not await self._turns.run(lambda: self._take_over(build))
            ):
                await asyncio.sleep(pause)
                pause = min(2 * pause, _AGAIN_SECONDS[1])
            await asyncio.sleep(_LOOK_SECONDS)

    def _near(self, build: Build, least: int) -> bool:
        follower, live = build.follower, self.live
        if build.failure or follower.state == states.PROJECTION_STATE_PAUSED or not follower.followed:
            return False
        if follower.applied_position < least:
            return False
        if live is None or live.diverged:
            return follower.state == states.PROJECTION_STATE_RUNNING
        if live.state == states.PROJECTION_STATE_PAUSED:
            return False
        return live.applied_position - follower.applied_position <= NEAR_EVENTS

    async def _take_over(self, build: Build) -> bool:
        """Lets a generation answer in place of the one that does; whether it does now."""
        if self.build is not build:
            return True
        live, new = self.live, build.follower
        if live is not None and live.state == states.PROJECTION_STATE_PAUSED:
            return False
        going = live is not None and await live.halt()
        build.pace.hurried = True
        try:
            if live is not None and not live.diverged:
                async with asyncio.timeout(_TAKE_OVER_SECONDS):
                    await new.reach(live)
            async with new.step:
                old = None if live is None else live.place
                await self._store.switch(old, new.place)
                await self._promote(build)
            return True
        except (OSError, StoreError) as error:  # A time-out is an OSError, too.
            self._log.warning(
                "the new generation does not take over yet", generation=build.generation, error=str(error)
            )
        finally:
            build.pace.hurried = self.build is not build
            if self.live is live and live is not None and going:
                live.go()
        return False

    async def _promote(self, build: Build) -> None:
        """Makes the follower of a generation that answers now the one that speaks."""
        old, self.live, self.build = self.live, build.follower, None
        build.pace.release()
        if old is not None:
            old.give_up()
            self._end(old)
        self._start_tombstones(build.follower)
        build.ended.set_result(None)
        self._drop.set()
        self._log.info("a new generation answers", generation=build.generation, position=self.live.applied_position)
        await build.follower.take_over()

    # Tasks.

    def _followers(self) -> list[Follower]:
        build = [] if self.build is None else [self.build.follower]
        return build if self.live is None else [self.live, *build]

    def _start_live(self, follower: Follower) -> None:
        self._start(follower, follower.run())
        self._start_tombstones(follower)

    def _start_tombstones(self, follower: Follower) -> None:
        store, _ = follower.place
        self._start(follower, Tombstones(store, keep_seconds=self._parts.settings.tombstone_hours * 3600).run())

    def _start_build(self, build: Build) -> None:
        self._start(build.follower, build.follower.run())
        self._start(build, self._see_through(build))

    def _start(self, owner: object, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = owner
        task.add_done_callback(self._ended)

    def _end(self, owner: object) -> None:
        """Cancels what belongs to a follower or a build."""
        owners = (owner, owner.follower) if isinstance(owner, Build) else (owner,)
        for task, its_owner in self._tasks.items():
            if its_owner in owners:
                task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def _drop_for_ever(self) -> None:
        """Drops generations that nobody wants, a few rows at a time."""
        while True:
            await self._drop.wait()
            self._drop.clear()
            try:
                while True:
                    started = time.monotonic()
                    if not await self._store.drop_some(self._lease):
                        break
                    await asyncio.sleep(max(_DROP_PAUSE_SECONDS, time.monotonic() - started))
            except StoreError as error:
                self._log.warning("an old generation is not dropped yet", error=str(error))
                asyncio.get_running_loop().call_later(_DROP_AGAIN_SECONDS, self._drop.set)


def info_of(one: Generation) -> states.GenerationInfo:
    """What operators are told of a generation."""
    state = states.GENERATION_STATE_FILLING if one.is_filling else states.GENERATION_STATE_KEPT
    return states.GenerationInfo(
        generation=one.generation,
        version=one.version,
        state=states.GENERATION_STATE_ACTIVE if one.active else state,
        position=one.position,
    )
