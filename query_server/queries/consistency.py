"""Consistency of queries: the freshness that a request requires, and the token of a refusal."""

from __future__ import annotations

from typing import Any, NamedTuple

from diptych.contract.reasons import (
    ReadModelNotReady,
    TokenAheadOfLog,
    TokenMalformed,
    TokenOfAnotherLog,
    TokenOfOlderEpoch,
)
from diptych.domain.refusal import Refusal
from diptych.server.request_context import RequestContext
from query_server.freshness.fresh_read import absent
from query_server.freshness.tracked_projection import TrackedProjection
from query_server.freshness.tracker import FreshnessTracker

_TOKEN_REFUSALS = (TokenMalformed, TokenOfAnotherLog, TokenOfOlderEpoch, TokenAheadOfLog)


class Requirement(NamedTuple):
    """Required freshness of an answer: at least as fresh as tokens, or at most `staleness` seconds old."""

    tokens: tuple[str, ...]
    staleness: float | None


def requirement(request: Any, context: RequestContext) -> Requirement | None:
    """Return the requirement of a query: its field `consistency`, or else the tokens in its metadata; None: nothing."""
    if request.HasField("consistency"):
        consistency = request.consistency
        match consistency.WhichOneof("requirement"):
            case "minimize_latency":
                return None
            case "at_least_as_fresh":
                return Requirement((consistency.at_least_as_fresh,), None)
            case "max_staleness":
                limit = consistency.max_staleness
                return Requirement((), limit.seconds + limit.nanos / 1e9)
            case _:
                pass
    return requirement_of_metadata(context)


def requirement_of_metadata(context: RequestContext) -> Requirement | None:
    """Return the requirement of a query without the field `consistency`."""
    tokens = context.presented_tokens
    return Requirement(tokens, None) if tokens else None


def refuse(
    refusal: Refusal,
    context: RequestContext,
    tracker: FreshnessTracker,
    tracked: TrackedProjection | None,
    presented: str,
) -> Refusal:
    """Set the token of a refusal's trailer: the greater of the presented one and the shown position.

    A token that the handler has set already stays. A presented token that is not acceptable is left out: a caller
    that keeps the greatest token it is answered with would never get rid of it.

    Args:
        refusal: The refusal.
        context: The call.
        tracker: The freshness tracker.
        tracked: The projection that was read; None: all, of which the lowest position counts.
        presented: The greatest token that the caller presented; empty without one.

    Returns:
        The refusal to raise: a more precise one if the projection has no generation to read.
    """
    if isinstance(refusal, ReadModelNotReady) and (missing := tracker.projections.get(refusal.projection)) is not None:
        refusal = absent(tracker, missing)
    if isinstance(refusal, _TOKEN_REFUSALS):
        presented = ""
    projections = tracker.projections.values() if tracked is None else (tracked,)
    position = min((one.progress.shown for one in projections), default=0)
    context.token = context.token or max(presented, tracker.head.token(position))
    return refusal
