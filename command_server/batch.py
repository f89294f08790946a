"""Batches: commands that are decided together and recorded in one commit.

`Batch.decide` is what the event store calls with everything that it read. It works on an overlay, so that each
command sees what those before it in the batch did; it is pure, as the store may call it again with more loaded.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from command_server.state_cache import StateCache
from command_server.store.records import (
    Committed,
    Decided,
    Loaded,
    NewEvent,
    Reads,
    Request,
    Snapshot,
    StreamHead,
    Work,
    WorkKey,
    WorkKind,
)
from command_server.submission import Accepted, Submission
from diptych.contract.frames import EventTemplate, recorded
from diptych.contract.reasons import InvalidRequest, RequestIdReused, VersionConflict
from diptych.contract.wire import delimited
from diptych.domain.aggregate import AggregateRef, Deciding
from diptych.domain.loading import LoadedDomain
from diptych.domain.refusal import Refusal
from diptych.server.errors import internal_error
from diptych.v1.processes_pb2 import ProcessStepped

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The digit of a UUID that says which kind of UUID it is, in its upper two bits."""


class Catalogue:
    """What is known of a domain's events before any command comes."""

    def __init__(self, domain: LoadedDomain, snapshot_events: int) -> None:
        self.aggregates = domain.domain.aggregates
        self.codecs = domain.codecs
        self.shapes = {name: codec.shape for name, codec in domain.codecs.items()}
        self.event_types = domain.event_types
        self.snapshot_events = snapshot_events
        self.templates = {
            (aggregate.type, event): EventTemplate(aggregate.type, event)
            for aggregate in domain.domain.aggregates.values()
            for event in aggregate.evolvers
        }


class _Stream:
    """One aggregate in a batch. `position` is that of its last event; below zero, -1 - its index in the batch."""

    __slots__ = ("position", "state", "version")

    def __init__(self, state: Any, version: int, position: int) -> None:
        self.state = state
        self.version = version
        self.position = position


class _Undecidable(Exception):
    """A stream whose recorded events cannot be evolved."""


