"""The event store: what the command server asks of whatever keeps the log.

One small interface, with one conformance suite (`tests/conformance/event_store.py`) that every backend passes. A
commit is *one call for a whole batch*: the store reads what the batch names, hands it to `decide`, and records what
comes back, all in one transaction, so that nothing is decided on a state that this read did not confirm.

Events travel as *frames*: a `diptych.v1.RecordedEvent` as one element of a list, tag and length included.
Concatenated frames are an `EventBatch`, so that what was written once is streamed and stored as it is.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from diptych.contract.token import LogIdentity


class StreamHead(NamedTuple):
    """A stream's version, and the position of its last event."""

    version: int
    position: int


class Snapshot(NamedTuple):
    """An aggregate's state after the event of a version; ignored where the shape is not the codec's."""

    version: int
    shape: bytes
    state: bytes


class History(NamedTuple):
    """What a stream's state is made from: a snapshot or nothing, then the frames of all events after it."""

    snapshot: Snapshot | None
    frames: Sequence[bytes]


class Request(NamedTuple):
    """An accepted command, remembered under its request id as long as its aggregate."""

    digest: bytes
    """Of the command's type and message."""
    stream: str
    version: int
    position: int


class Reads(NamedTuple):
    """What a batch needs to know before it is decided."""

    streams: Mapping[str, int]
    """The streams by name, each with the version that the state cache has; -1: not cached."""
    shapes: Mapping[str, bytes]
    """For each aggregate type the shape of the snapshots that can be read."""
    requests: Collection[str]
    """Keys of request ids."""


class Loaded(NamedTuple):
    """What a batch needs to know, as of one transaction."""

    streams: Mapping[str, StreamHead]
    """Those of the streams that exist."""
    histories: Mapping[str, History]
    """For the existing streams whose version is not the cached one."""
    requests: Mapping[str, Request]
    """Those of the request ids that are known."""
    holders: Mapping[str, str | None]
    """Unique values, by key, and the stream that has each, as far as they were asked for."""


class NewEvent(NamedTuple):
    """An event to record. `body` is its `RecordedEvent` without the position."""

    stream: str
    version: int
    type: str
    body: bytes


class WorkKind(enum.IntEnum):
    """What a process wants done."""

    COMMAND = 1
    EFFECT = 2
    TIMEOUT = 3


WorkKey = tuple[int, int]
"""A step's position, and the ordinal of one of its outputs."""


class Work(NamedTuple):
    """An output of a process's step that is open: nothing has come of it yet, or the process has not heard of it."""

    position: int
    """Of the step."""
    ordinal: int
    process: str
    instance: str
    kind: WorkKind
    due: int
    """Of a timeout: microseconds since 1970, UTC; else 0."""


class ParkedInput(NamedTuple):
    """An input that an instance of a process could not take, or one that waits behind such a one."""

    process: str
    instance: str
    position: int
    """Of the event, or of the step whose output it is about."""
    ordinal: int
    """Of the output; -1: it is an event."""
    error: str
    """Why the instance is parked; empty: this input only waits."""
    attempts: int
    since: int
    """Microseconds since 1970, UTC."""
    outcome: bytes
    """What came of the output: a `diptych.internal.v1.Outcome`."""


class Decided(NamedTuple):
    """What a batch came to.

    If `wanted` is not empty, the batch needs the holders of these unique values first: the store looks them up and
    has the batch decided again. In `requests` and `opened`, a position below zero stands for an event of this very
    batch: -1 for the first, -2 for the second.
    """

    wanted: Collection[str] = ()
    events: Sequence[NewEvent] = ()
    requests: Mapping[str, Request] = {}
    claims: Mapping[str, str | None] = {}
    """Unique values taken, and (None) released."""
    snapshots: Mapping[str, Snapshot] = {}
    opened: Sequence[Work] = ()
    settled: Collection[WorkKey] = ()
    """Open work that is done with; what is not open any more is left alone."""


class Committed(NamedTuple):
    """What was recorded: frames in order, the first at `first_position`."""

    first_position: int
    frames: Sequence[bytes]


class Page(NamedTuple):
    """A part of the log: the frames in it that matched, up to `position`, and the frame at `position`."""

    frames: Sequence[bytes]
    position: int
    last_frame: bytes


class StoreUnavailable(Exception):
    """The store cannot read or write now; nothing was recorded. The message says why, in a few words."""


class CommitNotKnown(StoreUnavailable):
    """It is not known whether a batch was recorded: after a crash it may be there, unless another took its place."""


class EventStore(abc.ABC):
    """Keeps the log of one deployment.

    Every method but `open` and `close` may raise `StoreUnavailable`. A store serves one event loop.
    """

    identity: LogIdentity
    head: int
    """The last position recorded, as far as this store object knows."""

    @abc.abstractmethod
    async def open(self) -> None:
        """Opens the log, and makes it if it is not there."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Closes the log. A second call does nothing."""

    @abc.abstractmethod
    async def commit(self, reads: Reads, decide: Callable[[Loaded], Decided]) -> Committed:
        """Reads, decides and records one batch, durably: after a return it survives a crash of the machine.

        `decide` is pure, may be called several times, and may run on another thread. What it raises is raised here,
        and nothing is recorded.
        """

    @abc.abstractmethod
    async def read_log(self, after: int, *, types: Collection[str] = (), events_max: int, bytes_max: int) -> Page:
        """Reads events after a position, all or those of some types, in order.

        A page ends at `events_max` events, at `bytes_max` bytes (one event at least), at the head, or when
        the store has looked at enough that did not match. At the head it is empty and stands at `after`.
        """

    @abc.abstractmethod
    async def read_stream(
        self, stream: str, from_version: int, events_max: int, bytes_max: int = 1 << 20
    ) -> Sequence[bytes]:
        """Reads the frames of a stream from a version on, up to `events_max` or `bytes_max` (one event at least)."""

    @abc.abstractmethod
    async def position_of(self, stream: str, version: int) -> int | None:
        """The position of one version of a stream, if it exists."""

    @abc.abstractmethod
    async def frame_at(self, position: int) -> bytes | None:
        """The frame at a position, if it exists."""

    @abc.abstractmethod
    async def read_work(self, after: WorkKey, count: int) -> Sequence[Work]:
        """Reads open work after a key, in order; (0, 0) lies before all."""

    @abc.abstractmethod
    async def process_marks(self) -> Mapping[str, int]:
        """For each type of process, the position up to which it has heard everything."""

    @abc.abstractmethod
    async def put_process_marks(self, marks: Mapping[str, int]) -> None:
        """Writes these marks; others stay."""

    @abc.abstractmethod
    async def parked_inputs(self) -> Sequence[ParkedInput]:
        """Reads all parked inputs, in the order of process, instance, position and ordinal."""

    @abc.abstractmethod
    async def put_parked(self, inputs: Sequence[ParkedInput]) -> None:
        """Writes parked inputs, each in place of what was there of the same instance, position and ordinal."""

    @abc.abstractmethod
    async def delete_parked(self, inputs: Sequence[ParkedInput]) -> None:
        """Deletes parked inputs; what is not there is left alone."""
