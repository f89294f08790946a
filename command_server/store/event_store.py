"""The event store: the interface between the command server and the database that holds the log.

Every backend passes one conformance suite (`tests/conformance/test_event_store.py`). The log may have several
writers: `head`, `beyond` and `read_log` read the commits of all of them from the database, never from memory.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from command_server.store.records import (
    Committed,
    Decided,
    Loaded,
    LogHead,
    Page,
    ParkedInput,
    ParkedKey,
    Reads,
    Work,
    WorkKey,
)
from command_server.store.unique_refold import Refolded
from diptych.domain.aggregate import Aggregate


class StoreUnavailable(Exception):
    """The store cannot read or write now; nothing was recorded. The message names the cause, in a few words."""


class CommitNotKnown(StoreUnavailable):
    """The outcome of a commit is unknown: the batch may be in the log, or another one at its positions."""


class EpochBegun(StoreUnavailable):
    """The log has begun an epoch after this store was opened. Cached states may be of lost events: open it again."""


class EventStore(abc.ABC):
    """The log of one deployment, on one event loop.

    Every method but `open` and `close` may raise `StoreUnavailable`. Cancelling a read abandons its result.
    Cancelling a write leaves open whether it takes effect.
    """

    @abc.abstractmethod
    async def open(self) -> None:
        """Open the log; create it if it does not exist.

        Raises:
            StoreUnavailable: the database cannot be opened.
            StartError: the database is in use, of another program or of another schema version.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Close the log. A second call does nothing."""

    @abc.abstractmethod
    def check_files(self) -> None:
        """Check that what commits write can be found again after a restart.

        Raises:
            StoreUnavailable: a file of the log was removed or replaced since it was opened. Commits are refused.
        """

    @abc.abstractmethod
    async def head(self) -> LogHead:
        """Read the log's identity and the position of its last event, whichever writer recorded it."""

    @abc.abstractmethod
    async def beyond(self, position: int, seconds: float) -> LogHead:
        """Wait until the head is beyond a position or the time is up, and return the head.

        Cancelling ends the wait.
        """

    @abc.abstractmethod
    async def commit(self, reads: Reads, decide: Callable[[Loaded], Decided]) -> Committed:
        """Read, decide and record one batch in one transaction.

        The commit is durable: after a return it survives a crash of the machine. Stream versions, request ids and
        holders of unique values are those under the write lock. A request id is never recorded twice, and a unique
        value changes hands only if `decide` was given its holder.

        Args:
            reads: the streams and request ids to load.
            decide: a pure function; it may run on another thread. The store calls it again with the holders that it
                looks up. The store also calls it with a new `Loaded` if the batch writes values that it has not been
                given, or that another writer has changed since. Commands that lost such a race are refused by the
                second decision; the others are decided as before. A `Loaded` whose `streams` is the same object
                differs from the previous one in `holders` only.

        Raises:
            CommitNotKnown: the outcome is unknown.
            EpochBegun: the log has begun another epoch.
            StoreUnavailable: nothing was recorded.
            Exception: an exception of `decide`; nothing was recorded.
        """

    @abc.abstractmethod
    async def read_log(self, after: int, *, types: Collection[str] = (), events_max: int, bytes_max: int) -> Page:
        """Read events after a position, in order.

        A page ends at `events_max` events, at `bytes_max` bytes (it has one event at least), or at the head. It may end
        earlier if many events did not match. At the head it is empty and its position is `after`.

        Args:
            after: position before the first event.
            types: types of the events to return; empty: all events.
            events_max: greatest number of frames in the page.
            bytes_max: greatest size of the frames in bytes.
        """

    @abc.abstractmethod
    async def read_stream(
        self, stream: str, from_version: int, events_max: int, bytes_max: int = 1 << 20
    ) -> Sequence[bytes]:
        """Read the frames of a stream from a version on, up to `events_max` or `bytes_max` (one event at least)."""

    @abc.abstractmethod
    async def position_of(self, stream: str, version: int) -> int | None:
        """Return the position of one version of a stream; None if it does not exist."""

    @abc.abstractmethod
    async def frame_at(self, position: int) -> bytes | None:
        """Return the frame at a position; None if there is no event."""

    @abc.abstractmethod
    async def read_work(self, after: WorkKey, count: int) -> Sequence[Work]:
        """Read up to `count` open outputs after a key, in order; (0, 0) lies before all."""

    @abc.abstractmethod
    async def take_event_types(self, types: Collection[str]) -> Sequence[tuple[str, int]]:
        """Add event types of a domain to those of the log, unless the log has others.

        Returns:
            Event types of the log that are none of `types`, each with the position of its first event, by position.
        """

    @abc.abstractmethod
    async def refold_uniques(
        self, aggregates: Collection[Aggregate[Any]], *, everything: bool = False
    ) -> Sequence[Refolded]:
        """Fold the unique values again whose code has changed since the log was last served; all with `everything`.

        Raises:
            UniqueConflict: two aggregates have one value. Nothing was changed.
        """

    @abc.abstractmethod
    async def read_timeouts(self, due: int, after: WorkKey, count: int) -> Sequence[Work]:
        """Read up to `count` open timeouts in the order of due time and key, after a due time and key."""

    @abc.abstractmethod
    async def count_running(self, process: str) -> int:
        """Return the number of instances of a process that have open outputs."""

    @abc.abstractmethod
    async def request_times(self, after: str, count: int) -> Sequence[tuple[str, int]]:
        """Read keys and acceptance times of up to `count` remembered requests after a key, in the order of keys.

        Times are in microseconds since 1970, UTC. The empty key lies before all.
        """

    @abc.abstractmethod
    async def forget_requests(self, keys: Collection[str], accepted_before: int) -> int:
        """Forget those of these requests that were accepted before a time, and return their number.

        `forgotten_before` is at least that time from then on, in the same transaction.
        """

    @abc.abstractmethod
    async def forgotten_before(self) -> int:
        """Return the time before which requests may have been forgotten; 0: none was."""

    @abc.abstractmethod
    async def process_marks(self) -> Mapping[str, int]:
        """Read the mark of each type of process: the position through which it has taken its inputs."""

    @abc.abstractmethod
    async def put_process_marks(self, marks: Mapping[str, int]) -> None:
        """Write these marks; others stay."""

    @abc.abstractmethod
    async def parked_inputs(self) -> Sequence[ParkedInput]:
        """Read all parked inputs, in the order of process, instance, position and ordinal."""

    @abc.abstractmethod
    async def put_parked(self, inputs: Sequence[ParkedInput]) -> None:
        """Write parked inputs; each replaces the one of the same key."""

    @abc.abstractmethod
    async def delete_parked(self, keys: Sequence[ParkedKey]) -> None:
        """Delete parked inputs; keys without one are ignored."""
