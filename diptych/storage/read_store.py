"""Interface of the read store, as the projector writes it.

A `ReadStore` holds the generations of every projection. A projector acquires the lease of a projection, which carries
a fence: a number that grows with every acquisition. Each statement that changes a generation checks the fence in its
own transaction, so a projector that lost its lease writes nothing and gets `LeaseLostError`.

A `GenerationStore` is one generation, opened by its leader. It takes described transactions: `Change` names the
rows, the checkpoint and all else that is committed together. No caller runs statements.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from diptych.contract.token import LogIdentity
from diptych.domain.aggregate import AggregateRef
from diptych.domain.folding import ChangedRow, Contents
from diptych.domain.projection import Projection
from diptych.storage.read_store_schema import FILLING, RETURNING, Checkpoint
from diptych.v1.events_pb2 import RecordedEvent

KeysToLoad = Sequence[Collection[str]]
"""For each view, in order of declaration, the keys of the rows to load."""


class LeftOut(NamedTuple):
    """Numbers of the events that a generation leaves out."""

    streams: int = 0
    """Parked streams."""
    events: int = 0
    """Events of parked streams, and discarded events."""
    position: int = 0
    """Position of the last of these events; 0: there is none."""


class Generation(NamedTuple):
    """A generation as the read store describes it."""

    generation: int
    version: int
    shape: str
    active: bool
    position: int
    log_id: str
    epochs: str
    paused: bool
    stage: str
    views: str
    filling: str
    """Name of the filling of its tables."""
    parked_streams: int
    left_out_events: int
    left_out_position: int

    @property
    def is_filling(self) -> bool:
        """True while it catches up in order to become active."""
        return self.stage in (FILLING, RETURNING)

    @property
    def is_kept(self) -> bool:
        """True while it is retired and can return: it is neither active nor filling nor dropped."""
        return not self.active and not self.stage


class Lease(NamedTuple):
    """Exclusive right to fold one version of a projection, with the generations that the leader opens first."""

    projection: Projection
    fence: int
    """Number that every write of the leader checks; greater than that of every earlier lease of the projection."""
    active: int
    """The active generation of this version; 0: there is none."""
    filling: int
    """The generation that is being filled; 0: there is none."""
    paused: bool
    """True while an operator has paused the projection."""


class LeaseHolder(NamedTuple):
    """Projector that holds a lease."""

    owner: str
    """Description of its process, for people."""
    address: str
    """HOST:PORT of its server; empty: not known."""


class ParkedStream(NamedTuple):
    """Stream of which a part is left out."""

    aggregate: AggregateRef
    first_position: int
    events: int
    """Events that are left out."""
    error: str
    trace: str
    attempts: int
    park_time: int
    """Microseconds since 1970."""
    discard_time: int | None
    """Microseconds since 1970; None: the stream is still parked."""
    event: bytes
    """The event that failed in the last attempt, a `RecordedEvent`."""


class FailedEvent(NamedTuple):
    """Event that can't be folded, with its cause."""

    event: RecordedEvent
    error: str
    """One sentence."""
    trace: str
    attempts: int = 1
    """Attempts so far."""


class Change(NamedTuple):
    """One transaction on one generation. A field that is not given changes nothing.

    The checkpoint is written with every change: `checkpoint`, or else the stored one again. The write succeeds only
    if the store has the fence and the checkpoint that this leader left there.
    """

    checkpoint: Checkpoint | None = None
    rows: Sequence[Mapping[str, ChangedRow]] = ()
    """For each view, in order of declaration, the changed rows by key."""
    hold: Sequence[RecordedEvent] = ()
    """Events of parked streams, left out from now on."""
    park: FailedEvent | None = None
    """Failed event whose stream is parked, beginning with this event."""
    fail_again: tuple[AggregateRef, FailedEvent] | None = None
    """Parked stream, and the event of it that failed in another attempt."""
    release: AggregateRef | None = None
    """Parked stream whose events `rows` includes now."""
    discard: AggregateRef | None = None
    """Parked stream that goes on without the events that are left out."""
    identity: LogIdentity | None = None
    paused: bool | None = None
    filling: str | None = None


