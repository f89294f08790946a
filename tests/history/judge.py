"""Judge of a recorded history: finds the promises that were broken. It does no I/O.

Each check is a function of a `Case` that yields findings. No check relies on another one. `judge` runs all of them. The
promises are in the design (section 5) and in the contract under "Rules".
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

from google.protobuf.message import Message

from diptych.domain.domain import Domain
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.read_model_pb2 import WaitOutcome
from tests.history.model import FOREVER, Truth, overlap, position_of, stream_of
from tests.history.records import FrameKind, History, Read, Refused, Stored, Wait, Write, WriteStatus
from tests.history.watching import Replay

REACHED = WaitOutcome.WAIT_OUTCOME_REACHED
TIMED_OUT = WaitOutcome.WAIT_OUTCOME_TIMED_OUT

_SLACK_SECONDS = 0.02
"""Seconds by which a time-out may come before the contract allows it, as clocks and timers are not exact."""

_HONEST_READ = frozenset({"READ_MODEL_BEHIND", "READ_MODEL_NOT_READY", "OVERLOADED"})
"""Reasons for which any read may be refused. gRPC itself refuses without a reason."""


class Finding(NamedTuple):
    """A broken promise."""

    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.text}"


class Effects(Protocol):
    """Effects of a domain's commands, as far as a client can see them in the log."""

    def wrong(self, command: Message, events: Sequence[RecordedEvent]) -> str:
        """Return the reason why an accepted command cannot have recorded these events; empty if it can."""
        ...

    def broken_rules(self, log: Sequence[RecordedEvent]) -> Iterable[str]:
        """Yield the domain's rules that a log breaks, and that no decision on true states could break."""
        ...


class Case:
    """A history and the domain to judge it by.

    `refusals`, `outcomes` and `resets` are allowed by the faults of the run, such as READ_MODEL_PAUSED after a pause.
    """

    def __init__(
        self,
        history: History,
        domain: Domain,
        effects: Effects,
        *,
        refusals: frozenset[str] = frozenset(),
        outcomes: frozenset[WaitOutcome] = frozenset(),
        resets: frozenset[str] = frozenset(),
    ) -> None:
        self.history = history
        self.effects = effects
        self.truth = Truth(domain, history.log)
        self.refusals = refusals
        self.outcomes = outcomes
        self.resets = resets
        self.attempts: dict[str, list[Write]] = defaultdict(list)
        for write in history.writes:
            self.attempts[write.request_id].append(write)

    @cached_property
    def _begun(self) -> list[float]:
        """For each position, the time of the first command that can have recorded it or an earlier one; ascending."""
        begun: list[float] = []
        latest = float("-inf")
        for event in self.history.log:
            attempts = self.attempts.get(event.metadata.request_id)
            if attempts:
                latest = max(latest, min(write.began for write in attempts))
            begun.append(latest)
        return begun

    def possible_head(self, at: float) -> int:
        """Return the greatest position that can have been recorded at a time."""
        return bisect_left(self._begun, at)


Check = Callable[[Case], Iterator[str]]
_checks: dict[str, Check] = {}


def _check(check: Check) -> Check:
    _checks[check.__name__] = check
    return check


def judge(case: Case) -> list[Finding]:
    """Return every broken promise."""
    return [Finding(name, text) for name, check in _checks.items() for text in check(case)]


def check_names() -> list[str]:
    """Return the names of all checks."""
    return list(_checks)


# The log.


@_check
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


@_check
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


@_check
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


@_check
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


@_check
def refused_takes_no_effect(case: Case) -> Iterator[str]:
    """Check that a command that was refused each time is not in the log."""
    for request_id, attempts in case.attempts.items():
        events = case.truth.by_request.get(request_id)
        if events and all(one.status is WriteStatus.REFUSED for one in attempts):
            yield (
                f"request {request_id} was refused ({attempts[-1].code} {attempts[-1].reason}), and is in the log at "
                f"{[event.position for event in events]}"
            )


@_check
def expected_versions_are_kept(case: Case) -> Iterator[str]:
    """Check that a command with an expected version was decided on that version."""
    for write in case.history.writes:
        events = case.truth.by_request.get(write.request_id)
        if write.expected_version is not None and events and events[0].version != write.expected_version + 1:
            yield f"{write.request_id} expected version {write.expected_version} and made version {events[0].version}"


