"""ReadModelService: the freshness of the read model, and waits for a version."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from diptych.contract.projection_state import STALLED
from diptych.contract.reasons import InvalidRequest, UnknownView
from diptych.contract.validation import parse
from diptych.domain.domain import Domain
from diptych.domain.refusal import Refusal
from diptych.server.request_context import RequestContext
from diptych.server.router import Router
from diptych.v1.projections_pb2 import ProjectionStatus, VersionProgress, ViewInfo
from diptych.v1.read_model_pb2 import (
    AggregateVersion,
    GetStatusRequest,
    GetStatusResponse,
    WaitForVersionRequest,
    WaitForVersionResponse,
    WaitOutcome,
    WatchVersionRequest,
    WatchVersionResponse,
)
from query_server.freshness.fresh_read import FreshReads
from query_server.freshness.token_judge import TokenJudge
from query_server.freshness.tracked_projection import TrackedProjection
from query_server.freshness.tracker import FreshnessTracker
from query_server.freshness.version_wait import UNPROVED, VersionWaits, WaitResult, worst_of
from query_server.queries.consistency import refuse
from query_server.upstream import NoSuchVersion, NotInTime, NotReachable, Upstreams

SERVICE = "diptych.v1.ReadModelService"

_RETRY_SECONDS, _RETRY_SECONDS_MAX = 0.1, 5.0
"""First and longest pause before another request to the command server for an aggregate version's token."""

_FIRST_PROGRESS_SECONDS = 0.02
"""Time before the first progress message of WatchVersion: most waits have ended by then."""

_PROGRESS_SECONDS = 0.1
"""Least time between two progress messages."""

_HEARTBEAT_SECONDS = 1.0
"""Greatest time between two progress messages."""

V = TypeVar("V", WaitForVersionRequest, WatchVersionRequest)


