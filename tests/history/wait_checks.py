"""Checks of waits and refusals: each outcome is true and comes in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diptych.v1.read_model_pb2 import WaitOutcome
from tests.history.case import (
    HONEST_READ,
    REACHED,
    TIMED_OUT,
    Case,
    check,
    describe,
    required_position,
)
from tests.history.model import position_of
from tests.history.records import Refused, Wait, WriteStatus

_SLACK_SECONDS = 0.02
"""Seconds by which a time-out may come before the contract allows it, as clocks and timers are not exact."""


@check
def waits_do_not_lie(case: Case) -> Iterator[str]:
    """Check that REACHED means applied, and that TIMED_OUT comes on time and not for an applied version."""
    for wait in case.history.waits:
        name = f"{wait.client} waited on {wait.server} for {wait.view or 'all'} at {wait.began:.3f}"
        took, required = wait.ended - wait.began, required_position(case, wait)
        if wait.refused is not None:
            yield from (f"{name}: {problem}" for problem in _refused_wrongly(case, wait.refused, frozenset()))
        elif wait.outcome == REACHED:
            if wait.applied < required:
                yield f"{name}: REACHED {required} at {wait.applied}"
            if position_of(wait.progress_token) != wait.applied or wait.head < wait.applied:
                yield f"{name}: {wait.applied} applied, {wait.head} the head, token {position_of(wait.progress_token)}"
            if wait.stream and not required:
                yield f"{name}: REACHED {wait.stream} version {wait.version}, which is not in the log"
        elif wait.outcome == TIMED_OUT:
            if took < _least(wait.timeout):
                yield f"{name}: TIMED_OUT after {took:.3f} s of {wait.timeout} s"
            if wait.token and wait.applied >= required:
                yield f"{name}: TIMED_OUT for {required} with {wait.applied} applied"
            if shown := _shown_before(case, wait.server, _projections(case, wait), required, wait.began, wait.ended):
                yield f"{name}: TIMED_OUT for {required}, which {shown}"
        elif wait.outcome not in case.outcomes:
            yield f"{name}: {WaitOutcome.Name(wait.outcome)}, for which there was no cause"


@check
def refusals_do_not_lie(case: Case) -> Iterator[str]:
    """Check that a read is refused for a true reason only, and not before its time."""
    for read in case.history.reads:
        refused = read.refused
        if refused is None:
            continue
        name = describe(read)
        for problem in _refused_wrongly(case, refused, HONEST_READ):
            yield f"{name}: {problem}"
        if refused.reason == "READ_MODEL_BEHIND":
            applied, required = int(refused.metadata["applied_position"]), int(refused.metadata["wanted_position"])
            if applied >= required:
                yield f"{name}: READ_MODEL_BEHIND at {applied}, which includes {required}"
            if read.presented and required != position_of(read.presented):
                yield f"{name}: READ_MODEL_BEHIND {required}, and {position_of(read.presented)} was presented"
            if read.timeout and read.ended - read.began < _least(read.timeout):
                yield f"{name}: READ_MODEL_BEHIND after {read.ended - read.began:.3f} s of {read.timeout} s"
            projection = case.truth.projection_of[read.view]
            if shown := _shown_before(case, read.server, [projection], required, read.began, read.ended):
                yield f"{name}: READ_MODEL_BEHIND {required}, which {shown}"


@check
def writes_are_refused_in_our_words(case: Case) -> Iterator[str]:
    """Check that a refusal of a command has a reason of ours, and is not UNKNOWN or INTERNAL."""
    for write in case.history.writes:
        if write.status is WriteStatus.REFUSED and not write.reason:
            yield f"{write.request_id} was refused with {write.code} and no reason"
        if write.reason == "INTERNAL":
            yield f"{write.request_id} ({type(write.command).__name__}) was refused with INTERNAL"


def _refused_wrongly(case: Case, refused: Refused, honest: frozenset[str]) -> Iterator[str]:
    reason = refused.reason
    if reason and reason not in honest and reason not in case.refusals and reason != "READ_MODEL_NOT_READY":
        yield f"refused with {refused.code} {reason}, for which there was no cause"


def _shown_before(
    case: Case, server: str, projections: Sequence[str], required: int, began: float, ended: float
) -> str:
    """Return the read or wait by which a server had shown a position before `began`, if no fault came since."""
    if len(projections) != 1 or not required:
        return ""
    for read in case.history.reads:
        if (
            read.server == server
            and read.refused is None
            and case.truth.projection_of[read.view] == projections[0]
            and read.ended < began
            and position_of(read.trailer) >= required
            and not any(fault.began <= ended and fault.ended >= read.began for fault in case.history.faults)
        ):
            return f"{server} had answered at {position_of(read.trailer)} at {read.ended:.3f}"
    return ""


def _projections(case: Case, wait: Wait) -> list[str]:
    if wait.view:
        return [case.truth.projection_of[wait.view]]
    return sorted(set(case.truth.projection_of.values()))


def _least(timeout: float) -> float:
    return timeout - max(0.005, min(0.25, timeout * 0.05)) - _SLACK_SECONDS
