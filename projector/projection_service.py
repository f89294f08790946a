"""Projection service: the operators' view of the projections, and their operations."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import TypeVar

import structlog

from diptych.contract.reasons import InvalidRequest, ProjectionNotFound, ReadStoreUnavailable, RebuildFailed
from diptych.contract.validation import parse
from diptych.domain.aggregate import AggregateIdError, AggregateRef
from diptych.domain.refusal import Refusal
from diptych.server.request_context import RequestContext
from diptych.server.router import Router
from diptych.storage.errors import StoreError
from diptych.v1 import projections_pb2
from diptych.v1.commands_pb2 import AggregateRef as AggregateRefMessage
from projector import parked_pages
from projector.generation.parked_refold import EntangledError
from projector.generation.rebuild import Rebuild, RebuildProgress
from projector.projection_runner import ProjectionRunner
from projector.standby_runner import StandbyRunner

_SERVICE = projections_pb2.DESCRIPTOR.services_by_name["ProjectionService"].full_name

_PROGRESS_SECONDS = 0.2
"""Seconds between two progress messages of a rebuild."""

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class ProjectionService:
    """Handlers of ProjectionService.

    Each handler but `list_projections` raises `ProjectionNotFound`, `ProjectionLedElsewhere` where another projector
    leads the projection, and `ReadStoreUnavailable` where the read store cannot be read or written.
    """

    def __init__(self, runners: Mapping[str, ProjectionRunner | StandbyRunner], router: Router) -> None:
        """Bind the handlers.

        Args:
            runners: Runner of each projection, by name.
            router: Router to bind to.
        """
        self._runners = runners
        router.bind_unary(_SERVICE, "ListProjections", self.list_projections)
        router.bind_unary(_SERVICE, "Pause", self.pause)
        router.bind_unary(_SERVICE, "Resume", self.resume)
        router.bind_unary(_SERVICE, "ListParked", self.list_parked)
        router.bind_unary(_SERVICE, "RetryParked", self.retry_parked)
        router.bind_unary(_SERVICE, "DiscardParked", self.discard_parked)
        router.bind_stream(_SERVICE, "Rebuild", self.rebuild)
        router.bind_unary(_SERVICE, "CancelRebuild", self.cancel_rebuild)
        router.bind_unary(_SERVICE, "SwitchGeneration", self.switch_generation)

    async def list_projections(self, request: bytes, context: RequestContext) -> bytes:
        """Return the status of every projection."""
        parse(projections_pb2.ListProjectionsRequest, request)
        # Read together: one after the other, each would wait for the batch under way on the database thread.
        statuses = await asyncio.gather(*(runner.status() for runner in self._runners.values()))
        return projections_pb2.ListProjectionsResponse(projections=statuses).SerializeToString()

    async def pause(self, request: bytes, context: RequestContext) -> bytes:
        """Pause a projection."""
        runner = self._leader(parse(projections_pb2.PauseRequest, request).projection)
        await _store_result(runner, runner.pause())
        return projections_pb2.PauseResponse(status=await runner.status()).SerializeToString()

    async def resume(self, request: bytes, context: RequestContext) -> bytes:
        """Resume a paused or stalled projection."""
        runner = self._leader(parse(projections_pb2.ResumeRequest, request).projection)
        await _store_result(runner, runner.resume())
        return projections_pb2.ResumeResponse(status=await runner.status()).SerializeToString()

    async def rebuild(self, request: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        """Fill a new generation, and send its progress until it is active. Cancelling leaves the rebuild running.

        Raises:
            RebuildCancelled: The rebuild was cancelled.
            RebuildFailed: The rebuild stalled. A further call tries again.
        """
        runner = self._leader(parse(projections_pb2.RebuildRequest, request).projection)
        rebuild = await _store_result(runner, runner.rebuilds.start())
        switched = False
        while not switched:
            yield _progress_message(rebuild.progress(), switched=False)
            switched = await _wait_for_switch(runner, rebuild)
        yield _progress_message(rebuild.progress(), switched=True)

    async def cancel_rebuild(self, request: bytes, context: RequestContext) -> bytes:
        """End a rebuild."""
        runner = self._leader(parse(projections_pb2.CancelRebuildRequest, request).projection)
        await _store_result(runner, runner.rebuilds.cancel())
        return projections_pb2.CancelRebuildResponse(status=await runner.status()).SerializeToString()

    async def switch_generation(self, request: bytes, context: RequestContext) -> bytes:
        """Make a kept generation active again, after it has caught up. Cancelling leaves it catching up."""
        message = parse(projections_pb2.SwitchGenerationRequest, request)
        runner = self._leader(message.projection)
        rebuild = await _store_result(runner, runner.rebuilds.return_to(message.generation))
        while rebuild is not None and not await _wait_for_switch(runner, rebuild):
            pass
        return projections_pb2.SwitchGenerationResponse(status=await runner.status()).SerializeToString()

    async def list_parked(self, request: bytes, context: RequestContext) -> bytes:
        """Return a page of a projection's parked streams."""
        message = parse(projections_pb2.ListParkedRequest, request)
        runner = self._leader(message.projection)
        after, size = parked_pages.page_of(message)
        page, more = await _store_result(runner, runner.parked.list(after, size, discarded=message.include_discarded))
        return parked_pages.response_of(message, page, more=more).SerializeToString()

    async def retry_parked(self, request: bytes, context: RequestContext) -> bytes:
        """Fold a parked stream in place, or start a rebuild where that would give other rows."""
        message = parse(projections_pb2.RetryParkedRequest, request)
        runner = self._leader(message.projection)
        aggregate = _aggregate(message.aggregate)
        response = projections_pb2.RetryParkedResponse(mode=projections_pb2.RETRY_MODE_IN_PLACE)
        try:
            response.events = await _store_result(runner, runner.parked.retry(aggregate))
        except EntangledError as entangled:
            await _store_result(runner, runner.rebuilds.start())
            response.mode, response.reason = projections_pb2.RETRY_MODE_NEW_GENERATION, str(entangled)
        response.status.CopyFrom(await runner.status())
        return response.SerializeToString()

    async def discard_parked(self, request: bytes, context: RequestContext) -> bytes:
        """Let a parked stream go on without its parked events."""
        message = parse(projections_pb2.DiscardParkedRequest, request)
        runner = self._leader(message.projection)
        aggregate = _aggregate(message.aggregate)
        events = await _store_result(runner, runner.parked.discard(aggregate))
        return projections_pb2.DiscardParkedResponse(events=events, status=await runner.status()).SerializeToString()

    def _leader(self, projection: str) -> ProjectionRunner:
        """Return the runner of a projection that this projector leads."""
        runner = self._runners.get(projection)
        if runner is None:
            raise ProjectionNotFound(projection=projection[:200])
        if isinstance(runner, StandbyRunner):
            raise runner.led_elsewhere()
        return runner