class ReadModelService:
    """Answers about the projections of one domain."""

    def __init__(
        self,
        domain: Domain,
        tracker: FreshnessTracker,
        tokens: TokenJudge,
        fresh: FreshReads,
        upstreams: Upstreams,
        wait_seconds: float,
    ) -> None:
        self._domain = domain
        self._tracker = tracker
        self._tokens = tokens
        self._waits = VersionWaits(tracker, fresh)
        self._upstreams = upstreams
        self._wait_seconds = wait_seconds

    def bind(self, router: Router) -> None:
        """Bind the service's rpcs."""
        router.bind_unary(SERVICE, "WaitForVersion", self.wait_for_version)
        router.bind_stream(SERVICE, "WatchVersion", self.watch_version)
        router.bind_unary(SERVICE, "GetStatus", self.get_status)

    # Waits.

    async def wait_for_version(self, data: bytes, context: RequestContext) -> bytes:
        """Wait until a version is included or cannot be. Cancelling it removes the wait."""
        until = self._until(context)
        request, projections = self._parse(WaitForVersionRequest, data, context)
        return self._answer(*await self._outcome(request, projections, until, context), context)

    async def watch_version(self, data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        """Yield progress until a version is included or cannot be, and the outcome last."""
        tracker = self._tracker
        until = self._until(context)
        request, projections = self._parse(WatchVersionRequest, data, context)
        waiting = asyncio.ensure_future(self._outcome(request, projections, until, context))
        sent, sent_at, pause = None, float("-inf"), _FIRST_PROGRESS_SECONDS
        try:
            while not (await asyncio.wait((waiting,), timeout=pause))[0]:
                worst, pause = worst_of(projections), _PROGRESS_SECONDS
                applied = worst.progress.applied
                progress = worst.name, applied, tracker.head.position
                if progress != sent or tracker.now - sent_at >= _HEARTBEAT_SECONDS:
                    sent, sent_at = progress, tracker.now
                    yield WatchVersionResponse(
                        progress=self._progress(applied), projection=worst.name
                    ).SerializeToString()
            yield self._answer(*waiting.result(), context)  # Both responses have the same fields.
        finally:
            waiting.cancel()

    def _until(self, context: RequestContext) -> float:
        """Return the time by which a call must be answered."""
        return self._tracker.now + context.wait_seconds(self._wait_seconds)

    def _parse(self, kind: type[V], data: bytes, context: RequestContext) -> tuple[V, list[TrackedProjection]]:
        try:
            request = parse(kind, data)
            return request, self._projections_of(request.view)
        except Refusal as refusal:
            raise refuse(refusal, context, self._tracker, None, "") from None

    def _projections_of(self, view: str) -> list[TrackedProjection]:
        if not view:
            return list(self._tracker.projections.values())
        if view not in self._domain.views:
            raise UnknownView(view=view)
        return [self._tracker.projections[self._domain.views[view].projection.name]]

    async def _outcome(
        self,
        request: WaitForVersionRequest | WatchVersionRequest,
        projections: Sequence[TrackedProjection],
        until: float,
        context: RequestContext,
    ) -> tuple[WaitResult, str]:
        """Wait for a request's version; return the result and the presented token."""
        presented = ""
        try:
            if request.WhichOneof("version") == "token":
                token = presented = request.token
            else:
                token = await self._token_of(request.aggregate_version, until)
                if not token:
                    worst = worst_of(projections)
                    return WaitResult(WaitOutcome.WAIT_OUTCOME_TIMED_OUT, worst, worst.progress.applied), presented

            async def judge() -> int:
                return (await self._tokens.position_of((token,), projections, until))[0]

            result = await self._waits.wait(projections, await judge(), until, judge)
        except UNPROVED as refusal:
            result = self._waits.unproved(refusal)
        except Refusal as refusal:
            raise refuse(refusal, context, self._tracker, None, presented) from None
        for tracked in projections:
            tracked.progress.acknowledge(min(result.position, tracked.progress.applied))
        return result, presented

    async def _token_of(self, version: AggregateVersion, until: float) -> str:
        """Return the token of an aggregate's version; empty if it did not come to exist in time."""
        retry_seconds = _RETRY_SECONDS
        while (seconds := until - self._tracker.now) > 0 and not self._tracker.is_closed:
            try:
                return await self._upstreams.token_of(version.aggregate, version.version, seconds)
            except NotInTime:
                break
            except NoSuchVersion as error:
                raise InvalidRequest.of(("aggregate_version", str(error).rstrip("."))) from None
            except NotReachable as error:
                # All calls fail together; with jitter, and pauses that grow, they do not return together.
                pause = random.uniform(1.0, 2.0) * max(retry_seconds, error.retry_seconds)
                retry_seconds = min(2 * retry_seconds, _RETRY_SECONDS_MAX)
                await asyncio.sleep(min(pause, max(until - self._tracker.now, 0)))
        return ""

    def _answer(self, result: WaitResult, presented: str, context: RequestContext) -> bytes:
        context.token = max(presented, self._tracker.head.token(result.position))
        return WaitForVersionResponse(
            outcome=result.outcome, progress=self._progress(result.position), projection=result.projection.name
        ).SerializeToString()

    def _progress(self, position: int) -> VersionProgress:
        head = self._tracker.head
        progress = VersionProgress(
            token=head.token(position),
            applied_position=position,
            head_position=max(head.known_position, position),
            lag_events=head.lag_events(position),
        )
        progress.lag_time.FromNanoseconds(int(head.lag_seconds(position) * 1e9))
        return progress

    # Status.

    async def get_status(self, data: bytes, context: RequestContext) -> bytes:
        """Return the state of the log and of every projection, as this server knows it."""
        try:
            parse(GetStatusRequest, data)
        except Refusal as refusal:
            raise refuse(refusal, context, self._tracker, None, "") from None
        head, now = self._tracker.head, self._tracker.now
        projections = self._tracker.projections.values()
        status = GetStatusResponse(
            head_position=head.known_position,
            projections=[self._status(tracked, now) for tracked in projections],
        )
        if head.identity is not None:
            status.log_id = head.identity.log_id.hex()
            status.epoch = head.identity.epoch
        if head.reported_at is not None:
            status.head_age.FromNanoseconds(max(int((now - head.reported_at) * 1e9), 0))
        if (age := self._tracker.feed_age) is not None:
            status.projector_age.FromNanoseconds(max(int(age * 1e9), 0))
        context.token = head.token(min((tracked.progress.shown for tracked in projections), default=0))
        return status.SerializeToString()

    def _status(self, tracked: TrackedProjection, now: float) -> ProjectionStatus:
        projection, progress, state = self._domain.projections[tracked.name], tracked.progress, tracked.state(now)
        return ProjectionStatus(
            name=tracked.name,
            version=progress.version,
            generation=progress.generation or progress.feed_generation,
            state=state,
            reason=tracked.reason if state == STALLED else "",
            stalled_event=tracked.stalled_event if state == STALLED else None,
            progress=self._progress(progress.applied),
            views=[
                ViewInfo(name=view.name, row_type=view.row.DESCRIPTOR.full_name)
                for view in sorted(projection.views, key=lambda view: view.name)
            ],
            parked_streams=tracked.parked_streams,
            left_out_events=tracked.left_out_events,
            code_changed=tracked.code_changed,
        )
