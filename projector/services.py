"""The projector's services: the feed, and what operators see and steer."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import TypeVar

import structlog

from diptych.contract.reasons import (
    InvalidRequest,
    ProjectionNotFound,
    ReadModelNotReady,
    ReadStoreUnavailable,
    RebuildFailed,
)
from diptych.contract.validation import parse
from diptych.domain.aggregate import AggregateRef
from diptych.domain.refusal import Refusal
from diptych.internal.v1 import feed_pb2
from diptych.server.request_context import RequestContext
from diptych.server.router import Router
from diptych.storage.errors import StoreError
from diptych.v1 import projections_pb2
from projector import parked_page
from projector.feed.feed import Feed
from projector.generation.parked_refold import EntangledError
from projector.generation.rebuild import Build, Progress
from projector.projection_runner import Line
from projector.standby_runner import Standby

_FEED_SERVICE = feed_pb2.DESCRIPTOR.services_by_name["FeedService"].full_name
_PROJECTION_SERVICE = projections_pb2.DESCRIPTOR.services_by_name["ProjectionService"].full_name

_PROGRESS_SECONDS = 0.2
"""How often a rebuild tells how far it is."""

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class Services:
    """FeedService and ProjectionService."""

    def __init__(self, feed: Feed, lines: Mapping[str, Line | Standby]) -> None:
        self._feed = feed
        self._lines = lines

    def bind(self, router: Router) -> None:
        """Binds the rpcs."""
        router.bind_stream(_FEED_SERVICE, "FollowFeed", self.follow_feed)
        router.bind_unary(_FEED_SERVICE, "WriteCheckpoint", self.write_checkpoint)
        router.bind_unary(_PROJECTION_SERVICE, "ListProjections", self.list_projections)
        router.bind_unary(_PROJECTION_SERVICE, "Pause", self.pause)
        router.bind_unary(_PROJECTION_SERVICE, "Resume", self.resume)
        router.bind_unary(_PROJECTION_SERVICE, "ListParked", self.list_parked)
        router.bind_unary(_PROJECTION_SERVICE, "RetryParked", self.retry_parked)
        router.bind_unary(_PROJECTION_SERVICE, "DiscardParked", self.discard_parked)
        router.bind_stream(_PROJECTION_SERVICE, "Rebuild", self.rebuild)
        router.bind_unary(_PROJECTION_SERVICE, "CancelRebuild", self.cancel_rebuild)
        router.bind_unary(_PROJECTION_SERVICE, "SwitchGeneration", self.switch_generation)

    async def follow_feed(self, request: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        """Tells query servers what the projections do."""
        parse(feed_pb2.FollowFeedRequest, request)
        async for frame in self._feed.follow():
            yield frame

    async def write_checkpoint(self, request: bytes, context: RequestContext) -> bytes:
        """Writes a projection's checkpoint."""
        wanted = parse(feed_pb2.WriteCheckpointRequest, request)
        line = self._lines.get(wanted.projection)
        if line is None:
            raise InvalidRequest.of(("projection", f"there is no projection {wanted.projection[:200]!r} here"))
        try:
            position = await line.write_checkpoint()
        except StoreError as error:
            _log.warning("a checkpoint is not written", projection=wanted.projection, error=str(error))
            raise ReadModelNotReady(projection=wanted.projection) from error
        return feed_pb2.WriteCheckpointResponse(position=position).SerializeToString()

    async def list_projections(self, request: bytes, context: RequestContext) -> bytes:
        """Tells the state of every projection."""
        parse(projections_pb2.ListProjectionsRequest, request)
        # Together they wait for what the database's thread is at, and not one after the other.
        statuses = await asyncio.gather(*(line.status() for line in self._lines.values()))
        return projections_pb2.ListProjectionsResponse(projections=statuses).SerializeToString()

    async def pause(self, request: bytes, context: RequestContext) -> bytes:
        """Pauses a projection."""
        line = self._named(parse(projections_pb2.PauseRequest, request).projection)
        await _written(line, line.pause())
        return projections_pb2.PauseResponse(status=await line.status()).SerializeToString()

    async def resume(self, request: bytes, context: RequestContext) -> bytes:
        """Lets a projection go on."""
        line = self._named(parse(projections_pb2.ResumeRequest, request).projection)
        await _written(line, line.resume())
        return projections_pb2.ResumeResponse(status=await line.status()).SerializeToString()

    async def rebuild(self, request: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        """Fills a new generation, and tells how far it is until it answers."""
        line = self._named(parse(projections_pb2.RebuildRequest, request).projection)
        build = await _written(line, line.rebuild())
        ended = False
        while not ended:
            yield _told(build.progress(), switched=False).SerializeToString()
            ended = await _ended(line, build)
        yield _told(build.progress(), switched=True).SerializeToString()

    async def cancel_rebuild(self, request: bytes, context: RequestContext) -> bytes:
        """Ends the filling of a generation."""
        line = self._named(parse(projections_pb2.CancelRebuildRequest, request).projection)
        await _written(line, line.cancel())
        return projections_pb2.CancelRebuildResponse(status=await line.status()).SerializeToString()

    async def switch_generation(self, request: bytes, context: RequestContext) -> bytes:
        """Lets a kept generation answer again."""
        wanted = parse(projections_pb2.SwitchGenerationRequest, request)
        line = self._named(wanted.projection)
        build = await _written(line, line.switch_to(wanted.generation))
        while build is not None and not await _ended(line, build):
            pass
        return projections_pb2.SwitchGenerationResponse(status=await line.status()).SerializeToString()

    async def list_parked(self, request: bytes, context: RequestContext) -> bytes:
        """A page of what is parked in a projection."""
        wanted = parse(projections_pb2.ListParkedRequest, request)
        line = self._named(wanted.projection)
        after, size = parked_page.asked(wanted)
        page, more = await _written(line, line.list_parked(after, size, discarded=wanted.include_discarded))
        return parked_page.told(wanted, page, more=more).SerializeToString()

    async def retry_parked(self, request: bytes, context: RequestContext) -> bytes:
        """Folds what is parked of a stream in place, or begins a new generation."""
        wanted = parse(projections_pb2.RetryParkedRequest, request)
        line, aggregate = self._named(wanted.projection), AggregateRef(wanted.aggregate.type, wanted.aggregate.id)
        response = projections_pb2.RetryParkedResponse(mode=projections_pb2.RETRY_MODE_IN_PLACE)
        try:
            response.events = await _written(line, line.retry_parked(aggregate))
        except EntangledError as entangled:
            await _written(line, line.rebuild())
            response.mode, response.reason = projections_pb2.RETRY_MODE_NEW_GENERATION, str(entangled)
        response.status.CopyFrom(await line.status())
        return response.SerializeToString()

    async def discard_parked(self, request: bytes, context: RequestContext) -> bytes:
        """Lets a stream go on without what is left out."""
        wanted = parse(projections_pb2.DiscardParkedRequest, request)
        line = self._named(wanted.projection)
        aggregate = AggregateRef(wanted.aggregate.type, wanted.aggregate.id)
        events = await _written(line, line.discard_parked(aggregate))
        return projections_pb2.DiscardParkedResponse(events=events, status=await line.status()).SerializeToString()

    def _named(self, projection: str) -> Line | Standby:
        line = self._lines.get(projection)
        if line is None:
            raise ProjectionNotFound(projection=projection[:200])
        return line


async def _ended(line: Line | Standby, build: Build) -> bool:
    """Waits a little; whether the generation answers now. Raises `RebuildCancelled`, `RebuildFailed`."""
    await asyncio.wait((build.ended,), timeout=_PROGRESS_SECONDS)
    if build.ended.done():
        refusal = build.ended.exception()
        if isinstance(refusal, Refusal):
            raise copy.copy(refusal)  # Everybody who waits gets one of their own.
        return True
    if build.failure:
        raise RebuildFailed(
            projection=line.projection.name, generation=build.generation, cause=build.failure.rstrip(".")
        )
    return False


def _told(progress: Progress, *, switched: bool) -> projections_pb2.RebuildResponse:
    told = projections_pb2.RebuildResponse(
        generation=progress.generation,
        position=progress.position,
        head_position=progress.head_position,
        events_per_second=progress.events_per_second,
        switched=switched,
    )
    if (seconds := progress.remaining_seconds) is not None:
        told.remaining.FromNanoseconds(int(min(seconds, 1e9) * 1e9))
    return told


async def _written(line: Line | Standby, change: Awaitable[T]) -> T:
    """Awaits a change of a projection; raises `ReadStoreUnavailable`."""
    try:
        return await change
    except StoreError as error:
        _log.warning("a change is not written", projection=line.projection.name, error=str(error))
        raise ReadStoreUnavailable(projection=line.projection.name, cause=str(error)) from error
