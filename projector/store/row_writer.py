"""Row writer: folds batches of events into one generation's rows, on any database.

A batch is one transaction: load the rows that it needs, fold, write the changed rows and the checkpoint. The fold
itself is pure; `RowWriter` decides which records are committed with the rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from diptych.contract.token import LogIdentity
from diptych.domain.aggregate import AggregateRef
from diptych.domain.folding import Contents, Folded, FoldFailure, Folding, Prepared
from diptych.server import failpoints
from diptych.storage.errors import StreamNotParkedError
from diptych.storage.read_store import Change, GenerationStore, KeysToLoad, LeftOut
from diptych.storage.read_store_schema import Checkpoint, new_filling
from diptych.v1.events_pb2 import RecordedEvent
from projector.store.parked_streams import failed_event


class Committed:
    """Result of one batch."""

    __slots__ = ("checkpoint", "fold_seconds", "folded", "rows")

    def __init__(self, folded: Folded, checkpoint: Checkpoint, fold_seconds: float) -> None:
        self.folded = folded
        """The changed rows, with their bytes, and the failure, if there was one."""
        self.checkpoint = checkpoint
        """Everything up to here is applied. It is stored only if a row changed or an event was left out."""
        self.fold_seconds = fold_seconds
        """Seconds that folding took, without the store."""
        self.rows = sum(map(len, folded.changed))
        """Number of changed rows."""


class RowWriter:
    """Writes one generation of a projection. Every method raises `LeaseLostError` and `ReadStoreError`."""

    def __init__(self, store: GenerationStore) -> None:
        self.store = store
        self.projection = store.projection
        self.generation = store.generation
        self._folding = Folding(store.projection)

    @property
    def stored(self) -> Checkpoint:
        """The checkpoint in the store."""
        return self.store.stored

    @property
    def identity(self) -> LogIdentity | None:
        """The log that the rows come from; None before the first contact."""
        return self.store.identity

    @property
    def paused(self) -> bool:
        """True while an operator has paused the projection."""
        return self.store.paused

    @property
    def filling(self) -> str:
        """Name of this filling of the tables."""
        return self.store.filling

    @property
    def code_changed(self) -> bool:
        """True if the projection's code is not the code that began the generation, by its digest."""
        return self.store.code_changed

    @property
    def left_out(self) -> LeftOut:
        """Numbers of the events that are left out."""
        return self.store.left_out

    async def commit(self, events: Sequence[RecordedEvent], through: Checkpoint) -> Committed:
        """Fold a batch, and commit its rows and checkpoint together.

        1. Events of parked streams are separated; they are left out.
        2. The others are folded, up to the first that fails. Everything before the failure is committed.
        3. If no row changed and no event is left out, nothing is written, and the caller writes the checkpoint
           later.

        Args:
            events: Consecutive events of the projection's types.
            through: The checkpoint after the batch.

        Returns:
            The changed rows and the failure. Cancelling does not stop a batch that has begun.
        """
        batch = _Batch(self._folding, self.store, events, through)
        await self.store.fold(batch.keys_to_load, batch.fold)
        return Committed(batch.folded, batch.checkpoint, batch.fold_seconds)

    async def park(self, failure: FoldFailure, attempts: int) -> Checkpoint:
        """Park the stream of an event that can't be folded, and move the checkpoint over the event.

        Args:
            failure: The failure. All events before it are applied.
            attempts: Attempts to fold the event.

        Returns:
            The new checkpoint.
        """
        checkpoint = Checkpoint(failure.event.position, failure.event.event_id)
        await self.store.write(Change(checkpoint, park=failed_event(failure, attempts)))
        return checkpoint

    async def discard(self, aggregate: AggregateRef) -> int:
        """Let a parked stream go on without the events that are left out; return their number.

        Raises:
            StreamNotParkedError: The stream is not parked.
        """
        return await self.store.write(Change(discard=aggregate), durable=True)

    async def refold(
        self, aggregate: AggregateRef, first_position: int, events: Sequence[RecordedEvent]
    ) -> FoldFailure | None:
        """Fold all parked events of a stream onto the rows as they are, and let the stream go on.

        Rows change before the checkpoint, so the tables get a new filling name.

        Args:
            aggregate: The stream.
            first_position: Position from which the stream is parked.
            events: All its parked events.

        Returns:
            The failure if an event fails again, which is recorded; then all else is unchanged.

        Raises:
            StreamNotParkedError: The stream is not parked, or from another position on.
        """
        refold = _Refold(self._folding, self.store, aggregate, first_position, events)
        await self.store.fold(refold.keys_to_load, refold.fold, durable=True)
        if refold.failure is not None:
            await self.fail_again(aggregate, refold.failure)
        return refold.failure

    async def fail_again(self, aggregate: AggregateRef, failure: FoldFailure) -> None:
        """Record that a parked stream failed again. Raise `StreamNotParkedError` if it is not parked."""
        await self.store.write(Change(fail_again=(aggregate, failed_event(failure))), durable=True)

    async def write_checkpoint(self, checkpoint: Checkpoint) -> Checkpoint:
        """Write a checkpoint without rows unless a later one is stored; return the stored one."""
        if checkpoint.position > self.store.stored.position:
            await self.store.write(Change(checkpoint))
        return self.store.stored

    async def write_identity(self, identity: LogIdentity) -> None:
        """Write the identity of the log that the rows come from."""
        await self.store.write(Change(identity=identity))

    async def write_paused(self, paused: bool, checkpoint: Checkpoint) -> None:
        """Write the pause or its end, and the checkpoint unless a later one is stored."""
        later = checkpoint if checkpoint.position > self.store.stored.position else self.store.stored
        await self.store.write(Change(later, paused=paused), durable=True)


