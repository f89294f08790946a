"""What all answers of a query server share: how fresh they must be, and the token that they tell."""

from __future__ import annotations

from typing import Any, NamedTuple

from diptych.contract.reasons import ReadModelNotReady
from diptych.domain.refusal import Refusal
from diptych.server.request_context import RequestContext
from query_server.freshness.tracker import Freshness, Tracker


class Requirement(NamedTuple):
    """How fresh an answer must be: at least as fresh as tokens, or at most so many seconds old."""

    tokens: tuple[str, ...]
    staleness: float | None


def requirement(request: Any, context: RequestContext) -> Requirement | None:
    """What a query asks for: its field `consistency`, or else the tokens in its metadata. None: nothing."""
    if request.HasField("consistency"):
        consistency = request.consistency
        match consistency.WhichOneof("requirement"):
            case "minimize_latency":
                return None
            case "at_least_as_fresh":
                return Requirement((consistency.at_least_as_fresh,), None)
            case "max_staleness":
                bound = consistency.max_staleness
                return Requirement((), bound.seconds + bound.nanos / 1e9)
            case _:
                pass
    return of_metadata(context)


def of_metadata(context: RequestContext) -> Requirement | None:
    """What a query without the field `consistency` asks for."""
    tokens = context.presented_tokens
    return Requirement(tokens, None) if tokens else None


def refuse(
    refusal: Refusal, context: RequestContext, freshness: Freshness, tracker: Tracker | None, presented: str
) -> Refusal:
    """Set the token of a refusal's trailer: the greater of the one presented and what is applied.

    A token that the handler has set already stays. Return the refusal to raise.
    """
    if isinstance(refusal, ReadModelNotReady) and (missing := freshness.trackers.get(refusal.projection)) is not None:
        refusal = freshness.absent(missing)
    trackers = freshness.trackers.values() if tracker is None else (tracker,)
    position = min((one.position for one in trackers), default=0)
    context.token = context.token or max(presented, freshness.token(position))
    return refusal