class GenerationStore(abc.ABC):
    """Rows, checkpoint and parked streams of one generation, for its leader.

    The attributes describe the generation as last committed by this leader. Reading them never waits.
    """

    projection: Projection
    generation: int
    stored: Checkpoint
    """The checkpoint in the store."""
    identity: LogIdentity | None
    """The log that the rows come from; None before the first contact."""
    paused: bool
    filling: str
    """Name of this filling of the tables."""
    left_out: LeftOut
    parked: Mapping[AggregateRef, int]
    """Parked streams, each with the position of its first parked event."""
    code_changed: bool = False
    """True if the projection's code is not the code that began the generation, by its digest."""

    @abc.abstractmethod
    async def fold(
        self,
        keys_to_load: Callable[[], KeysToLoad],
        fold: Callable[[Sequence[Contents]], Change | None],
        *,
        durable: bool = False,
    ) -> Change | None:
        """Load rows, let `fold` make a change of them and commit it, all in one transaction.

        Args:
            keys_to_load: Return the keys to load. Runs on the store's thread.
            fold: Return the change, given the rows by view; None commits nothing. Runs on the store's thread.
            durable: Make the change survive a power cut, not only the end of the process.

        Returns:
            What `fold` returned.

        Raises:
            LeaseLostError: Another leader has written the generation. Nothing is changed.
            ReadStoreError: The store can't be read or written now. Nothing is changed.

        Cancelling the coroutine does not stop a transaction that has begun.
        """

    @abc.abstractmethod
    async def check_files(self) -> None:
        """Check that the leader's writes can be found again: its file still has its name.

        Raises:
            ReadStoreError: A file of the store was removed or replaced.
        """

    @abc.abstractmethod
    async def write(self, change: Change, *, durable: bool = False) -> int:
        """Commit a change.

        Returns:
            The number of events that the change discards or releases; 0 if it does neither.

        Raises:
            StreamNotParkedError: `fail_again`, `release` or `discard` names a stream that is not parked.
            LeaseLostError: Another leader has written the generation. Nothing is changed.
            ReadStoreError: The store can't be written now. Nothing is changed.

        Cancelling the coroutine does not stop a transaction that has begun.
        """

    @abc.abstractmethod
    async def parked_stream(self, aggregate: AggregateRef) -> ParkedStream | None:
        """Return a parked stream, or None if it is not parked. Raise `ReadStoreError`."""

    @abc.abstractmethod
    async def parked_page(self, after: int, size: int, *, discarded: bool) -> tuple[list[ParkedStream], bool]:
        """Return parked streams by their first position, and True if there are more.

        Args:
            after: First position after which the page begins.
            size: Streams on the page at most. The page ends earlier when its streams reach 1 MiB.
            discarded: Include streams of which a part was discarded.

        Raises:
            ReadStoreError: The store can't be read now.
        """

    @abc.abstractmethod
    async def left_out_between(self, after: int, through: int) -> dict[int, int]:
        """Return the left out positions after `after` and up to `through`, each with its stream's first position."""

    @abc.abstractmethod
    async def raise_floor(self, now: float, expired: float) -> int:
        """Record when the checkpoint was passed, and raise the floor over the tombstones that have expired.

        Args:
            now: Seconds since 1970.
            expired: Tombstones of rows deleted before this time, in seconds since 1970, have expired.

        Returns:
            The floor if tombstones have expired: the position of the last of them. Otherwise 0.

        Raises:
            LeaseLostError: Another leader has taken over. Nothing is changed.
            ReadStoreError: The store can't be written now. Nothing is changed.
        """

    @abc.abstractmethod
    async def remove_tombstones(self, floor: int) -> int:
        """Remove up to 500 tombstones at or below the floor; return their number, 0 if none is left.

        Raises:
            LeaseLostError: Another leader has taken over. Nothing is changed.
            ReadStoreError: The store can't be written now. Nothing is changed.
        """


Handover = tuple[GenerationStore, Checkpoint]
"""A generation with the checkpoint that its follower has reached."""


class ReadStore(abc.ABC):
    """Read store as one projector has it."""

    description: str
    """Name of the store for error messages, such as its path."""
    primary: bool
    """True for the projector that came first on the store. Others run beside it with newer versions."""

    @abc.abstractmethod
    async def open(self, projections: Iterable[Projection] = ()) -> None:
        """Open the store, and create it if it doesn't exist.

        Args:
            projections: Projections to lead; at least one must be free. Without any the store must be free.

        Raises:
            StartError: The store can't be opened, or another process leads all of them.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Finish the transactions that were begun, release all leases and close the store."""

    @abc.abstractmethod
    def become_primary(self) -> bool:
        """Take the place of the first projector if it has ended. Return True if this projector has it."""

    @abc.abstractmethod
    async def acquire(self, projection: Projection) -> Lease | LeaseHolder:
        """Acquire the lease of a projection's version, or return the projector that holds it.

        The first generation of a projection is active at once. That of a newer version is filled beside the older
        version's generation. Acquiring a lease again raises its fence: writes under the earlier one are refused.

        Raises:
            StartError: The store has a newer version of the projection, or this version with another shape.
            ReadStoreError: The store can't be written now.
        """

    @abc.abstractmethod
    async def generations(self, projection: str) -> list[Generation]:
        """Return the generations of a projection by number, without dropped ones. Raise `ReadStoreError`."""

    @abc.abstractmethod
    async def open_generation(self, lease: Lease, generation: int) -> GenerationStore:
        """Open a generation for writing. Raise `ReadStoreError`."""

    @abc.abstractmethod
    async def begin(self, lease: Lease) -> int:
        """Create a generation to be filled; return its number. Raise `LeaseLostError`, `ReadStoreError`."""

    @abc.abstractmethod
    async def begin_return(self, lease: Lease, generation: int) -> bool:
        """Begin to fill a kept generation up to the head, to make it active again.

        Returns:
            False if there is no kept generation of this number, version and shape.

        Raises:
            LeaseLostError: Another leader has taken over. Nothing is changed.
            ReadStoreError: The store can't be written now. Nothing is changed.
        """

    @abc.abstractmethod
    async def cancel(self, lease: Lease, generation: int) -> None:
        """End the filling of a generation: a returning one is kept, a new one is dropped.

        Raises:
            LeaseLostError: Another leader has taken over. Nothing is changed.
            ReadStoreError: The store can't be written now. Nothing is changed.
        """

    @abc.abstractmethod
    async def switch(self, old: Handover | None, new: Handover) -> None:
        """Make one generation active in place of another and write both checkpoints, in one transaction.

        Generations of versions that another projector leads are left alone. The replaced generation is kept.

        Args:
            old: The generation that this projector has kept active; None: this version has none.
            new: The generation that becomes active.

        Raises:
            OvertakenError: A generation to be replaced has applied more of the log. Nothing is changed.
            LeaseLostError: Another leader has written one of them. Nothing is changed.
            ReadStoreError: The store can't be written now. Nothing is changed.
        """

    @abc.abstractmethod
    async def drop_some(self, lease: Lease) -> bool:
        """Delete up to 500 rows of a dropped generation, or its empty tables. Return True if there is more to drop.

        Raises:
            LeaseLostError: Another leader has taken over. Nothing is changed.
            ReadStoreError: The store can't be written now. Nothing is changed.
        """
