"""The check of the rows: every view against a fold of the log up to its projection's checkpoint.

It works on a copy of the read store, and folds the log anew into a file of its own, a page of events at a time, so
that neither the projector nor the query servers notice, and memory does not grow with the log.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, Message
from sqlalchemy import Table, bindparam, func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.schema import CreateTable

from diptych.domain.folding import Folding
from diptych.domain.projection import Projection, View
from diptych.storage.copy import Progress
from diptych.storage.findings import Findings, Row, align
from diptych.storage.read_store_schema import Checkpoint, generations, parked_events, shape, view_table
from diptych.storage.sql import Compiled, compile_sqlite
from diptych.v1.events_pb2 import RecordedEvent

Pages = Callable[[int, Iterable[str]], Iterator[tuple[int, Sequence[RecordedEvent]]]]
"""The events of some types up to a position, a page at a time: how far a page reaches, and its events."""

_FIELDS_MAX = 5
"""Names of fields that differ, told of a row."""


class Generation(NamedTuple):
    """The generation of a projection that answers, as the read store has it."""

    generation: int
    version: int
    shape: str
    checkpoint: Checkpoint
    log_id: str
    tombstone_floor: int


class RowsCheck:
    """Checks one copy of a read store by the code of its projections. Use it in `with`."""

    def __init__(self, copy: Path, findings: Findings) -> None:
        self._connection = sqlite3.connect(copy, isolation_level=None)
        self._scratch = copy.with_name(f"{copy.name}.folded")
        self._findings = findings
        self._tables = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master")}

    def __enter__(self) -> RowsCheck:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def generation(self, projection: Projection) -> Generation | None:
        """The generation of a projection that answers to its code; None, and it is told, if there is none to check."""
        name = projection.name
        found = self._rows(_ACTIVE, projection=name) if generations.name in self._tables else []
        mine = [row for row in found if (row[1], row[2]) == (projection.version, shape(projection))]
        if mine:
            generation, version, digest, position, event_id, log_id, floor = mine[0]
            return Generation(generation, version, digest, Checkpoint(position, event_id), log_id, floor)
        versions = ", ".join(f"version {row[1]}" for row in found if row[1] != projection.version)
        if not found:
            why = "has not been filled"
        elif versions:
            why = f"is there in {versions}, and the code has version {projection.version}"
        else:
            why = "was filled by code with other views, rows or columns"
        self._findings.unchecked.append(f"Projection {name} {why}.")
        return None

    def check(self, projection: Projection, filled: Generation, pages: Pages, progress: Progress) -> None:
        """Folds the log up to a generation's checkpoint, and compares all its rows; raises `sqlite3.Error`."""
        self._scratch.unlink(missing_ok=True)
        with closing(sqlite3.connect(self._scratch, isolation_level=None)) as folded:
            try:
                whole = self._fold(projection, filled, folded, pages, progress)
            except DecodeError:
                self._findings.unchecked.append(
                    f"Projection {projection.name} cannot be folded anew: an event of the log cannot be read."
                )
                return
            if whole:
                rows = sum(self._compare(view, filled, folded) for view in projection.views)
                self._findings.checked.append(
                    f"projection {projection.name}, generation {filled.generation}, up to position "
                    f"{filled.checkpoint.position:,}: {rows:,} rows"
                )
        self._scratch.unlink(missing_ok=True)

    def _rows(self, statement: Compiled, **values: Any) -> list[Any]:
        return self._connection.execute(statement.sql, statement.bind(**values)).fetchall()

    def _fold(
        self, projection: Projection, filled: Generation, folded: sqlite3.Connection, pages: Pages, progress: Progress
    ) -> bool:
        """Fills tables of our own; whether every event could be folded."""
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-65536"):
            folded.execute(f"PRAGMA {pragma}")
        tables = [_Table(view_table(view, filled.generation)) for view in projection.views]
        for one in tables:
            folded.execute(one.create)
        folding = Folding(projection)
        for reach, events in pages(filled.checkpoint.position, projection.event_types):
            prepared = folding.prepare(self._without_parked(projection, filled, events))
            loaded = [
                dict(folded.execute(one.select, (json.dumps(list(keys)),))) if keys else {}
                for one, keys in zip(tables, prepared.keys_to_load, strict=True)
            ]
            changes = folding.fold(prepared, loaded)
            if changes.failure is not None:
                self._findings.add(
                    "FOLD_FAILED",
                    f"Projection {projection.name} applied an event that cannot be folded, and does not list it as "
                    f"parked. {changes.failure}",
                )
                return False
            folded.execute("BEGIN")
            for one, changed in zip(tables, changes.changed, strict=True):
                folded.executemany(one.upsert, changed.values())
            folded.execute("COMMIT")
            progress(reach, filled.checkpoint.position)
        return True

    def _without_parked(
        self, projection: Projection, filled: Generation, events: Sequence[RecordedEvent]
    ) -> Sequence[RecordedEvent]:
        """The events without those that the generation is known to leave out."""
        if not events or parked_events.name not in self._tables:
            return events
        first, last = events[0].position, events[-1].position
        bounds = {"projection": projection.name, "generation": filled.generation, "first": first, "last": last}
        parked = {position for (position,) in self._rows(_PARKED, **bounds)}
        return [event for event in events if event.position not in parked] if parked else events

    def _compare(self, view: View[Any], filled: Generation, folded: sqlite3.Connection) -> int:
        """Compares the rows of a view; returns how many there are."""
        table = view_table(view, filled.generation)
        if table.name not in self._tables:
            self._findings.add("VIEW_MISSING", f"View {view.name} has no table {table.name}.")
            return 0
        everything = compile_sqlite(select(table).order_by(table.c.key)).sql
        rows = 0
        for key, stored, expected in align(self._connection.execute(everything), folded.execute(everything)):
            rows += 1
            if stored != expected:
                self._tell(view, key, stored, expected, filled.tombstone_floor)
        return rows

    def _tell(self, view: View[Any], key: str, stored: Row | None, expected: Row | None, floor: int) -> None:
        where = f"Row {key} of view {view.name}"
        if stored is None:
            assert expected is not None
            if expected[2] is not None:
                self._findings.add("ROW_MISSING", f"{where} is missing: it was written at position {expected[1]}.")
            elif expected[1] > floor:
                self._findings.add(
                    "TOMBSTONE_MISSING", f"{where} was deleted at position {expected[1]}, and its tombstone is missing."
                )
        elif expected is None:
            self._findings.add("ROW_EXTRA", f"{where} is there, from position {stored[1]}, and no event made it.")
        elif (stored[2] is None) != (expected[2] is None):
            kind, is_there = ("ROW_EXTRA", "is there") if expected[2] is None else ("ROW_MISSING", "is deleted")
            self._findings.add(
                kind, f"{where} {is_there}, as of position {stored[1]}, against what happened at {expected[1]}."
            )
        else:
            self._findings.add("ROW_DIFFERENT", f"{where} differs: {'; '.join(_parts(view, stored, expected))}.")


