"""Checks of the log: positions, subscribers, acknowledgements, refusals and order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from tests.history.case import (
    Case,
    check,
)
from tests.history.model import position_of, stream_of
from tests.history.records import WriteStatus


@check
def gap_free_order(case: Case) -> Iterator[str]:
    """Check that positions are 1..N, versions 1..n in every stream, and event ids unique."""
    versions: dict[str, int] = {}
    ids: dict[str, int] = {}
    for expected, event in enumerate(case.history.log, 1):
        if event.position != expected:
            yield f"after position {expected - 1} comes {event.position}"
        stream = stream_of(event)
        if event.version != versions.get(stream, 0) + 1:
            yield f"{stream} goes from version {versions.get(stream, 0)} to {event.version} at {event.position}"
        versions[stream] = event.version
        if event.event_id in ids:
            yield f"positions {ids[event.event_id]} and {event.position} are the same event {event.event_id}"
        ids[event.event_id] = event.position


@check
def subscribers_saw_the_log(case: Case) -> Iterator[str]:
    """Check that each subscriber received every matching event of the log once and in order, and no other event."""
    ids = [event.event_id for event in case.history.log]
    names = [event.event.type_url.rpartition("/")[2] for event in case.history.log]
    for one in case.history.followed:
        last = one.after
        for position, event_id in one.events:
            if position <= last:
                yield f"{one.client} was sent position {position} after {last}"
            missed = [
                place
                for place in range(last + 1, min(position, len(ids) + 1))
                if not one.types or names[place - 1] in one.types
            ]
            if missed:
                yield f"{one.client} was sent position {position} after {last}, and never {missed[:5]}"
            if position > len(ids) or ids[position - 1] != event_id:
                yield f"{one.client} was sent event {event_id} at {position}, which is not there in the log"
            last = max(last, position)


@check
def acknowledged_is_durable(case: Case) -> Iterator[str]:
    """Check that every acknowledged command is in the log with the acknowledged version and token."""
    by_request, log = case.truth.by_request, case.history.log
    for write in case.history.writes:
        if write.status is not WriteStatus.ACKNOWLEDGED:
            continue
        place, name = position_of(write.token), f"{type(write.command).__name__} {write.request_id}"
        if place > len(log) or place < 1:
            yield f"{name} was acknowledged at position {place}, and the log ends at {len(log)}"
            continue
        events = by_request.get(write.request_id, [])
        if problem := case.effects.wrong(write.command, events):
            yield f"{name} was acknowledged, and {problem}"
        if events:
            last = events[-1]
            if (last.position, last.version, stream_of(last)) != (place, write.version, write.stream):
                yield (
                    f"{name} was acknowledged as {write.stream} version {write.version} at {place}, and recorded as "
                    f"{stream_of(last)} version {last.version} at {last.position}"
                )
        else:
            # Its aggregate was in the demanded state already; the token is that of the event that caused the state.
            there = log[place - 1]
            if (there.version, stream_of(there)) != (write.version, write.stream):
                yield (
                    f"{name} recorded nothing and was acknowledged as {write.stream} version {write.version} at "
                    f"{place}, where {stream_of(there)} version {there.version} is"
                )


@check
def effects_are_taken_once(case: Case) -> Iterator[str]:
    """Check that a request id has at most one effect, and that all its acknowledgements agree."""
    for request_id, events in case.truth.by_request.items():
        attempts = case.attempts.get(request_id)
        if attempts is None:
            yield f"events at {[event.position for event in events]} are of request {request_id}, which nobody sent"
        elif problem := case.effects.wrong(attempts[0].command, events):
            yield f"request {request_id} of {len(attempts)} sendings: {problem}"
    for request_id, attempts in case.attempts.items():
        answers = {(one.version, one.token) for one in attempts if one.status is WriteStatus.ACKNOWLEDGED}
        if len(answers) > 1:
            yield f"request {request_id} was acknowledged differently: {sorted(answers)}"
        firsts = [one for one in attempts if one.status is WriteStatus.ACKNOWLEDGED and not one.duplicate]
        if len(firsts) > 1:
            yield f"request {request_id} was acknowledged {len(firsts)} times as no duplicate"
        if len(attempts) == 1 and attempts[0].duplicate and not attempts[0].repeated:
            yield f"request {request_id} was sent once, and acknowledged as a duplicate"


@check
def refused_takes_no_effect(case: Case) -> Iterator[str]:
    """Check that a command that was refused each time is not in the log."""
    for request_id, attempts in case.attempts.items():
        events = case.truth.by_request.get(request_id)
        if events and all(one.status is WriteStatus.REFUSED for one in attempts):
            yield (
                f"request {request_id} was refused ({attempts[-1].code} {attempts[-1].reason}), and is in the log at "
                f"{[event.position for event in events]}"
            )


@check
def expected_versions_are_kept(case: Case) -> Iterator[str]:
    """Check that a command with an expected version was decided on that version."""
    for write in case.history.writes:
        events = case.truth.by_request.get(write.request_id)
        if write.expected_version is not None and events and events[0].version != write.expected_version + 1:
            yield f"{write.request_id} expected version {write.expected_version} and made version {events[0].version}"


@check
def order_follows_time(case: Case) -> Iterator[str]:
    """Check that a command sent after an acknowledgement follows the acknowledged one in the log."""
    acknowledged = sorted(
        (write.ended, position_of(write.token), write.request_id)
        for write in case.history.writes
        if write.status is WriteStatus.ACKNOWLEDGED
    )
    greatest: list[tuple[int, str]] = []
    for _, position, request_id in acknowledged:
        greatest.append(max((position, request_id), greatest[-1] if greatest else (0, "")))
    times = [ended for ended, _, _ in acknowledged]
    for request_id, attempts in case.attempts.items():
        events = case.truth.by_request.get(request_id)
        before = bisect_left(times, min(one.began for one in attempts))
        if events and before and greatest[before - 1][0] >= events[0].position:
            yield (
                f"request {request_id} was sent after {greatest[before - 1][1]} was acknowledged at "
                f"{greatest[before - 1][0]}, and was recorded at {events[0].position}"
            )


@check
def rules_of_the_domain(case: Case) -> Iterator[str]:
    """Check that no event contradicts earlier ones, so every decision was made on the true state."""
    yield from case.effects.broken_rules(case.history.log)
    yield from case.truth.unfolded
