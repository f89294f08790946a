"""Token judge: turns the tokens or the staleness of a request into the position that a read must include."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Protocol

from diptych.contract.projection_state import row_of_refusal
from diptych.contract.reasons import ReadModelNotReady, TokenAheadOfLog, TokenOfAnotherLog
from diptych.contract.token import Token
from query_server.freshness.fresh_read import behind, hopeless
from query_server.freshness.log_head import HeadReport
from query_server.freshness.tracked_projection import TrackedProjection
from query_server.freshness.tracker import FreshnessTracker

_HEAD_SECONDS = 0.02  # Twice as long as the command server takes to report a new head.
_RETRY_SECONDS = 0.1
_RETRY_SECONDS_MAX = 1.0
_NEVER = 1 << 63  # A position that no head reaches: only a change of the log ends a wait for it.


class HeadSource(Protocol):
    """Answers requests for the head."""

    async def request_head(self) -> HeadReport | None:
        """Return the head now; None if the command server cannot be reached."""
        ...


class TokenJudge:
    """Judges tokens by the log's identity and head. Belongs to one event loop."""

    def __init__(self, tracker: FreshnessTracker, source: HeadSource) -> None:
        self._tracker = tracker
        self._source = source
        self._request: asyncio.Future[bool] | None = None

    def position_at_once(self, tokens: Sequence[str], tracked: TrackedProjection) -> int | None:
        """Return the position that tokens require of a projection; None if it takes `position_of`.

        Raises:
            TokenMalformed, TokenOfAnotherLog, TokenOfOlderEpoch: As `position_of`.
        """
        if self._tracker.head.identity is None:
            return None
        parsed = [Token.parse(text) for text in tokens]
        position = self._judge(parsed)
        if self._is_of_unknown_epoch(parsed) or self._is_beyond_known_head(position, (tracked,)):
            return None
        return position

    async def position_of(
        self, tokens: Sequence[str], projections: Sequence[TrackedProjection], until: float
    ) -> tuple[int, str]:
        """Return the position that tokens require of these projections, and the greatest of the tokens.

        It requests the head where the reported one is too low to judge by, and where the log is not known to have
        the token's epoch: no row proves anything about such a token until the log or a projector has stated that
        epoch. Cancelling it leaves the request, which others share, running.

        Raises:
            TokenMalformed: A token is malformed.
            TokenOfAnotherLog: A token belongs to another log.
            TokenOfOlderEpoch: The log has lost the token's event.
            TokenAheadOfLog: The log is not that long, or has no such epoch.
            ReadModelNotReady: No log is known by which to judge, until `until`.
            ReadModelBehind: The token's epoch did not become known until `until`.
            ReadModelPaused, ReadModelStalled, ReadModelRebuilding: The same, and a projection has stopped.
        """
        tracker = self._tracker
        parsed = [Token.parse(text) for text in tokens]
        while tracker.head.identity is None and not await self._request_head(until):
            # The command server may be reached a moment later, as at a start.
            if tracker.now >= until or tracker.is_closed:
                raise ReadModelNotReady(projection=projections[0].name)
            await tracker.wait_applied((), 0, min(until, tracker.now + _RETRY_SECONDS), head=True)
        position = self._judge(parsed)
        if self._is_of_unknown_epoch(parsed):
            await self._find_epoch(parsed, projections, until)
            position = self._judge(parsed)
        if self._is_beyond_known_head(position, projections):
            # The head, or even the projection, is often there at once.
            await tracker.wait_applied(projections, position, min(until, tracker.now + _HEAD_SECONDS), head=True)
            if self._is_beyond_known_head(position, projections) and await self._request_head(until):
                position = self._judge(parsed)  # The log may be in another epoch by now.
                head = tracker.head.known_position
                if position > head:
                    raise TokenAheadOfLog(position=position, head_position=head)
        return position, max(tokens)

    async def position_within(self, tracked: TrackedProjection, staleness: float, until: float) -> int:
        """Return a position that includes every event recorded until `staleness` seconds ago.

        It requests the head if the last report is older, unless the projection has stopped behind even that.

        Raises:
            ReadModelBehind: The command server did not report the head until `until`.
            ReadModelPaused, ReadModelStalled, ReadModelRebuilding: Waiting is hopeless.
        """
        tracker = self._tracker
        moment, retry_seconds = tracker.now - staleness, _RETRY_SECONDS
        while (position := tracker.head.position_since(moment)) is None:
            head = tracker.head.known_position
            if (refusal := hopeless(tracker, tracked, head)) is not None:
                raise refusal
            if await self._request_head(until) and tracker.head.position_since(moment) is not None:
                continue
            if tracker.now >= until or tracker.is_closed:
                raise behind(tracker, tracked, max(head, tracked.progress.applied))
            retry_seconds = await self._wait_to_retry(retry_seconds, until)
        return position

    async def _find_epoch(
        self, tokens: Sequence[Token], projections: Sequence[TrackedProjection], until: float
    ) -> None:
        """Wait until the log is known to have the epoch of the latest token."""
        tracker, position, retry_seconds = self._tracker, max(tokens).position, _RETRY_SECONDS
        while self._is_of_unknown_epoch(tokens):
            if await self._request_head(until):
                if self._is_of_unknown_epoch(tokens):
                    raise TokenAheadOfLog(position=position, head_position=tracker.head.known_position)
                return
            refusals = [hopeless(tracker, one, position, _unproved(one, position)) for one in projections]
            stopped = [refusal for refusal in refusals if refusal is not None]
            if stopped:
                raise max(stopped, key=lambda refusal: row_of_refusal(refusal).severity)
            if tracker.now >= until or tracker.is_closed:
                worst = min(projections, key=lambda one: (one.progress.applied, one.name))
                raise behind(tracker, worst, position, _unproved(worst, position))
            retry_seconds = await self._wait_to_retry(retry_seconds, until)

    async def _wait_to_retry(self, seconds: float, until: float) -> float:
        """Wait some time, or until the log changes; return the time to wait before the next request."""
        tracker = self._tracker
        pause = random.uniform(0.5, 1.0) * seconds
        await tracker.wait_applied((), _NEVER, min(until, tracker.now + pause), head=True)
        return min(2 * seconds, _RETRY_SECONDS_MAX)

    def _is_of_unknown_epoch(self, tokens: Sequence[Token]) -> bool:
        """True if the latest token is of a later epoch than the log is known to have."""
        identity = self._tracker.head.identity
        return identity is None or max(tokens).epoch > identity.epoch

    def _judge(self, tokens: Sequence[Token]) -> int:
        identity = self._tracker.head.identity
        assert identity is not None
        for token in tokens:
            if token.log_id != identity.log_id:
                raise TokenOfAnotherLog(token_log_id=token.log_id.hex(), log_id=identity.log_id.hex())
        return identity.judge(max(tokens))

    def _is_beyond_known_head(self, position: int, projections: Sequence[TrackedProjection]) -> bool:
        """True if the position is beyond every head and every applied position reported so far."""
        return position > self._tracker.head.known_position and all(
            position > tracked.progress.applied for tracked in projections
        )

    async def _request_head(self, until: float) -> bool:
        """Request the head by a call that begins after this one; return True if it was answered by `until`.

        Requests that arrive while a call is under way share the next one.
        """
        tracker = self._tracker
        earlier = self._request
        if earlier is not None and not earlier.done():
            await asyncio.wait((earlier,), timeout=max(until - tracker.now, 0))
        if self._request is earlier and (earlier is None or earlier.done()):
            self._request = asyncio.ensure_future(self._call())
        mine = self._request
        if mine is None or mine is earlier:
            return False
        await asyncio.wait((mine,), timeout=max(until - tracker.now, 0))
        return mine.done() and mine.result()

    async def _call(self) -> bool:
        began_at = self._tracker.now
        report = await self._source.request_head()
        if report is None:
            return False
        return self._tracker.on_head(report.position, report.identity, began_at)


def _unproved(tracked: TrackedProjection, position: int) -> int:
    """Return the applied position to report while a position is not proved: one below it."""
    return min(tracked.progress.applied, max(position - 1, 0))
