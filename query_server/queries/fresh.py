"""Fresh answers: the position that a query requires, and the reads and cached rows that include it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from diptych.contract.reasons import ReadModelBehind
from diptych.domain.refusal import FailedPrecondition, Refusal
from diptych.server.request_context import RequestContext
from query_server.cache.cache import Cache
from query_server.freshness.fresh_read import FreshReads, Read
from query_server.freshness.token_judge import TokenJudge
from query_server.freshness.tracked_projection import TrackedProjection
from query_server.freshness.tracker import FreshnessTracker
from query_server.queries.consistency import Requirement, refuse
from query_server.rows.row_source import RowSource

_TAKE_OVER_SECONDS = 1.0


class Reading(NamedTuple):
    """Parts that queries are answered from, and their limits."""

    source: RowSource
    tracker: FreshnessTracker
    tokens: TokenJudge
    fresh: FreshReads
    cache: Cache
    wait_seconds: float
    """Wait of a call without a deadline, and limit of every list's read of the store, in seconds."""
    combined_rows_max: int
    """Rows that one combined query may read."""
    combined_bytes_max: int = 128 << 20
    """Bytes of those rows."""
    message_bytes_max: int = 4 << 20
    """Greatest size of a row or an answer without pages, as clients receive no larger messages by default."""


def required_position(
    requirement: Requirement | None, tracked: TrackedProjection, reading: Reading
) -> tuple[int | None, str]:
    """Return the position that an answer must include, and the presented token.

    The position is None if the command server has to report the head first.
    """
    if requirement is None:
        # Nothing older than what this server showed or acknowledged: after REACHED a plain read includes it.
        return tracked.progress.plain_required, ""
    if requirement.staleness is None:
        return reading.tokens.position_at_once(requirement.tokens, tracked), max(requirement.tokens)
    return reading.tracker.head.position_since(reading.tracker.now - requirement.staleness), ""


def may_be_cached(required: int | None, presented: str, tracked: TrackedProjection) -> bool:
    """Return True if cached rows can answer as far as the presented token's own event is concerned.

    The cache has no record of events that are left out, so the feed must have reported this one as applied.
    """
    return not presented or (required is not None and tracked.progress.feed_applied_own_event(required))


async def read_fresh(
    requirement: Requirement,
    required: int | None,
    presented: str,
    tracked: TrackedProjection,
    context: RequestContext,
    reading: Reading,
    read: Callable[[], Awaitable[Read]],
    cached: Callable[[int], tuple[Read, int] | None],
) -> tuple[Read, int]:
    """Read as freshly as required; return the read and the position that it is answered at.

    Cancelling it cancels the read, or removes the wait.

    Args:
        requirement: What the query requires.
        required: The position of the requirement; None: not known yet.
        presented: The presented token; empty without one.
        tracked: The projection that is read.
        context: The call, whose deadline limits the wait.
        reading: What queries are answered from.
        read: Reads the store.
        cached: Returns an answer from memory that includes a position, or None.

    Raises:
        Refusal: The position cannot be included in time, or a token is not acceptable.
    """
    own = requirement.staleness is None

    def cached_with_own_event(position: int) -> tuple[Read, int] | None:
        return cached(position) if not own or tracked.progress.feed_applied_own_event(position) else None

    until = reading.tracker.now + context.wait_seconds(reading.wait_seconds)

    async def judge() -> int:
        if requirement.staleness is None:
            position, _ = await reading.tokens.position_of(requirement.tokens, (tracked,), until)
            return position
        return await reading.tokens.position_within(tracked, requirement.staleness, until)

    if required is None:
        required = await judge()
        if (answer := cached_with_own_event(required)) is not None:
            return answer
    try:
        return await reading.fresh.read(tracked, required, until, read, cached_with_own_event, own=own, judge=judge)
    except Refusal as refusal:
        raise refuse(refusal, context, reading.tracker, tracked, presented) from None


async def read_plain(
    required: int, tracked: TrackedProjection, reading: Reading, read: Callable[[], Awaitable[Read]]
) -> tuple[Read, int]:
    """Read without a requirement, but nothing older than `required`; return the read and its position.

    After a switch the new generation may be behind for a moment. It is waited for up to a second.
    """
    result = await read()
    position = tracked.progress.includes(result.generation, result.position)
    if position > required:
        reading.tracker.on_read(tracked, result.generation, result.position)
    elif position < required:
        until = reading.tracker.now + _TAKE_OVER_SECONDS
        with suppress(ReadModelBehind, FailedPrecondition):
            return await reading.fresh.read(tracked, required, until, read)
    return result, position
