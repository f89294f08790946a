"""One generation of a projection in the read store, on SQLite."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sqlalchemy import bindparam, select, update

from diptych.contract.identity_codec import identity_from_columns, identity_to_columns
from diptych.domain.aggregate import AggregateRef
from diptych.domain.code_digest import code_digest, is_comparable
from diptych.domain.folding import Contents
from diptych.server import failpoints
from diptych.storage.errors import LeaseLostError
from diptych.storage.read_store import Change, GenerationStore, KeysToLoad, Lease, LeftOut, ParkedStream
from diptych.storage.read_store_schema import (
    Checkpoint,
    generations,
    new_filling,
    view_table,
)
from diptych.storage.sql import Compiled, compile_sqlite
from projector.store.generations import check_fence
from projector.store.parked_streams import ParkedStreams
from projector.store.row_statement import Columns, RowStatement
from projector.store.sqlite_connection import WriterThread, durable_transaction, execute, transaction
from projector.store.store_reader import StoreReader
from projector.store.tombstones import TombstoneStatements


class SqliteGenerationStore(GenerationStore):
    """Rows, checkpoint and parked streams of one generation.

    A transaction on the database's thread:

    1. `fold` loads the keys_to_load rows, and lets its caller make a change of them.
    2. The changed rows are written by `RowStatement`, parked streams by `ParkedStreams`.
    3. One update writes the checkpoint and all else that the generation's own row has. It names the fence and the
       checkpoint that this leader left; if it changes no row, everything is rolled back.
    4. After the commit the attributes take the new values.
    """

    def __init__(self, writer: WriterThread, reader: StoreReader, lease: Lease, generation: int) -> None:
        self.projection = lease.projection
        self.generation = generation
        self.lease = lease
        self.stored = Checkpoint(0, "")
        self.identity = None
        self.paused = False
        self.filling = ""
        self.left_out = LeftOut()
        self.parked: dict[AggregateRef, int] = {}
        self._writer = writer
        self._reader = reader
        self._parked_streams = ParkedStreams(self.projection.name, generation)
        self._rows = [RowStatement(view_table(view, generation)) for view in self.projection.views]
        self._tombstones = TombstoneStatements(self.projection, generation)

    def load(self) -> None:
        """Read the generation's state. Runs on the database's thread. Raise `LeaseLostError`, `sqlite3.Error`."""
        name, connection = self.projection.name, self._writer.connection
        with transaction(connection):
            check_fence(connection, self.lease)
            row = execute(connection, _STATE, of_projection=name, of_generation=self.generation).fetchone()
            position, event_id, log_id, epochs, filling, paused, code, *left_out = row
            self.stored = Checkpoint(position, event_id)
            self.identity = identity_from_columns(log_id, epochs)
            self.paused = bool(paused)
            self.left_out = LeftOut(*left_out)
            self.filling = filling or new_filling()
            if not filling:  # The file was created before fillings had names.
                execute(connection, _NAME, of_projection=name, of_generation=self.generation, new_filling=self.filling)
            self.parked = self._parked_streams.read_all(connection)
            digest = code_digest(self.projection)
            self.code_changed = is_comparable(code) and code != digest
            if not is_comparable(code):  # The file has no digest, or that of another Python.
                execute(connection, _CODE, of_projection=name, of_generation=self.generation, new_code=digest)

    async def fold(
        self,
        keys_to_load: Callable[[], KeysToLoad],
        fold: Callable[[Sequence[Contents]], Change | None],
        *,
        durable: bool = False,
    ) -> Change | None:
        """Load rows, let `fold` make a change of them and commit it, all in one transaction."""
        return await self._writer.run(self._fold, keys_to_load, fold, durable)

    async def check_files(self) -> None:
        """Check that the store's files still have their names; `run` does so before every call."""
        await self._writer.run(lambda: None)

    async def write(self, change: Change, *, durable: bool = False) -> int:
        """Commit a change."""
        return await self._writer.run(self._write, change, durable)

    async def parked_stream(self, aggregate: AggregateRef) -> ParkedStream | None:
        """Return a parked stream, or None if it is not parked."""
        first = self.parked.get(aggregate)
        if first is None:
            return None
        return await self._reader.parked_stream(self.projection.name, self.generation, first)

    async def parked_page(self, after: int, size: int, *, discarded: bool) -> tuple[list[ParkedStream], bool]:
        """Return parked streams by their first position, and True if there are more."""
        return await self._reader.parked_page(self.projection.name, self.generation, after, size, discarded=discarded)

    async def left_out_between(self, after: int, through: int) -> dict[int, int]:
        """Return the left out positions after `after` and up to `through`, each with its stream's first position."""
        return await self._reader.left_out_between(self.projection.name, self.generation, after, through)

    async def raise_floor(self, now: float, expired: float) -> int:
        """Record when the checkpoint was passed, and raise the floor over the tombstones that have expired."""
        return await self._writer.run(self._raise_floor, now, expired)

    async def remove_tombstones(self, floor: int) -> int:
        """Remove some tombstones at or below the floor; return their number, 0 if none is left."""
        return await self._writer.run(self._remove_tombstones, floor)

    # The functions below run on the database's thread.

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint in a transaction of the caller, who sets `stored` after the commit."""
        of_this = (self.projection.name, self.generation, self.lease.fence, *self.stored)
        if self._writer.connection.execute(_MOVE, (*checkpoint, *of_this)).rowcount != 1:
            self._raise_lost()

    def _fold(
        self,
        keys_to_load: Callable[[], KeysToLoad],
        fold: Callable[[Sequence[Contents]], Change | None],
        durable: bool,
    ) -> Change | None:
        failpoints.hit("fold.taken")
        keys = keys_to_load()
        connection = self._writer.connection
        with durable_transaction(connection) if durable else transaction(connection):
            contents: list[Contents] = []
            columns: list[Columns] = []
            for statement, of_view in zip(self._rows, keys, strict=True):
                rows, values = statement.load(connection, of_view) if of_view else ({}, {})
                contents.append(rows)
                columns.append(values)
            change = fold(contents)
            if change is None:
                return None
            left_out, _ = self._put(connection, change, columns)
            failpoints.hit("fold.written")
        failpoints.hit("fold.committed")
        self._take(change, left_out)
        return change

    def _write(self, change: Change, durable: bool) -> int:
        if change.checkpoint is not None and change.checkpoint.position < self.stored.position:
            # A fold that was queued before this change has passed its checkpoint.
            change = change._replace(checkpoint=None)
        connection = self._writer.connection
        with durable_transaction(connection) if durable else transaction(connection):
            left_out, events = self._put(connection, change, [{} for _ in self._rows])
            failpoints.hit("checkpoint.written")
        self._take(change, left_out)
        return events

    def _put(self, connection: sqlite3.Connection, change: Change, columns: Sequence[Columns]) -> tuple[LeftOut, int]:
        """Write a change; return the numbers of left out events, and the events that it discards or releases."""
        if change.rows:
            for statement, rows, before in zip(self._rows, change.rows, columns, strict=True):
                if rows:
                    statement.write(connection, rows.values(), before)
        checkpoint = change.checkpoint or self.stored
        if change[2:] == _NOTHING_ELSE:  # Nearly every change.
            self.write_checkpoint(checkpoint)
            return self.left_out, 0
        left_out, events = self.left_out, 0
        if change.hold or change.park or change.fail_again or change.release or change.discard:
            # A leader that lost its lease would violate a key, as the stream may be parked already.
            check_fence(connection, self.lease)
            left_out, events = self._parked_streams.write(connection, change, self.parked, left_out)
        values: dict[str, Any] = {"position": checkpoint.position, "event_id": checkpoint.event_id}
        if left_out is not self.left_out:
            values["parked_streams"], values["left_out_events"], values["left_out_position"] = left_out
        if change.identity is not None:
            values["log_id"], values["epochs"] = identity_to_columns(change.identity)
        if change.paused is not None:
            values["paused"] = change.paused
        if change.filling is not None:
            values["filling"] = change.filling
        self._update(values)
        return left_out, events

    def _take(self, change: Change, left_out: LeftOut) -> None:
        """Take the values of a committed change."""
        self.left_out = left_out
        if change.checkpoint is not None:
            self.stored = change.checkpoint
        if change.identity is not None:
            self.identity = change.identity
        if change.paused is not None:
            self.paused = change.paused
        if change.filling is not None:
            self.filling = change.filling
        if change.park is not None:
            event = change.park.event
            self.parked[AggregateRef(event.aggregate.type, event.aggregate.id)] = event.position
        for aggregate in (change.release, change.discard):
            if aggregate is not None:
                del self.parked[aggregate]

    def _update(self, values: dict[str, Any]) -> None:
        """Update the generation's own row, if the store has the fence and checkpoint of this leader."""
        bound = {f"new_{name}": value for name, value in values.items()}
        old_position, old_event_id = self.stored
        cursor = execute(
            self._writer.connection,
            _update_statement(tuple(values)),
            of_projection=self.projection.name,
            of_generation=self.generation,
            old_fence=self.lease.fence,
            old_position=old_position,
            old_event_id=old_event_id,
            **bound,
        )
        if cursor.rowcount != 1:
            self._raise_lost()

    def _raise_lost(self) -> NoReturn:
        check_fence(self._writer.connection, self.lease)
        raise LeaseLostError(
            f"another projector has written generation {self.generation} of projection {self.projection.name}: "
            f"its checkpoint is no longer {self.stored.position}, where this projector left it"
        )

    def _raise_floor(self, now: float, expired: float) -> int:
        connection = self._writer.connection
        with transaction(connection):
            check_fence(connection, self.lease)
            return self._tombstones.raise_floor(connection, self.stored.position, now, expired)

    def _remove_tombstones(self, floor: int) -> int:
        connection = self._writer.connection
        with transaction(connection):
            check_fence(connection, self.lease)
            return self._tombstones.remove(connection, floor)


