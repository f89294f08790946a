"""The projector's parts put together, and its services."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Sequence

import grpc.aio
import structlog

from diptych import serving
from diptych.binder import Binder, Context, parse
from diptych.domain import DomainError, load
from diptych.internal.v1 import feed_pb2
from diptych.projection import Projection
from diptych.refusals import InvalidRequest, ProjectionNotFound, ReadModelNotReady, ReadStoreUnavailable
from diptych.serving import Health, Served, StartError
from diptych.settings import ProjectorSettings, sqlite_path
from diptych.v1 import projections_pb2
from projector.feed import Feed
from projector.follower import Follower
from projector.head import Head, HeadFollower
from projector.read_store_file import ReadStoreFile
from projector.row_writer import LeadLostError, RowWriter
from projector.tombstones import Tombstones

_log = structlog.get_logger(__name__)

_FEED_SERVICE = feed_pb2.DESCRIPTOR.services_by_name["FeedService"].full_name
_PROJECTION_SERVICE = projections_pb2.DESCRIPTOR.services_by_name["ProjectionService"].full_name


def run(settings: ProjectorSettings) -> int:
    """Runs a projector until it is told to stop; returns the exit status."""

    async def start(health: Health) -> Served:
        try:
            domain = load(settings.domain).domain
        except DomainError as error:
            raise StartError(str(error)) from error
        return await bootstrap(settings, domain.name, list(domain.projections.values()), health)

    return serving.run("projector", settings, start)


async def bootstrap(
    settings: ProjectorSettings, domain: str, projections: Sequence[Projection], health: Health
) -> Served:
    """Opens the read store and follows the log for every projection; raises `StartError`."""
    file = ReadStoreFile(sqlite_path(settings.read_store), health.address)
    await file.open()
    channel = grpc.aio.insecure_channel(settings.commands, options=serving.CHANNEL_OPTIONS)
    try:
        head, feed = Head(), Feed(settings.feeds_max)
        followers: dict[str, Follower] = {}
        tombstones: list[Tombstones] = []
        for projection in sorted(projections, key=lambda projection: projection.name):
            writer = RowWriter(file, projection)
            await file.run(writer.open)
            followers[projection.name] = Follower(
                file, writer, channel, head, feed, health, batch_events_max=settings.batch_events_max
            )
            await followers[projection.name].begin()
            tombstones.append(Tombstones(file, writer, keep_seconds=settings.tombstone_hours * 3600))
    except BaseException as error:
        await channel.close()
        await file.close()
        if isinstance(error, sqlite3.Error):
            raise StartError(f"The read store {file.path} cannot be used: {error}.") from error
        raise

    def head_heard() -> None:
        for follower in followers.values():
            follower.head_heard()

    services = _Services(feed, followers)
    binder = Binder(f"{domain}.v1")
    services.bind(binder)
    tasks = [asyncio.create_task(follower.run()) for follower in followers.values()]
    tasks += [asyncio.create_task(kept.run()) for kept in tombstones]
    tasks.append(asyncio.create_task(HeadFollower(channel, settings.commands, head, head_heard).run()))

    async def drain() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        feed.close()

    async def close() -> None:
        await channel.close()
        for follower in followers.values():
            try:
                await follower.write_checkpoint()
            except (sqlite3.Error, LeadLostError) as error:
                _log.warning("a checkpoint is not written", projection=follower.projection.name, error=str(error))
        await file.close()

    return Served(binder, failed=_first_failure(tasks), drain=drain, close=close)


def _first_failure(tasks: Sequence[asyncio.Task[None]]) -> asyncio.Future[None]:
    """Fails with the first task that does. None should: what befalls a projection is told as its state."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not failed.done():
            failed.set_exception(error)

    for task in tasks:
        task.add_done_callback(ended)
    return failed


class _Services:
    """FeedService and ProjectionService."""

    def __init__(self, feed: Feed, followers: dict[str, Follower]) -> None:
        self._feed = feed
        self._followers = followers

    def bind(self, binder: Binder) -> None:
        binder.stream(_FEED_SERVICE, "FollowFeed", self.follow_feed)
        binder.unary(_FEED_SERVICE, "WriteCheckpoint", self.write_checkpoint)
        binder.unary(_PROJECTION_SERVICE, "ListProjections", self.list_projections)
        binder.unary(_PROJECTION_SERVICE, "Pause", self.pause)
        binder.unary(_PROJECTION_SERVICE, "Resume", self.resume)

    async def follow_feed(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        parse(feed_pb2.FollowFeedRequest, request)
        async for frame in self._feed.follow():
            yield frame

    async def write_checkpoint(self, request: bytes, context: Context) -> bytes:
        wanted = parse(feed_pb2.WriteCheckpointRequest, request)
        follower = self._followers.get(wanted.projection)
        if follower is None:
            raise InvalidRequest.of(("projection", f"there is no projection {wanted.projection[:200]!r} here"))
        try:
            position = await follower.write_checkpoint()
        except (sqlite3.Error, LeadLostError) as error:
            _log.warning("a checkpoint is not written", projection=wanted.projection, error=str(error))
            raise ReadModelNotReady(projection=wanted.projection) from error
        return feed_pb2.WriteCheckpointResponse(position=position).SerializeToString()

    async def list_projections(self, request: bytes, context: Context) -> bytes:
        parse(projections_pb2.ListProjectionsRequest, request)
        statuses = [follower.status() for follower in self._followers.values()]
        return projections_pb2.ListProjectionsResponse(projections=statuses).SerializeToString()

    async def pause(self, request: bytes, context: Context) -> bytes:
        follower = self._named(parse(projections_pb2.PauseRequest, request).projection)
        await _written(follower, follower.pause())
        return projections_pb2.PauseResponse(status=follower.status()).SerializeToString()

    async def resume(self, request: bytes, context: Context) -> bytes:
        follower = self._named(parse(projections_pb2.ResumeRequest, request).projection)
        await _written(follower, follower.resume())
        return projections_pb2.ResumeResponse(status=follower.status()).SerializeToString()

    def _named(self, projection: str) -> Follower:
        follower = self._followers.get(projection)
        if follower is None:
            raise ProjectionNotFound(projection=projection[:200])
        return follower


async def _written(follower: Follower, change: Awaitable[None]) -> None:
    """Awaits a change of a projection; raises `ReadStoreUnavailable`."""
    try:
        await change
    except (sqlite3.Error, LeadLostError) as error:
        _log.warning("a change is not written", projection=follower.projection.name, error=str(error))
        raise ReadStoreUnavailable(projection=follower.projection.name, cause=str(error)) from error
