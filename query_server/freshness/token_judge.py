"""Token judge: turns the tokens or the staleness of a request into the position that a read must include."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from diptych.contract.reasons import ReadModelNotReady, TokenAheadOfLog, TokenOfAnotherLog
from diptych.contract.token import Token
from query_server.freshness.fresh_read import behind, hopeless
from query_server.freshness.log_head import HeadReport
from query_server.freshness.tracked_projection import TrackedProjection
from query_server.freshness.tracker import FreshnessTracker

_HEAD_SECONDS = 0.02  # Twice as long as the command server takes to report a new head.
_RETRY_SECONDS = 0.1


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
        position = self._judge([Token.parse(text) for text in tokens])
        return None if self._is_beyond_known_head(position, (tracked,)) else position

    async def position_of(
        self, tokens: Sequence[str], projections: Sequence[TrackedProjection], until: float
    ) -> tuple[int, str]:
        """Return the position that tokens require of these projections, and the greatest of the tokens.

        It requests the head where the reported one is too low to judge by. Cancelling it leaves that request, which
        others share, running.

        Raises:
            TokenMalformed: A token is none.
            TokenOfAnotherLog: A token belongs to another log.
            TokenOfOlderEpoch: The log has lost the token's event.
            TokenAheadOfLog: The log is not that long.
            ReadModelNotReady: No log is known by which to judge, until `until`.
        """
        tracker = self._tracker
        parsed = [Token.parse(text) for text in tokens]
        while tracker.head.identity is None and not await self._request_head(until):
            # The command server may be reached a moment later, as at a start.
            if tracker.now >= until or tracker.is_closed:
                raise ReadModelNotReady(projection=projections[0].name)
            await tracker.wait_applied((), 0, min(until, tracker.now + _RETRY_SECONDS), head=True)
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
        moment = tracker.now - staleness
        requested = False
        while (position := tracker.head.position_since(moment)) is None:
            head = tracker.head.known_position
            if (refusal := hopeless(tracker, tracked, head)) is not None:
                raise refusal
            if not requested:
                requested = True
                await self._request_head(until)
            elif tracker.now >= until or tracker.is_closed:
                raise behind(tracker, tracked, max(head, tracked.progress.applied))
            else:  # The command server cannot be reached.
                await tracker.wait_applied((tracked,), 0, until, head=True)
        return position

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
        self._tracker.on_head(report.position, report.identity, began_at)
        return True