class _Batch:
    """Rows and records that a batch changes. Its methods run on the store's thread, in the order of declaration."""

    __slots__ = ("_events", "_folding", "_held", "_prepared", "_store", "checkpoint", "fold_seconds", "folded")

    def __init__(
        self, folding: Folding, store: GenerationStore, events: Sequence[RecordedEvent], through: Checkpoint
    ) -> None:
        self.checkpoint = through
        self.folded: Folded
        self.fold_seconds = 0.0
        self._folding = folding
        self._store = store
        self._events = events
        self._held: Sequence[RecordedEvent] = ()
        self._prepared: Prepared

    def keys_to_load(self) -> KeysToLoad:
        """Return the keys of the rows that the batch needs."""
        folding: Sequence[RecordedEvent] = self._events
        if self._store.parked:
            folding, self._held = _divide(self._events, self._store)
        self._prepared = self._folding.prepare(folding)
        return self._prepared.keys_to_load

    def fold(self, rows: Sequence[Contents]) -> Change | None:
        """Fold the batch; return None if nothing is to be written."""
        started = time.perf_counter()
        folded = self.folded = self._folding.fold(self._prepared, rows)
        self.fold_seconds = time.perf_counter() - started
        failpoints.hit("fold.folded")
        if folded.failure is not None:
            self.checkpoint = _last_before(self._events, folded.failure.position, self._store.stored)
            self._held = [event for event in self._held if event.position <= self.checkpoint.position]
        if not self._held and not folded.changed_position:
            return None
        return Change(self.checkpoint, folded.changed if folded.changed_position else (), self._held)


class _Refold:
    """Rows and records that a refold changes. Its methods run on the store's thread."""

    def __init__(
        self,
        folding: Folding,
        store: GenerationStore,
        aggregate: AggregateRef,
        first_position: int,
        events: Sequence[RecordedEvent],
    ) -> None:
        self.failure: FoldFailure | None = None
        self._folding = folding
        self._store = store
        self._aggregate = aggregate
        self._first_position = first_position
        self._events = events
        self._prepared: Prepared

    def keys_to_load(self) -> KeysToLoad:
        """Return the keys of the rows that the events need. Raise `StreamNotParkedError`."""
        if self._store.parked.get(self._aggregate) != self._first_position:
            raise StreamNotParkedError(f"stream {self._aggregate} is not parked from position {self._first_position}")
        self._prepared = self._folding.prepare(self._events)
        return self._prepared.keys_to_load

    def fold(self, rows: Sequence[Contents]) -> Change | None:
        """Fold the events; return None if one of them fails."""
        folded = self._folding.fold(self._prepared, rows)
        self.failure = folded.failure
        if folded.failure is not None:
            return None
        changed = folded.changed if folded.changed_position else ()
        return Change(rows=changed, release=self._aggregate, filling=new_filling())


def _divide(events: Iterable[RecordedEvent], store: GenerationStore) -> tuple[list[RecordedEvent], list[RecordedEvent]]:
    """Return the events to fold, and those of parked streams."""
    folding: list[RecordedEvent] = []
    held: list[RecordedEvent] = []
    for event in events:
        aggregate = AggregateRef(event.aggregate.type, event.aggregate.id)
        (held if aggregate in store.parked else folding).append(event)
    return folding, held


def _last_before(events: Sequence[RecordedEvent], position: int, stored: Checkpoint) -> Checkpoint:
    """Return the last event before a position as a checkpoint; the stored one if there is none."""
    for event in reversed(events):
        if event.position < position:
            return Checkpoint(event.position, event.event_id)
    return stored
