"""The row writer: one projection's rows and checkpoint in the read store.

A batch is one function on the database's thread: select the rows that it needs, fold, write those that changed and
the checkpoint, commit. The checkpoint moves only from where this writer left it, which keeps out a projector that
has been replaced and does not know it yet.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Table, bindparam, func, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from diptych.contract.token import LogIdentity
from diptych.domain.aggregate import AggregateRef
from diptych.domain.folding import ChangedRow, Contents, Folded, FoldFailure, Folding
from diptych.domain.projection import Projection
from diptych.server import failpoints
from diptych.storage.errors import LeaseLostError
from diptych.storage.read_store_schema import (
    Checkpoint,
    Compiled,
    compile_sqlite,
    decode_epochs,
    encode_epochs,
    generations,
    new_filling,
    view_table,
)
from diptych.v1.events_pb2 import RecordedEvent
from projector.store.generations import take_up
from projector.store.parked_streams import LeftOut, ParkedStreams
from projector.store.read_store_file import ReadStoreFile, durably, transaction


class Committed:
    """What became of a batch."""

    __slots__ = ("checkpoint", "fold_seconds", "folded", "rows")

    def __init__(self, folded: Folded, checkpoint: Checkpoint, fold_seconds: float) -> None:
        self.folded = folded
        """The changed rows, with their bytes, and the failure, if there was one."""
        self.checkpoint = checkpoint
        """Everything up to here is applied. On disk only if a row changed."""
        self.fold_seconds = fold_seconds
        """How long reading the events and folding them took."""
        self.rows = sum(map(len, folded.changed))
        """How many rows changed."""


_Columns = Mapping[str, Sequence[Any]]
"""By key, what the columns of the rows that were there had."""


class _ViewStatements:
    """The statements of one view's table."""

    def __init__(self, table: Table) -> None:
        wanted = select(func.json_each(bindparam("keys")).table_valued("value").c.value)
        self._columns = [column for column in table.columns if column.name not in ("key", "position", "row")]
        self._table = table
        self._updates: dict[tuple[int, ...], str] = {}
        self.select = compile_sqlite(
            select(table.c.key, table.c.row, *self._columns).where(table.c.key.in_(wanted))
        ).sql
        statement = upsert(table)
        replaced = {column.name: statement.excluded[column.name] for column in table.columns if column.name != "key"}
        compiled = compile_sqlite(statement.on_conflict_do_update(index_elements=["key"], set_=replaced))
        # A changed row is a tuple in this order.
        assert list(compiled.names) == [column.name for column in table.columns]
        self.upsert = compiled.sql

    def write(self, connection: sqlite3.Connection, changes: Iterable[ChangedRow], columns: _Columns) -> None:
        """Writes changed rows. `columns` holds what the columns of those that were there had.

        SQLite writes anew whatever index a statement could change, though the value be the same, and a table has many:
        so a row that was there is written by a statement that names no more than what differs.
        """
        if not self._columns:
            connection.executemany(self.upsert, changes)
            return
        whole: list[ChangedRow] = []
        parts: dict[tuple[int, ...], list[tuple[Any, ...]]] = {}
        for change in changes:
            before = columns.get(change[0])
            if before is None:
                whole.append(change)
                continue
            differing = tuple([index for index, value in enumerate(before) if value != change[index + 3]])
            part = (change[1], change[2], *[change[index + 3] for index in differing], change[0])
            parts.setdefault(differing, []).append(part)
        if whole:
            connection.executemany(self.upsert, whole)
        for differing, rows in parts.items():
            connection.executemany(self._update(differing), rows)

    def _update(self, differing: tuple[int, ...]) -> str:
        statement = self._updates.get(differing)
        if statement is None:
            table = self._table
            names = ["position", "row", *(self._columns[index].name for index in differing)]
            compiled = compile_sqlite(
                update(table)
                .where(table.c.key == bindparam("of_key"))
                .values({name: bindparam(f"new_{name}") for name in names})
            )
            # In the order of the table's columns, which is that of the values.
            assert list(compiled.names) == [*(f"new_{name}" for name in names), "of_key"]
            statement = self._updates[differing] = compiled.sql
        return statement


