"""ReadModelService: how fresh the read model is, and waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from diptych.contract.reasons import (
    InvalidRequest,
    ReadModelParked,
    ReadModelPaused,
    ReadModelRebuilding,
    ReadModelStalled,
    UnknownView,
)
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
from query_server.freshness.tracker import STALLED, Freshness, Tracker
from query_server.queries.consistency import refuse
from query_server.upstream import NoSuchVersion, NotInTime, NotReachable, Upstreams

SERVICE = "diptych.v1.ReadModelService"

_RETRY_SECONDS = 0.1

_STORE_BEHIND_SECONDS = 0.02

_SOON_SECONDS = 0.02
"""How long a watcher of a version is told nothing, as it may be there by then."""

_PROGRESS_SECONDS = 0.1
"""The least time between two words to it."""

_LIFE_SECONDS = 1.0
"""How often it is told at least."""

_OUTCOMES: dict[type[Refusal], WaitOutcome] = {
    ReadModelStalled: WaitOutcome.WAIT_OUTCOME_STALLED,
    ReadModelPaused: WaitOutcome.WAIT_OUTCOME_PAUSED,
    ReadModelRebuilding: WaitOutcome.WAIT_OUTCOME_REBUILDING,
}
"""What comes of a wait that is hopeless, by the refusal that says so, the worst first."""

_HOPELESS = tuple(_OUTCOMES)

V = TypeVar("V", WaitForVersionRequest, WatchVersionRequest)


class ReadModelService:
    """Answers for the projections of one domain."""

    def __init__(self, domain: Domain, freshness: Freshness, upstreams: Upstreams, wait_seconds: float) -> None:
        self._domain = domain
        self._views = domain.views
        self._freshness = freshness
        self._upstreams = upstreams
        self._wait_seconds = wait_seconds

    def bind(self, router: Router) -> None:
        """Binds the service's rpcs."""
        router.bind_unary(SERVICE, "WaitForVersion", self.wait_for_version)
        router.bind_stream(SERVICE, "WatchVersion", self.watch_version)
        router.bind_unary(SERVICE, "GetStatus", self.get_status)

    async def wait_for_version(self, data: bytes, context: RequestContext) -> bytes:
        """Waits until a version is included, and says so, or why not."""
        until = self._freshness.now + context.wait_seconds(self._wait_seconds)
        request, trackers = self._asked(WaitForVersionRequest, data, context)
        return self._answer(*await self._outcome(request, trackers, until, context), context)

    async def watch_version(self, data: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        """Tells how far the read model is until a version is included, or cannot be, and says that last."""
        freshness = self._freshness
        until = freshness.now + context.wait_seconds(self._wait_seconds)
        request, trackers = self._asked(WatchVersionRequest, data, context)
        waiting = asyncio.ensure_future(self._outcome(request, trackers, until, context))
        told, told_at, pause = None, float("-inf"), _SOON_SECONDS
        try:
            while not (await asyncio.wait((waiting,), timeout=pause))[0]:
                tracker, pause = _worst(trackers), _PROGRESS_SECONDS
                news = tracker.name, tracker.position, freshness.head.position
                if news != told or freshness.now - told_at >= _LIFE_SECONDS:
                    told, told_at = news, freshness.now
                    yield WatchVersionResponse(
                        progress=self._progress(tracker.position), projection=tracker.name
                    ).SerializeToString()
            yield self._answer(*waiting.result(), context)  # The two answers have the same fields.
        finally:
            waiting.cancel()

    def _asked(self, kind: type[V], data: bytes, context: RequestContext) -> tuple[V, list[Tracker]]:
        try:
            request = parse(kind, data)
            return request, self._trackers(request.view)
        except Refusal as refusal:
            raise refuse(refusal, context, self._freshness, None, "") from None

    async def _outcome(
        self,
        request: WaitForVersionRequest | WatchVersionRequest,
        trackers: Sequence[Tracker],
        until: float,
        context: RequestContext,
    ) -> tuple[WaitOutcome, Tracker, int, str]:
        """What came of waiting, by the projection worst off, how far that is known to be, and the token presented."""
        presented = ""
        try:
            if request.WhichOneof("version") == "token":
                wanted, presented = await self._freshness.position_of((request.token,), trackers, until)
            else:
                found = await self._position_of(request.aggregate_version, until)
                if found is None:
                    worst = _worst(trackers)
                    return WaitOutcome.WAIT_OUTCOME_TIMED_OUT, worst, worst.position, presented
                wanted = found
            outcome, tracker = await self._wait(trackers, wanted, until)
            # What was waited for in vain may have been told of a generation that is no longer read.
            vain = outcome == WaitOutcome.WAIT_OUTCOME_TIMED_OUT
            position = min(tracker.position, max(wanted - 1, 0)) if vain else tracker.position
            return outcome, tracker, position, presented
        except Refusal as refusal:
            raise refuse(refusal, context, self._freshness, None, presented) from None

    def _trackers(self, view: str) -> list[Tracker]:
        if not view:
            return list(self._freshness.trackers.values())
        if view not in self._views:
            raise UnknownView(view=view)
        return [self._freshness.trackers[self._views[view].projection.name]]

    async def _position_of(self, wanted: AggregateVersion, until: float) -> int | None:
        """Where in the log an aggregate's version is; None: it did not come to exist in time."""
        while (seconds := until - self._freshness.now) > 0 and not self._freshness.closed:
            try:
                return await self._upstreams.position_of(wanted.aggregate, wanted.version, seconds)
            except NotInTime:
                break
            except NoSuchVersion as error:
                raise InvalidRequest.of(("aggregate_version", str(error).rstrip("."))) from None
            except NotReachable:
                await asyncio.sleep(min(_RETRY_SECONDS, max(until - self._freshness.now, 0)))
        return None

    async def _wait(self, trackers: Sequence[Tracker], wanted: int, until: float) -> tuple[WaitOutcome, Tracker]:
        """The outcome, and the projection worst off."""
        freshness, applied = self._freshness, set[str]()
        while True:
            behind = [tracker for tracker in trackers if tracker.position < wanted]
            if absent := [tracker for tracker in trackers if not tracker.stored and not tracker.fed_generation]:
                refusal = self._freshness.absent(absent[0])
                if isinstance(refusal, ReadModelRebuilding):
                    return WaitOutcome.WAIT_OUTCOME_REBUILDING, absent[0]
                raise refusal
            parked = []
            for tracker in trackers:
                if tracker.position >= wanted and tracker.name not in applied:
                    try:
                        if await freshness.applied_in(tracker, wanted) or not wanted:
                            applied.add(tracker.name)
                    except ReadModelParked:
                        parked.append(tracker)
            if not behind and not parked and len(applied) == len(trackers):
                return WaitOutcome.WAIT_OUTCOME_REACHED, _worst(trackers)
            if hopeless := self._hopeless(behind, wanted):
                return hopeless
            if parked:
                return WaitOutcome.WAIT_OUTCOME_PARKED, _worst(parked)
            if behind and all(tracker.position >= wanted for tracker in behind):
                continue  # They got there while the store was asked about others.
            if freshness.now >= until or freshness.closed:
                return WaitOutcome.WAIT_OUTCOME_TIMED_OUT, _worst(behind or trackers)
            if behind:
                await freshness.news(behind, wanted, until)
            else:  # The store that we read does not show yet what became of it.
                await asyncio.sleep(min(_STORE_BEHIND_SECONDS, max(until - freshness.now, 0)))

    def _hopeless(self, behind: Sequence[Tracker], wanted: int) -> tuple[WaitOutcome, Tracker] | None:
        """Why waiting for all of these is of no use, if it is, by the one worst off: one that broke, then the last."""
        outcomes = []
        for tracker in behind:
            refusal = self._freshness.hopeless(tracker, wanted)
            if refusal is not None:
                outcomes.append((_HOPELESS.index(type(refusal)), tracker.position, tracker.name, tracker))
        if not outcomes:
            return None
        rank, *_, tracker = min(outcomes)
        return _OUTCOMES[_HOPELESS[rank]], tracker

    def _answer(
        self, outcome: WaitOutcome, tracker: Tracker, position: int, presented: str, context: RequestContext
    ) -> bytes:
        context.token = max(presented, self._freshness.token(position))
        return WaitForVersionResponse(
            outcome=outcome, progress=self._progress(position), projection=tracker.name
        ).SerializeToString()

    def _progress(self, position: int) -> VersionProgress:
        freshness = self._freshness
        progress = VersionProgress(
            token=freshness.token(position),
            applied_position=position,
            head_position=max(freshness.head.position or 0, position),
            lag_events=freshness.lag_events(position),
        )
        progress.lag_time.FromNanoseconds(int(freshness.lag_seconds(position) * 1e9))
        return progress

    async def get_status(self, data: bytes, context: RequestContext) -> bytes:
        """Tells the state of the log and of every projection, as this server knows it."""
        try:
            parse(GetStatusRequest, data)
        except Refusal as refusal:
            raise refuse(refusal, context, self._freshness, None, "") from None
        freshness, now = self._freshness, self._freshness.now
        status = GetStatusResponse(
            head_position=freshness.head.position or 0,
            projections=[self._status(tracker, now) for tracker in freshness.trackers.values()],
        )
        if freshness.head.identity is not None:
            status.log_id = freshness.head.identity.log_id.hex()
            status.epoch = freshness.head.identity.epoch
        if freshness.head.heard is not None:
            status.head_age.FromNanoseconds(max(int((now - freshness.head.heard) * 1e9), 0))
        if (age := freshness.feed_age) is not None:
            status.projector_age.FromNanoseconds(max(int(age * 1e9), 0))
        context.token = freshness.token(min((t.position for t in freshness.trackers.values()), default=0))
        return status.SerializeToString()

    def _status(self, tracker: Tracker, now: float) -> ProjectionStatus:
        projection, state = self._domain.projections[tracker.name], tracker.state(now)
        return ProjectionStatus(
            name=tracker.name,
            version=tracker.version,
            generation=tracker.generation or tracker.fed_generation,
            state=state,
            reason=tracker.reason if state == STALLED else "",
            stalled_event=tracker.stalled_event if state == STALLED else None,
            progress=self._progress(tracker.position),
            views=[
                ViewInfo(name=view.name, row_type=view.row.DESCRIPTOR.full_name)
                for view in sorted(projection.views, key=lambda view: view.name)
            ],
            parked_streams=tracker.parked_streams,
            left_out_events=tracker.left_out_events,
        )


def _worst(trackers: Sequence[Tracker]) -> Tracker:
    return min(trackers, key=lambda tracker: (tracker.position, tracker.name))
