"""The batch: commands that are decided together and recorded in one commit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from command_server.catalogue import Catalogue
from command_server.event_ids import EventIds
from command_server.state_cache import StateCache
from command_server.store.records import (
    Committed,
    Decided,
    Loaded,
    NewEvent,
    ParkedKey,
    Reads,
    Request,
    Snapshot,
    StreamHead,
    Work,
    WorkKey,
    WorkKind,
)
from command_server.stream_overlay import OverlaidStream, StreamOverlay
from command_server.submission import Accepted, Submission
from command_server.unique_values import UniqueClaims
from diptych.contract.reasons import RequestIdReused, VersionConflict
from diptych.contract.wire import delimited
from diptych.domain.aggregate import AggregateRef, Deciding
from diptych.domain.refusal import Refusal
from diptych.domain.results import checked_events
from diptych.server.errors import internal_error
from diptych.v1.processes_pb2 import ProcessStepped


class Batch:
    """Commands that are decided together.

    1. `reads` names the streams and request ids to load; streams whose state is cached need no history.
    2. `decide` decides the commands in order, on an overlay: each sees the streams, request ids and unique values as
       the commands before it left them. A command that is refused or fails leaves nothing in the overlay.
    3. A request id that was accepted before gives its first outcome again, without a decision.
    4. Unique values whose holders were not looked up are taken for free. The store looks them up and calls `decide`
       again, which decides anew only if one of them is held.
    5. The store calls `decide` with a new `Loaded` if the batch lost a race; then every command is decided anew.
    6. `finish` caches the new states and replaces positions in the batch by positions in the log.

    `decide` is pure but for the outcomes in the submissions, which each call sets anew.
    """

    def __init__(
        self, submissions: Sequence[Submission], catalogue: Catalogue, cache: StateCache, now: datetime
    ) -> None:
        self._submissions = submissions
        self._catalogue = catalogue
        self._now = now
        stamp = Timestamp()
        stamp.FromDatetime(now)
        self._accepted_at = stamp.ToMicroseconds()
        self._record_time = delimited(5, stamp.SerializeToString())
        self._event_ids = EventIds(now)
        self._overlay = StreamOverlay(catalogue, cache)
        self._clear()

    def _clear(self) -> None:
        self._loaded_streams: Mapping[str, StreamHead] | None = None
        self._overlay.clear()
        self._uniques = UniqueClaims()
        self._events: list[NewEvent] = []
        self._requests: dict[str, Request] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._opened: list[Work] = []
        self._settled: list[WorkKey] = []
        self._unparked: list[ParkedKey] = []

    def reads(self) -> Reads:
        """Return the streams and request ids to load before the batch can be decided."""
        for submission in self._submissions:
            self._overlay.pin((submission.stream, *map(str, submission.reads)))
        return Reads(
            self._overlay.cached_versions(),
            self._catalogue.shapes,
            {submission.request_key for submission in self._submissions if submission.request_key},
        )

    def decide(self, loaded: Loaded) -> Decided:
        """Decide every command, in order, and return what to record."""
        if self._loaded_streams is loaded.streams and not any(map(loaded.holders.get, self._uniques.lookups)):
            return self._decided(())
        self._clear()
        self._loaded_streams = loaded.streams
        for submission in self._submissions:
            submission.accepted = submission.refusal = None
            try:
                self._decide_one(submission, loaded)
            except Refusal as refusal:
                submission.refusal = refusal
            except Exception as error:
                submission.refusal = internal_error(
                    error, submission.request_id, command=submission.command.DESCRIPTOR.full_name
                )
                submission.refusal.__cause__ = error
        return self._decided(self._uniques.lookups)

    def finish(self, committed: Committed) -> Mapping[str, int]:
        """Complete the outcomes and cache the new states; return the new version of each changed stream."""
        first = committed.first_position
        for submission in self._submissions:
            accepted = submission.accepted
            if accepted is not None:
                if accepted.position < 0:
                    submission.accepted = accepted._replace(position=first - 1 - accepted.position)
            elif submission.position < 0:
                submission.position = first - 1 - submission.position
        return self._overlay.cache()

    @property
    def event_types(self) -> list[str]:
        """Types of the events to record, in order."""
        return [event.type for event in self._events]

    def _decided(self, lookups: Collection[str]) -> Decided:
        return Decided(
            lookups,
            self._events,
            self._requests,
            self._uniques.claims,
            self._snapshots,
            self._opened,
            self._settled,
            self._unparked,
            self._accepted_at,
        )

    def _decide_one(self, submission: Submission, loaded: Loaded) -> None:
        submission.position = 0
        if submission.request_key:
            request = self._requests.get(submission.request_key) or loaded.requests.get(submission.request_key)
            if request is not None:
                self._repeat(submission, request)
                return
        overlay = self._overlay
        stream = overlay.get(submission.ref, submission.stream, loaded)
        submission.position = stream.position
        states = {submission.ref: (stream.state, stream.version)}
        for ref in submission.reads:
            other = overlay.get(ref, str(ref), loaded)
            submission.position = _later(submission.position, other.position)
            states[ref] = (other.state, other.version)
        expected = submission.expected_version
        if expected is not None and expected != stream.version:
            raise VersionConflict(aggregate=submission.stream, expected_version=expected, actual_version=stream.version)
        at = Deciding(
            id=submission.ref.id, version=stream.version, now=self._now, actor=submission.actor, states=states
        )
        decide = submission.binding.decide
        events = decide(stream.state, submission.command, at)
        if events.__class__ is not list or any(not isinstance(event, Message) for event in events):
            events = checked_events(f"The decider of {submission.command.DESCRIPTOR.full_name}", decide, events)
        if events:
            self._record(submission, stream, events, loaded)
            submission.position = stream.position
        submission.accepted = Accepted(submission.ref, stream.version, submission.position, False)
        self._close_work(submission)
        if submission.request_key:
            self._requests[submission.request_key] = Request(
                submission.digest, submission.stream, stream.version, submission.position
            )

    def _repeat(self, submission: Submission, request: Request) -> None:
        """Give the outcome of the accepted command with the same request id."""
        submission.position = request.position
        if request.digest != submission.digest:
            raise RequestIdReused(request_id=submission.request_id)
        kind, _, id = request.stream.partition("/")
        submission.accepted = Accepted(AggregateRef(kind, id), request.version, request.position, True)
        self._close_work(submission)

    def _close_work(self, submission: Submission) -> None:
        if submission.settles is not None:
            self._settled.append(submission.settles)
        if submission.unparks is not None:
            self._unparked.append(submission.unparks)

    def _record(
        self, submission: Submission, stream: OverlaidStream, events: Sequence[Message], loaded: Loaded
    ) -> None:
        aggregate = submission.binding.aggregate
        state = stream.state
        version = stream.version
        event_bytes = 0
        new: list[NewEvent] = []
        for event in events:
            state = aggregate.evolve(state, event)
            version += 1
            kind = event.DESCRIPTOR.full_name
            payload = event.SerializeToString(deterministic=True)
            event_bytes += len(payload)
            body = self._catalogue.templates[aggregate.type, kind].body(
                submission.ref.id,
                version,
                self._event_ids.next(),
                self._record_time,
                payload,
                submission.metadata,
            )
            new.append(NewEvent(submission.stream, version, kind, body))
        snapshot = None
        every = self._catalogue.snapshot_events
        if version // every > stream.version // every:
            codec = self._catalogue.codecs[aggregate.type]
            snapshot = Snapshot(version, codec.shape, codec.encode(state))
        if aggregate.uniques:
            self._uniques.claim(submission, stream.state, state, loaded.holders)
        # Nothing fails from here on: a command that fails leaves no trace in the batch.
        if snapshot is not None:
            self._snapshots[submission.stream] = snapshot
            stream.encoded_bytes, stream.event_bytes, event_bytes = len(snapshot.state), 0, 0
        first = events[0]
        if isinstance(first, ProcessStepped):
            self._opened.extend(_work(submission.ref, -1 - len(self._events), first))
        self._events.extend(new)
        stream.state = state
        stream.version = version
        stream.event_bytes += event_bytes
        stream.position = -len(self._events)


def _work(process: AggregateRef, position: int, step: ProcessStepped) -> Iterator[Work]:
    """Return the outputs of a step as open work."""
    for ordinal, output in enumerate(step.outputs):
        match output.WhichOneof("output"):
            case "command":
                yield Work(position, ordinal, *process, WorkKind.COMMAND, 0)
            case "call":
                yield Work(position, ordinal, *process, WorkKind.EFFECT, 0)
            case _:
                due = output.timeout.due_time.ToMicroseconds()
                yield Work(position, ordinal, *process, WorkKind.TIMEOUT, due)


def _later(one: int, other: int) -> int:
    """Return the later of two positions; positions in the batch are below zero and later than all others."""
    if one < 0 or other < 0:
        return min(one, other)
    return max(one, other)