@_check
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


@_check
def rules_of_the_domain(case: Case) -> Iterator[str]:
    """Check that no event contradicts earlier ones, so every decision was made on the true state."""
    yield from case.effects.broken_rules(case.history.log)
    yield from case.truth.unfolded


# Reads.


def _describe(read: Read) -> str:
    keys = list(read.rows)
    what = "all rows" if read.whole else ", ".join(keys[:3])
    return f"{read.client} read {read.view} {what} on {read.server} at {read.began:.3f}"


@_check
def reads_are_cuts(case: Case) -> Iterator[str]:
    """Check that an answer is the view at one position, not before the presented and the trailer's token.

    A read with the token of a write therefore includes it, and no answer includes a command that was sent later.
    """
    for read in case.history.reads:
        if read.refused is not None:
            continue
        required = max(position_of(read.presented), position_of(read.trailer))
        head = case.possible_head(read.ended)
        spans = [(0, FOREVER)]
        rows = dict(read.rows)
        if read.whole:
            rows |= dict.fromkeys(case.truth.keys(read.view) - rows.keys())
        for key, content in rows.items():
            its = case.truth.spans(read.view, key, content)
            if not its:
                yield f"{_describe(read)}: row {key} was never like that"
            elif its[-1][1] < required:
                yield f"{_describe(read)} as of {required}: row {key} is stale, it was like that until {its[-1][1]}"
            elif its[0][0] > head:
                yield f"{_describe(read)}: row {key} is as of {its[0][0]}, and at most {head} were recorded then"
            spans = overlap(spans, its)
        if not overlap(spans, [(required, head)]) and required <= head:
            yield f"{_describe(read)}: the rows are of no one position from {required} to {head}"


@_check
def tokens_tell_the_truth(case: Case) -> Iterator[str]:
    """Check that no token is beyond the greatest possible head, or below the presented token."""
    reads: list[Read | Wait] = [*case.history.reads, *case.history.waits]
    for call in reads:
        presented = call.presented if isinstance(call, Read) else call.token
        head = case.possible_head(call.ended)
        for token in (call.trailer, *([call.progress_token] if isinstance(call, Wait) else [])):
            if token and position_of(token) > max(head, position_of(presented)):
                yield f"{call.client} on {call.server} was told token {position_of(token)}, and the head was {head}"
        if call.refused is not None and not call.refused.reason:
            continue  # gRPC itself answered.
        # A refusal names the position of its decision. Only some reasons allow one before the required position.
        if call.trailer < presented:
            yield (
                f"{call.client} on {call.server} presented {position_of(presented)} and was answered with "
                f"{position_of(call.trailer)}"
            )


@_check
def writes_are_read(case: Case) -> Iterator[str]:
    """Check by clients' records alone that a read with the token of a write includes it or a later version."""
    written: dict[str, list[Write]] = defaultdict(list)
    for write in case.history.writes:
        if write.status is WriteStatus.ACKNOWLEDGED:
            written[write.stream].append(write)
    streams = _streams_of_rows(case)
    for read in case.history.reads:
        if read.refused is not None or not read.presented:
            continue
        for key, content in read.rows.items():
            stream = streams.get(read.view)
            for write in written.get(f"{stream}/{key}", ()):
                if write.token <= read.presented:
                    version = _version(case, read.view, content)
                    if version is not None and version < write.version:
                        yield f"{_describe(read)} with the token of version {write.version}, and got version {version}"
                        break


@_check
def reads_do_not_go_back(case: Case) -> Iterator[str]:
    """Check that a client that carries its token never reads an earlier version of a row than before."""
    streams = _streams_of_rows(case)
    seen: dict[tuple[str, str, str], list[tuple[str, int]]] = defaultdict(list)
    for read in sorted(case.history.reads, key=lambda read: read.began):
        if read.refused is not None or read.view not in streams:
            continue
        for key, content in read.rows.items():
            version = _version(case, read.view, content)
            if version is None:
                continue
            earlier = [v for token, v in seen[read.client, read.view, key] if token and token <= read.presented]
            if earlier and version < max(earlier):
                yield f"{_describe(read)}: version {version} after version {max(earlier)}"
            seen[read.client, read.view, key].append((read.trailer, version))