class Batch:
    """Commands that are decided together."""

    def __init__(
        self, submissions: Sequence[Submission], catalogue: Catalogue, cache: StateCache, now: datetime
    ) -> None:
        self._submissions = submissions
        self._catalogue = catalogue
        self._cache = cache
        self._now = now
        stamp = Timestamp()
        stamp.FromDatetime(now)
        self._record_time = delimited(5, stamp.SerializeToString())
        self._id_prefix = _uuid7_prefix(now)
        self._cached: dict[str, tuple[Any, int]] = {}
        self._reset()

    def _reset(self) -> None:
        self._streams_read: Mapping[str, StreamHead] | None = None
        self._streams: dict[str, _Stream] = {}
        self._broken: dict[str, Exception] = {}
        self._events: list[NewEvent] = []
        self._requests: dict[str, Request] = {}
        self._claims: dict[str, str | None] = {}
        self._wanted: set[str] = set()
        self._snapshots: dict[str, Snapshot] = {}
        self._opened: list[Work] = []
        self._settled: list[WorkKey] = []

    def reads(self) -> Reads:
        """What the batch needs to know."""
        for submission in self._submissions:
            for name in (submission.stream, *map(str, submission.reads)):
                if name not in self._cached:
                    known = self._cache.get(name)
                    self._cached[name] = known if known is not None else (None, -1)
        return Reads(
            {name: version for name, (_, version) in self._cached.items()},
            self._catalogue.shapes,
            {submission.request_key for submission in self._submissions if submission.request_key},
        )

    def decide(self, loaded: Loaded) -> Decided:
        """Decides every command, in order, and says what to record.

        Called again in the same transaction, with the holders that were wanted, it need not decide anew if they are
        as it assumed: free.
        """
        if self._streams_read is loaded.streams and not any(map(loaded.holders.get, self._wanted)):
            return self._decided(())
        self._reset()
        self._streams_read = loaded.streams
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
        return self._decided(self._wanted)

    def _decided(self, wanted: Collection[str]) -> Decided:
        return Decided(wanted, self._events, self._requests, self._claims, self._snapshots, self._opened, self._settled)

    def finish(self, committed: Committed) -> Mapping[str, int]:
        """Puts the new states into the cache and real positions into the outcomes; returns the new versions."""
        first = committed.first_position
        for submission in self._submissions:
            accepted = submission.accepted
            if accepted is not None:
                if accepted.position < 0:
                    submission.accepted = accepted._replace(position=first - 1 - accepted.position)
            elif submission.position < 0:
                submission.position = first - 1 - submission.position
        changed: dict[str, int] = {}
        for name, stream in self._streams.items():
            if stream.version > 0:
                self._cache.put(name, stream.state, stream.version)
            if stream.position < 0:
                changed[name] = stream.version
        return changed

    @property
    def event_types(self) -> list[str]:
        """The types of the events recorded, in order."""
        return [event.type for event in self._events]

    def _decide_one(self, submission: Submission, loaded: Loaded) -> None:
        submission.position = 0
        if submission.request_key:
            known = self._requests.get(submission.request_key) or loaded.requests.get(submission.request_key)
            if known is not None:
                self._repeat(submission, known)
                return
        stream = self._stream(submission.ref, submission.stream, loaded)
        submission.position = stream.position
        states = {submission.ref: (stream.state, stream.version)}
        for ref in submission.reads:
            other = self._stream(ref, str(ref), loaded)
            submission.position = _latest(submission.position, other.position)
            states[ref] = (other.state, other.version)
        expected = submission.expected_version
        if expected is not None and expected != stream.version:
            raise VersionConflict(aggregate=submission.stream, expected_version=expected, actual_version=stream.version)
        at = Deciding(
            id=submission.ref.id, version=stream.version, now=self._now, actor=submission.actor, states=states
        )
        events = submission.binding.decide(stream.state, submission.command, at)
        if events:
            self._record(submission, stream, events, loaded)
            submission.position = stream.position
        submission.accepted = Accepted(submission.ref, stream.version, submission.position, False)
        if submission.settles is not None:
            self._settled.append(submission.settles)
        if submission.request_key:
            self._requests[submission.request_key] = Request(
                submission.digest, submission.stream, stream.version, submission.position
            )

    def _repeat(self, submission: Submission, known: Request) -> None:
        submission.position = known.position
        if known.digest != submission.digest:
            raise RequestIdReused(request_id=submission.request_id)
        kind, _, id = known.stream.partition("/")
        submission.accepted = Accepted(AggregateRef(kind, id), known.version, known.position, True)
        if submission.settles is not None:
            self._settled.append(submission.settles)

    def _record(self, submission: Submission, stream: _Stream, events: Sequence[Message], loaded: Loaded) -> None:
        aggregate = submission.binding.aggregate
        state = stream.state
        version = stream.version
        new: list[NewEvent] = []
        for event in events:
            state = aggregate.evolve(state, event)
            version += 1
            kind = event.DESCRIPTOR.full_name
            body = self._catalogue.templates[aggregate.type, kind].body(
                submission.ref.id,
                version,
                self._event_id(),
                self._record_time,
                event.SerializeToString(deterministic=True),
                submission.metadata,
            )
            new.append(NewEvent(submission.stream, version, kind, body))
        snapshot = None
        every = self._catalogue.snapshot_events
        if version // every > stream.version // every:
            codec = self._catalogue.codecs[aggregate.type]
            snapshot = Snapshot(version, codec.shape, codec.encode(state))
        if aggregate.uniques:
            self._claim(submission, stream.state, state, loaded.holders)
        # From here on nothing fails: a command that fails leaves no trace in the batch.
        if snapshot is not None:
            self._snapshots[submission.stream] = snapshot
        first = events[0]
        if isinstance(first, ProcessStepped):
            self._opened.extend(_work(submission.ref, -1 - len(self._events), first))
        self._events.extend(new)
        stream.state = state
        stream.version = version
        stream.position = -len(self._events)

    def _claim(self, submission: Submission, before: Any, after: Any, holders: Mapping[str, str | None]) -> None:
        """Takes and releases unique values by the difference of two states; raises what a taken one is refused by.

        A value whose holder has not been looked up counts as free and is added to what is wanted.
        """
        changes: dict[str, str | None] = {}
        for name, value_of, taken in submission.binding.aggregate.uniques:
            old, new = value_of(before), value_of(after)
            if old == new:
                continue
            if old:
                changes[f"{submission.ref.type}.{name}:{old}"] = None
            if new:
                if "\0" in new:  # SQLite reads a list of names only up to it.
                    raise InvalidRequest.of(("", f"{name} must not contain the character NUL"))
                key = f"{submission.ref.type}.{name}:{new}"
                if key not in self._claims and key not in holders:
                    self._wanted.add(key)
                holder = self._claims[key] if key in self._claims else holders.get(key)
                if holder is not None and holder != submission.stream:
                    raise taken(new)
                changes[key] = submission.stream
        self._claims.update(changes)

    def _stream(self, ref: AggregateRef, name: str, loaded: Loaded) -> _Stream:
        found = self._streams.get(name)
        if found is None:
            if name in self._broken:
                raise self._broken[name]
            try:
                found = self._load(ref, name, loaded)
            except Exception as error:
                broken = _Undecidable(f"The events of {name} cannot be evolved.")
                broken.__cause__ = error
                self._broken[name] = broken
                raise broken from error
            self._streams[name] = found
        return found

    def _load(self, ref: AggregateRef, name: str, loaded: Loaded) -> _Stream:
        aggregate = self._catalogue.aggregates[ref.type]
        head = loaded.streams.get(name)
        if head is None:
            return _Stream(aggregate.initial, 0, 0)
        history = loaded.histories.get(name)
        if history is None:
            return _Stream(self._cached[name][0], head.version, head.position)
        state = aggregate.initial
        if history.snapshot is not None:
            state = self._catalogue.codecs[ref.type].decode(history.snapshot.state)
        for frame in history.frames:
            payload = recorded(frame).event
            state = aggregate.evolve(state, aggregate.recorded(payload.type_url.rpartition("/")[2], payload.value))
        return _Stream(state, head.version, head.position)

    def _event_id(self) -> str:
        tail = os.urandom(10).hex()
        return f"{self._id_prefix}7{tail[:3]}-{_VARIANT[tail[3]]}{tail[4:7]}-{tail[7:19]}"


def _work(process: AggregateRef, position: int, step: ProcessStepped) -> Iterator[Work]:
    """The outputs of a step, as open work."""
    for ordinal, output in enumerate(step.outputs):
        match output.WhichOneof("output"):
            case "command":
                yield Work(position, ordinal, *process, WorkKind.COMMAND, 0)
            case "call":
                yield Work(position, ordinal, *process, WorkKind.EFFECT, 0)
            case _:
                due = output.timeout.due_time.ToMicroseconds()
                yield Work(position, ordinal, *process, WorkKind.TIMEOUT, due)


def _latest(one: int, other: int) -> int:
    """The later of two positions, of which one below zero stands for the batch's own, after all others."""
    if one < 0 or other < 0:
        return min(one, other)
    return max(one, other)


def _uuid7_prefix(now: datetime) -> str:
    milliseconds = f"{int(now.timestamp() * 1000):012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-"