class _Table:
    """A table that is folded into, with no index but its key."""

    def __init__(self, table: Table) -> None:
        self.create = str(CreateTable(table).compile(dialect=sqlite.dialect()))
        wanted = select(func.json_each(bindparam("keys")).table_valued("value").c.value)
        self.select = compile_sqlite(select(table.c.key, table.c.row).where(table.c.key.in_(wanted))).sql
        statement = upsert(table)
        replaced = {one.name: statement.excluded[one.name] for one in table.columns if one.name != "key"}
        self.upsert = compile_sqlite(statement.on_conflict_do_update(index_elements=["key"], set_=replaced)).sql


def _parts(view: View[Any], stored: Row, expected: Row) -> Iterator[str]:
    """What differs in two rows that both are there."""
    if stored[1] != expected[1]:
        yield f"it says that it was changed last at position {stored[1]}, and that was at {expected[1]}"
    if stored[2] != expected[2]:
        yield _fields(view, stored[2], expected[2])
    names = [name for name, mine, right in zip(view.columns, stored[3:], expected[3:], strict=True) if mine != right]
    if names:
        yield f"the column(s) {', '.join(names)} do not fit the row"


def _fields(view: View[Any], stored: bytes, expected: bytes) -> str:
    right: Message = view.row.FromString(expected)
    try:
        mine: Message = view.row.FromString(stored)
    except DecodeError:
        return f"its bytes are no {view.row.DESCRIPTOR.full_name}"
    names = [
        field.name
        for field in view.row.DESCRIPTOR.fields
        if [value for at, value in mine.ListFields() if at.number == field.number]
        != [value for at, value in right.ListFields() if at.number == field.number]
    ]
    if not names:
        return "its bytes are not those of the same message"
    more = f" and {len(names) - _FIELDS_MAX} more" if len(names) > _FIELDS_MAX else ""
    return f"the field(s) {', '.join(names[:_FIELDS_MAX])}{more}"


_C = generations.c
_ACTIVE = compile_sqlite(
    select(_C.generation, _C.version, _C.shape, _C.position, _C.event_id, _C.log_id, _C.tombstone_floor).where(
        _C.projection == bindparam("projection"), _C.active.is_(True)
    )
)
_P = parked_events.c
_PARKED = compile_sqlite(
    select(_P.position).where(
        _P.projection == bindparam("projection"),
        _P.generation == bindparam("generation"),
        _P.position.between(bindparam("first"), bindparam("last")),
    )
)