async def _wait_for_switch(runner: ProjectionRunner, rebuild: Rebuild) -> bool:
    """Wait until a rebuild's generation is active, at most until the next progress message; return True if it is.

    Raises:
        RebuildCancelled: The rebuild was cancelled.
        RebuildFailed: The rebuild stalled.
    """
    await asyncio.wait((rebuild.ended,), timeout=_PROGRESS_SECONDS)
    if rebuild.ended.done():
        refusal = rebuild.ended.exception()
        if isinstance(refusal, Refusal):
            raise copy.copy(refusal)  # Each caller gets its own, as raising adds a trace to it.
        return True
    if rebuild.failure:
        raise RebuildFailed(
            projection=runner.projection.name, generation=rebuild.generation, cause=rebuild.failure.rstrip(".")
        )
    return False


def _progress_message(progress: RebuildProgress, *, switched: bool) -> bytes:
    message = projections_pb2.RebuildResponse(
        generation=progress.generation,
        position=progress.position,
        head_position=progress.head_position,
        events_per_second=progress.events_per_second,
        switched=switched,
    )
    if (seconds := progress.remaining_seconds) is not None:
        message.remaining.FromNanoseconds(int(min(seconds, 1e9) * 1e9))
    return message.SerializeToString()


async def _store_result(runner: ProjectionRunner, operation: Awaitable[T]) -> T:
    """Return the result of an operation on the read store. Raise `ReadStoreUnavailable` in place of its errors."""
    try:
        return await operation
    except StoreError as error:
        _log.warning("operation failed", projection=runner.projection.name, cause=str(error))
        raise ReadStoreUnavailable(projection=runner.projection.name, cause=str(error)) from error


def _aggregate(message: AggregateRefMessage) -> AggregateRef:
    try:
        return AggregateRef(message.type, message.id)
    except AggregateIdError as error:
        raise InvalidRequest.of(("aggregate", str(error))) from error