class RowWriter:
    """Writes one generation of a projection.

    But for `generation`, `filling`, `stored`, `identity`, `paused` and the numbers in `parked`, for the database's
    thread alone.
    """

    def __init__(self, file: ReadStoreFile, projection: Projection) -> None:
        self.projection = projection
        self.generation = 0
        self.stored = Checkpoint(0, "")
        """The checkpoint on disk."""
        self.identity: LogIdentity | None = None
        """The log that the rows come from; None before the first contact."""
        self.paused = False
        """Whether an operator paused it."""
        self.filling = ""
        """What tells these rows from those of another filling of the same tables."""
        self.parked: ParkedStreams
        """What is left out."""
        self._file = file
        self._folding = Folding(projection)
        self._views: list[_ViewStatements] = []
        self._move: Compiled
        self._identify: Compiled
        self._pause: Compiled
        self._leave_out: Compiled
        self._change_filling: Compiled

    def open(self, generation: int = 0) -> None:
        """Opens a generation; 0: the one that answers, or else the one that is filled. Raises `StartError`."""
        if not generation:
            found = take_up(self._file, self.projection)
            generation = found.answering or found.filling
        with transaction(self._file.connection):
            self._reopen(generation)
        self.parked = ParkedStreams(self._file.connection, self.projection.name, generation)
        self._views = [_ViewStatements(view_table(view, generation)) for view in self.projection.views]
        mine = (generations.c.projection == self.projection.name) & (generations.c.generation == self.generation)
        moved = (generations.c.position == bindparam("old_position")) & (
            generations.c.event_id == bindparam("old_event_id")
        )
        self._move = compile_sqlite(
            update(generations)
            .where(mine, moved)
            .values(position=bindparam("new_position"), event_id=bindparam("new_event_id"))
        )
        self._identify = compile_sqlite(
            update(generations)
            .where(mine, moved)
            .values(log_id=bindparam("new_log_id"), epochs=bindparam("new_epochs"))
        )
        self._pause = compile_sqlite(update(generations).where(mine, moved).values(paused=bindparam("new_paused")))
        self._leave_out = compile_sqlite(
            update(generations)
            .where(mine, moved)
            .values(
                position=bindparam("new_position"),
                event_id=bindparam("new_event_id"),
                parked_streams=bindparam("streams"),
                left_out_events=bindparam("events"),
                left_out_position=bindparam("position"),
            )
        )
        self._change_filling = compile_sqlite(
            update(generations).where(mine, moved).values(filling=bindparam("new_filling"))
        )

    def commit(self, events: Sequence[RecordedEvent], through: Checkpoint) -> Committed:
        """Folds a batch, and writes rows and checkpoint together; raises `LeaseLostError`, `ReadStoreError`.

        `through` is what the batch reaches to. If an event cannot be folded, what came before it is committed. If
        no row changed and no stream is parked, nothing is written, and the checkpoint is the caller's to write when it
        likes.
        """
        failpoints.hit("fold.taken")
        folding: Sequence[RecordedEvent] = events
        held: Sequence[RecordedEvent] = ()
        if self.parked.first:
            folding, held = self.parked.divide(events)
        prepared = self._folding.prepare(folding)
        connection = self._file.connection
        numbers = self.parked.numbers
        with transaction(connection):
            loaded, columns = self._load(prepared.keys_to_load)
            started = time.perf_counter()
            folded = self._folding.fold(prepared, loaded)
            seconds = time.perf_counter() - started
            failpoints.hit("fold.folded")
            checkpoint = through
            if folded.failure is not None:
                checkpoint = self._before(events, folded.failure.position)
                held = [event for event in held if event.position <= checkpoint.position]
            self._put(folded, columns)
            if held:
                numbers = self.parked.with_events(held)
                self._write_left_out(checkpoint, numbers)
                self.parked.hold(held)
            elif folded.changed_position:
                self._write(checkpoint)
            if held or folded.changed_position:
                failpoints.hit("fold.written")
        if held or folded.changed_position:
            failpoints.hit("fold.committed")
            self.stored = checkpoint
            self.parked.now(numbers)
        return Committed(folded, checkpoint, seconds)

    def park(self, failure: FoldFailure, attempts: int) -> Checkpoint:
        """Parks the stream of an event that cannot be folded, and moves the checkpoint over it; returns that.

        All before it is applied. Raises `LeaseLostError`, `ReadStoreError`.
        """
        event = failure.event
        checkpoint = Checkpoint(event.position, event.event_id)
        numbers = self.parked.with_events((event,), streams=1)
        with transaction(self._file.connection):
            self._write_left_out(checkpoint, numbers)
            self.parked.park(failure, attempts)
        self.stored = checkpoint
        self.parked.now(numbers, parked=event)
        return checkpoint

    def discard(self, aggregate: AggregateRef) -> int:
        """Lets a parked stream go on without what is left out; returns how many events that is.

        Raises `KeyError` if it is not parked, `LeaseLostError`, `ReadStoreError`.
        """
        with durably(self._file.connection):
            count = self.parked.count(aggregate)
            numbers = self.parked.discard(aggregate)
            self._write_left_out(self.stored, numbers)
        self.parked.now(numbers, gone=aggregate)
        return count

    def refold(
        self, aggregate: AggregateRef, first_position: int, events: Sequence[RecordedEvent]
    ) -> FoldFailure | None:
        """Folds all that is parked of a stream onto the rows as they are, and lets it go on; the failure, if it fails.

        Then everything is as before. Else the tables count as filled anew, as rows have changed before the checkpoint.
        Raises `KeyError` if the stream is not parked from that position on, `LeaseLostError`, `ReadStoreError`.
        """
        if self.parked.first[aggregate] != first_position:
            raise KeyError(aggregate)
        prepared = self._folding.prepare(events)
        filling, numbers = new_filling(), self.parked.numbers
        with durably(self._file.connection):
            loaded, columns = self._load(prepared.keys_to_load)
            folded = self._folding.fold(prepared, loaded)
            if folded.failure is None:
                self._put(folded, columns)
                numbers = self.parked.release(aggregate)
                self._write_left_out(self.stored, numbers)
                self._update(self._change_filling, new_filling=filling)
        if folded.failure is not None:
            self.fail_again(aggregate, folded.failure)
        else:
            self.filling = filling
            self.parked.now(numbers, gone=aggregate)
        return folded.failure

    def fail_again(self, aggregate: AggregateRef, failure: FoldFailure) -> None:
        """Remembers that what is parked failed again; raises `KeyError`, `LeaseLostError`, `ReadStoreError`."""
        with durably(self._file.connection):
            self.parked.fail_again(aggregate, failure)
            self._write(self.stored)

    def write_checkpoint(self, checkpoint: Checkpoint) -> Checkpoint:
        """Writes a checkpoint that no row came with, unless a later one is there; returns the one on disk."""
        if checkpoint.position > self.stored.position:
            with transaction(self._file.connection):
                self._write(checkpoint)
                failpoints.hit("checkpoint.written")
            self.stored = checkpoint
        return self.stored

    def move(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint in a transaction of the caller's, who sets `stored` when that is committed."""
        self._write(checkpoint)

    def write_identity(self, identity: LogIdentity) -> None:
        """Writes which log the rows come from."""
        log_id, epochs = encode_epochs(identity)
        with transaction(self._file.connection):
            self._update(self._identify, new_log_id=log_id, new_epochs=epochs)
        self.identity = identity

    def write_paused(self, paused: bool, checkpoint: Checkpoint) -> None:
        """Writes whether the projection is paused, and with it the checkpoint, unless a later one is there."""
        later = checkpoint if checkpoint.position > self.stored.position else self.stored
        with durably(self._file.connection):
            self._update(self._pause, new_paused=paused)
            self._write(later)
        self.stored, self.paused = later, paused

    def _load(self, wanted: Sequence[Iterable[str]]) -> tuple[list[Contents], list[_Columns]]:
        """For each view the rows that are wanted, and what their columns have."""
        found = [self._select(view, keys) if keys else ({}, {}) for view, keys in zip(self._views, wanted, strict=True)]
        return [contents for contents, _ in found], [columns for _, columns in found]

    def _put(self, folded: Folded, columns: Sequence[_Columns]) -> None:
        if folded.changed_position:
            for view, changes, before in zip(self._views, folded.changed, columns, strict=True):
                if changes:
                    view.write(self._file.connection, changes.values(), before)

    def _before(self, events: Sequence[RecordedEvent], position: int) -> Checkpoint:
        """The last of some events before a position; without any it is where the checkpoint is."""
        for event in reversed(events):
            if event.position < position:
                return Checkpoint(event.position, event.event_id)
        return self.stored

    def _select(self, view: _ViewStatements, keys: Iterable[str]) -> tuple[Contents, _Columns]:
        rows = self._file.connection.execute(view.select, (json.dumps(list(keys)),)).fetchall()
        return {row[0]: row[1] for row in rows}, {row[0]: row[2:] for row in rows}

    def _write(self, checkpoint: Checkpoint) -> None:
        self._update(self._move, new_position=checkpoint.position, new_event_id=checkpoint.event_id)

    def _write_left_out(self, checkpoint: Checkpoint, numbers: LeftOut) -> None:
        self._update(
            self._leave_out,
            new_position=checkpoint.position,
            new_event_id=checkpoint.event_id,
            **numbers._asdict(),
        )

    def _update(self, statement: Compiled, **values: Any) -> None:
        """Changes this generation's row, if the checkpoint there is the one that this writer left."""
        old_position, old_event_id = self.stored
        bound = statement.bind(old_position=old_position, old_event_id=old_event_id, **values)
        if self._file.connection.execute(statement.sql, bound).rowcount != 1:
            raise LeaseLostError(
                f"the checkpoint of projection {self.projection.name}, generation {self.generation}, is no longer "
                f"{old_position}, where this projector left it"
            )

    def _reopen(self, generation: int) -> None:
        name, connection = self.projection.name, self._file.connection
        found = connection.execute(*_bound(_FIND, of_projection=name, of_generation=generation)).fetchone()
        position, event_id, log_id, epochs, filling, paused = found
        self.generation = generation
        self.stored = Checkpoint(position, event_id)
        self.identity = decode_epochs(log_id, epochs)
        self.paused = bool(paused)
        self.filling = filling or new_filling()
        named = _bound(_NAME, of_projection=name, of_generation=generation, unnamed="", named=self.filling)
        connection.execute(*named)


_C = generations.c
_FIND = compile_sqlite(
    select(_C.position, _C.event_id, _C.log_id, _C.epochs, _C.filling, _C.paused).where(
        _C.projection == bindparam("of_projection"), _C.generation == bindparam("of_generation")
    )
)
_NAME = compile_sqlite(  # The file was made before fillings had names.
    update(generations)
    .where(
        _C.projection == bindparam("of_projection"),
        _C.generation == bindparam("of_generation"),
        _C.filling == bindparam("unnamed"),
    )
    .values(filling=bindparam("named"))
)


def _bound(statement: Compiled, **values: Any) -> tuple[str, tuple[Any, ...]]:
    return statement.sql, statement.bind(**values)
