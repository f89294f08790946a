"""Records that go into the event store and come out of it.

Events travel as *frames*: a `diptych.v1.RecordedEvent` as one element of a list, tag and length included.
Concatenated frames are an `EventBatch`, so the bytes that are stored are the bytes that are streamed.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from diptych.contract.token import LogIdentity


class LogHead(NamedTuple):
    """End of the log at one moment."""

    identity: LogIdentity
    """Log id and epochs."""
    position: int
    """Position of the last event; 0 in an empty log."""


class StreamHead(NamedTuple):
    """A stream's version, and the position of its last event."""

    version: int
    position: int


class Snapshot(NamedTuple):
    """An aggregate's state after the event of a version; ignored if the shape is not the codec's."""

    version: int
    shape: bytes
    state: bytes


class History(NamedTuple):
    """Source of a stream's state: a snapshot or None, then the frames of all later events."""

    snapshot: Snapshot | None
    frames: Sequence[bytes]


class Request(NamedTuple):
    """An accepted command, remembered under its request id until a sweep forgets it."""

    digest: bytes
    """Digest of the command's type and message."""
    stream: str
    version: int
    position: int


class Reads(NamedTuple):
    """Everything that a batch needs to read before it is decided."""

    streams: Mapping[str, int]
    """Version in the state cache by stream name; -1: not cached."""
    shapes: Mapping[str, bytes]
    """Shape of readable snapshots by aggregate type."""
    requests: Collection[str]
    """Keys of request ids."""


class Loaded(NamedTuple):
    """Everything that a batch is decided on, as of one transaction."""

    streams: Mapping[str, StreamHead]
    """Heads of the streams that exist."""
    histories: Mapping[str, History]
    """Histories of the existing streams whose version is not the cached one."""
    requests: Mapping[str, Request]
    """Accepted commands by request key; keys without one are absent."""
    holders: Mapping[str, str | None]
    """Holding stream by unique value, for the values in `Decided.lookups`; None: free."""


class NewEvent(NamedTuple):
    """An event to record. `body` is its `RecordedEvent` without the position."""

    stream: str
    version: int
    type: str
    body: bytes


class WorkKind(enum.IntEnum):
    """Kind of a process's output."""

    COMMAND = 1
    EFFECT = 2
    TIMEOUT = 3


WorkKey = tuple[int, int]
"""A step's position, and the ordinal of one of its outputs."""


class Work(NamedTuple):
    """An open output of a process's step: it has no outcome yet, or the process has not taken the outcome yet."""

    position: int
    """Position of the step."""
    ordinal: int
    process: str
    instance: str
    kind: WorkKind
    due: int
    """Due time of a timeout in microseconds since 1970, UTC; else 0."""


ParkedKey = tuple[str, str, int, int]
"""Process, instance, position and ordinal of a parked input."""


class ParkedInput(NamedTuple):
    """An input on which an instance of a process failed, or one that waits behind such an input."""

    process: str
    instance: str
    position: int
    """Position of the event, or of the step whose output the input is about."""
    ordinal: int
    """Ordinal of the output; -1: the input is an event."""
    error: str
    """Reason why the instance is parked; empty: this input only waits."""
    attempts: int
    since: int
    """Microseconds since 1970, UTC."""
    outcome: bytes
    """Outcome of the output: a `diptych.internal.v1.Outcome`."""

    @property
    def key(self) -> ParkedKey:
        """Key of this record."""
        return self[:4]


class Decided(NamedTuple):
    """Decision on a batch.

    If `lookups` is not empty, the batch needs the holders of these unique values first: the store looks them up and
    calls `decide` again. In `requests` and `opened`, a position below zero stands for an event of this batch: -1 for
    the first, -2 for the second.
    """

    lookups: Collection[str] = ()
    """Unique values whose holders the batch needs."""
    events: Sequence[NewEvent] = ()
    requests: Mapping[str, Request] = {}
    claims: Mapping[str, str | None] = {}
    """New holding stream by unique value; None releases the value."""
    snapshots: Mapping[str, Snapshot] = {}
    opened: Sequence[Work] = ()
    settled: Collection[WorkKey] = ()
    """Open work to close; work that is not open is ignored."""
    unparked: Collection[ParkedKey] = ()
    """Parked inputs to delete; inputs that are not parked are ignored."""
    accepted_at: int = 0
    """Acceptance time of `requests` in microseconds since 1970, UTC."""


class Committed(NamedTuple):
    """Recorded events: frames in order, the first at `first_position`."""

    first_position: int
    """Position of the first event; without events the position after the head."""
    frames: Sequence[bytes]


class Page(NamedTuple):
    """A part of the log: the matching frames up to `position`, and the frame at `position`."""

    frames: Sequence[bytes]
    position: int
    last_frame: bytes
    """Frame at `position`; empty: the page is empty."""