@_check
def reached_is_readable(case: Case) -> Iterator[str]:
    """Check that a plain read on the same server after REACHED includes the awaited version."""
    reached: dict[str, list[Wait]] = defaultdict(list)
    for wait in case.history.waits:
        if wait.outcome == REACHED:
            reached[wait.server].append(wait)
    for read in case.history.reads:
        if read.refused is not None:
            continue
        projection = case.truth.projection_of[read.view]
        required = 0
        for wait in reached[read.server]:
            same = not wait.view or case.truth.projection_of[wait.view] == projection
            if same and wait.ended < read.began:
                required = max(required, _required(case, wait))
        for key, content in read.rows.items():
            its = case.truth.spans(read.view, key, content)
            if its and its[-1][1] < required:
                yield f"{_describe(read)}: row {key} is as of {its[-1][1]} at most, after REACHED for {required}"


# Verdicts.


@_check
def waits_do_not_lie(case: Case) -> Iterator[str]:
    """Check that REACHED means applied, and that TIMED_OUT comes on time and not for an applied version."""
    for wait in case.history.waits:
        name = f"{wait.client} waited on {wait.server} for {wait.view or 'all'} at {wait.began:.3f}"
        took, required = wait.ended - wait.began, _required(case, wait)
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


@_check
def refusals_do_not_lie(case: Case) -> Iterator[str]:
    """Check that a read is refused for a true reason only, and not before its time."""
    for read in case.history.reads:
        refused = read.refused
        if refused is None:
            continue
        name = _describe(read)
        for problem in _refused_wrongly(case, refused, _HONEST_READ):
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


@_check
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


def _required(case: Case, wait: Wait) -> int:
    if wait.token:
        return position_of(wait.token)
    events = case.truth.by_stream.get(wait.stream, [])
    return events[wait.version - 1].position if wait.version <= len(events) else 0


def _least(timeout: float) -> float:
    return timeout - max(0.005, min(0.25, timeout * 0.05)) - _SLACK_SECONDS


# Watches.


@_check
def watches_are_ordered(case: Case) -> Iterator[str]:
    """Check that a snapshot is ordered by key, changes by position, and rows after a cut are later than the cut."""
    for watched in case.history.watched:
        replay = Replay(case.truth, watched)
        for frame in watched.frames:
            yield from (f"{watched.client} watching {watched.view}: {text}" for text in replay.misordered(frame))
            replay.take(frame)


@_check
def watches_tell_once(case: Case) -> Iterator[str]:
    """Check that a watch sends a row at a position once."""
    for watched in case.history.watched:
        replay = Replay(case.truth, watched)
        for frame in watched.frames:
            seen = set(replay.row_changes)
            for key, position, _ in frame.rows:
                if (key, position) in seen:
                    yield f"{watched.client} watching {watched.view} was told row {key} at {position} twice"
                seen.add((key, position))
            replay.take(frame)


@_check
def watches_tell_the_truth(case: Case) -> Iterator[str]:
    """Check that a watch sends the row of its position, and watched rows only."""
    for watched in case.history.watched:
        for frame in watched.frames:
            for key, position, content in frame.rows:
                name = f"{watched.client} watching {watched.view} was told row {key} at {position}"
                change = case.truth.change(watched.view, key, position)
                if watched.keys is not None and key not in watched.keys:
                    yield f"{name}, which it did not ask for"
                if change is None or change[1] != position:
                    yield f"{name}, which did not change there"
                elif change[2] != content:
                    yield f"{name} with another content than it had"


@_check
def watches_are_cuts(case: Case) -> Iterator[str]:
    """Check that all rows up to a resume token are the view at one position; for a progress frame, at its position."""
    for watched in case.history.watched:
        replay = Replay(case.truth, watched)
        for frame in watched.frames:
            replay.take(frame)
            if problem := replay.no_cut(frame, case.possible_head(frame.at)):
                yield f"{watched.client} watching {watched.view} on {replay.server} at {frame.at:.3f}: {problem}"