@functools.lru_cache
def _update_statement(columns: tuple[str, ...]) -> Compiled:
    """Return the update of columns of a generation's own row, guarded by the fence and the checkpoint."""
    return compile_sqlite(
        update(generations)
        .where(
            _C.projection == bindparam("of_projection"),
            _C.generation == bindparam("of_generation"),
            _C.fence == bindparam("old_fence"),
            _C.position == bindparam("old_position"),
            _C.event_id == bindparam("old_event_id"),
        )
        .values({name: bindparam(f"new_{name}") for name in columns})
    )


_C = generations.c
_NOTHING_ELSE = Change()[2:]
"""Fields of a change after its checkpoint and rows."""

_MOVE, _MOVE_NAMES, _ = _update_statement(("position", "event_id"))
assert list(_MOVE_NAMES) == [
    *("new_position", "new_event_id"),
    *("of_projection", "of_generation", "old_fence", "old_position", "old_event_id"),
]
_STATE = compile_sqlite(
    select(
        _C.position,
        _C.event_id,
        _C.log_id,
        _C.epochs,
        _C.filling,
        _C.paused,
        _C.code,
        _C.parked_streams,
        _C.left_out_events,
        _C.left_out_position,
    ).where(_C.projection == bindparam("of_projection"), _C.generation == bindparam("of_generation"))
)
_CODE = compile_sqlite(
    update(generations)
    .where(_C.projection == bindparam("of_projection"), _C.generation == bindparam("of_generation"))
    .values(code=bindparam("new_code"))
)
_NAME = compile_sqlite(
    update(generations)
    .where(
        _C.projection == bindparam("of_projection"),
        _C.generation == bindparam("of_generation"),
        _C.filling == "",
    )
    .values(filling=bindparam("new_filling"))
)
