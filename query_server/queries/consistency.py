"""What all answers of a query server share: how fresh they must be, and the token that they tell."""

from __future__ import annotations

from typing import Any, NamedTuple

from diptych.contract.reasons import ReadModelNotReady
from diptych.contract.token import METADATA_KEY
from diptych.domain.refusal import Refusal
from diptych.server.router import Context
from query_server.freshness.tracker import Freshness, Tracker


class Requirement(NamedTuple):
    """How fresh an answer must be: at least as fresh as tokens, or at most so many seconds old."""

    tokens: tuple[str, ...]
    staleness: float | None


def presented_tokens(context: Context) -> tuple[str, ...]:
    """The tokens in a request's metadata."""
    return tuple([str(value) for name, value in context.invocation_metadata() or () if name == METADATA_KEY])


def requirement(request: Any, context: Context) -> Requirement | None:
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


def of_metadata(context: Context) -> Requirement | None:
    """What a query without the field `consistency` asks for."""
    tokens = presented_tokens(context)
    return Requirement(tokens, None) if tokens else None


def tell(refusal: Refusal, freshness: Freshness, tracker: Tracker | None, presented: str) -> Refusal:
    """Gives a refusal the token of its trailer: the greater of the one presented and what is applied."""
    if isinstance(refusal, ReadModelNotReady) and (missing := freshness.trackers.get(refusal.projection)) is not None:
        refusal = freshness.absent(missing)
    trackers = freshness.trackers.values() if tracker is None else (tracker,)
    position = min((one.position for one in trackers), default=0)
    return refusal if refusal.trailer_token else refusal.with_token(max(presented, freshness.token(position)))