@_check
def watches_come_to_the_end(case: Case) -> Iterator[str]:
    """Check that a watcher has the view's final rows after the faults."""
    for watched in case.history.watched:
        replay = Replay(case.truth, watched)
        for frame in watched.frames:
            replay.take(frame)
        if wrong := replay.differing(case.truth.head):
            yield f"{watched.client} watching {watched.view} does not know the last of {wrong[:5]}"


@_check
def watches_begin_anew_for_a_cause(case: Case) -> Iterator[str]:
    """Check that resets and refusals have a cause, and `caught_up` comes once after each connection and reset."""
    for watched in case.history.watched:
        caught_up = False
        for frame in watched.frames:
            name = f"{watched.client} watching {watched.view} at {frame.at:.3f}"
            if frame.kind is FrameKind.RESET and frame.reason not in case.resets:
                yield f"{name}: {frame.reason}, for which there was no cause"
            elif frame.kind is FrameKind.REFUSED and frame.reason not in case.refusals | _HONEST_READ:
                yield f"{name}: refused with {frame.reason}, for which there was no cause"
            elif frame.kind is FrameKind.CAUGHT_UP and caught_up:
                yield f"{name}: caught up once more"
            if frame.kind is FrameKind.CAUGHT_UP:
                caught_up = True
            elif frame.kind in (FrameKind.RESET, FrameKind.OPENED):
                caught_up = False


# What is stored.


@_check
def views_equal_the_fold(case: Case) -> Iterator[str]:
    """Check that rows and checkpoint of one transaction in the read store are the fold of the log."""
    for stored in case.history.stored:
        yield from _compare(case, stored)


@_check
def everything_is_applied_in_the_end(case: Case) -> Iterator[str]:
    """Check that every projection is at the head of the log after the faults."""
    for projection, position in case.history.final.items():
        if position != case.truth.head:
            yield f"{projection} is at {position}, and the log at {case.truth.head}"


@_check
def checkpoints_go_forward(case: Case) -> Iterator[str]:
    """Check that the checkpoint of the active generation never decreases, over all generations."""
    before: dict[str, Stored] = {}
    for stored in sorted(case.history.stored, key=lambda stored: stored.taken):
        last = before.get(stored.projection, stored)
        if stored.position < last.position:
            yield (
                f"{stored.projection} went from {last.position} of generation {last.generation} back to "
                f"{stored.position} of generation {stored.generation}"
            )
        before[stored.projection] = stored


def _compare(case: Case, stored: Stored) -> Iterator[str]:
    truth = case.truth
    where = f"{stored.projection} generation {stored.generation} at {stored.position}"
    if stored.position > truth.head:
        yield f"{where}: the log ends at {truth.head}"
        return
    event_id = truth.log[stored.position - 1].event_id if stored.position else ""
    if stored.event_id != event_id:
        yield f"{where}: the checkpoint names event {stored.event_id}, and there is {event_id}"
    for view, rows in stored.rows.items():
        for key in sorted(truth.keys(view) | rows.keys()):
            expected, row = truth.change(view, key, stored.position), rows.get(key)
            found = None if row is None else (key, row.position, row.content, *row.columns)
            if found != expected:
                yield f"{where}: row {key} of {view} is {_shortly(found)}, and the fold gives {_shortly(expected)}"


def _shortly(row: tuple[object, ...] | None) -> str:
    if row is None:
        return "not there"
    content = row[2]
    shape = f"{len(content)} bytes" if isinstance(content, bytes) else "deleted"
    return f"({shape} of {row[1]}, columns {row[3:]})"


# Rows that stand for aggregates.


def _streams_of_rows(case: Case) -> Mapping[str, str]:
    """Return the views whose rows are one aggregate each, with its id and version: the aggregate's type by view."""
    found: dict[str, str] = {}
    types = {event.aggregate.type for event in case.history.log}
    for name, view in case.truth.domain.views.items():
        if "version" in view.row.DESCRIPTOR.fields_by_name:
            for kind in types:
                if f"{kind}_id" in view.row.DESCRIPTOR.fields_by_name and name in (f"{kind}s", f"{kind}_summaries"):
                    found[name] = kind
    return found


def _version(case: Case, view: str, content: bytes | None) -> int | None:
    if content is None:
        return 0
    row = case.truth.domain.views[view].row.FromString(content)
    version: int | None = getattr(row, "version", None)
    return version
