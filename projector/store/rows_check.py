"""Check of the rows: every view against a fold of the log up to its projection's checkpoint.

1. The check works on a copy of the read store, so neither the projector nor the query servers notice it.
2. It folds the log again into a scratch database, one page of events at a time, so memory does not grow with the log.
3. It reads the rows of both by key, and reports every difference.

Statements are written once for every database, and run through SQLAlchemy's asyncio engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, Message
from sqlalchemy import Connection, Table, bindparam, inspect, select, type_coerce, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import NullType

from diptych.domain.folding import ChangedRow, Contents, Folding
from diptych.domain.projection import Projection, View
from diptych.server.dsn import sqlite_dsn
from diptych.storage.connections import read_only_async_engine, scratch_async_engine
from diptych.storage.copy import Progress
from diptych.storage.findings import Findings, Row, align
from diptych.storage.read_store_schema import Checkpoint, generations, parked_events, shape, view_table
from diptych.v1.events_pb2 import RecordedEvent

Pages = Callable[[int, Iterable[str]], Iterator[tuple[int, Sequence[RecordedEvent]]]]
"""Returns the events of some types up to a position in pages: the last position that a page covers, and its events."""

_FIELDS_MAX = 5
"""Names of differing fields in one finding."""

_KEYS_MAX = 500
"""Keys in one query."""

_ROWS_PER_FETCH = 1000


class Generation(NamedTuple):
    """Active generation of a projection, as the read store has it."""

    generation: int
    version: int
    shape: str
    checkpoint: Checkpoint
    log_id: str
    tombstone_floor: int


class RowsCheck:
    """Checks one copy of a read store by the code of its projections. Use it in `async with`."""

    def __init__(self, copy: Path, findings: Findings) -> None:
        """Prepare the check.

        Args:
            copy: File of the copy. The scratch database is beside it.
            findings: Takes the differences.
        """
        self._engine = read_only_async_engine(sqlite_dsn(copy))
        self._connection: AsyncConnection
        self._stored: Connection
        self._tables: frozenset[str]
        self._scratch = copy.with_name(f"{copy.name}.folded")
        self._findings = findings
        self._left_out = 0
        """Events that the rows of the projection that is being checked do not include."""

    async def __aenter__(self) -> RowsCheck:
        self._connection = await self._engine.connect()
        assert self._connection.sync_connection is not None
        self._stored = self._connection.sync_connection
        names = await self._connection.run_sync(lambda connection: inspect(connection).get_table_names())
        self._tables = frozenset(names)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()
        await self._engine.dispose()

    async def generation(self, projection: Projection) -> Generation | None:
        """Return the active generation of a projection's code; None, with a finding, if there is none to check."""
        name = projection.name
        rows: Sequence[Row] = []
        if generations.name in self._tables:
            rows = (await self._connection.execute(_ACTIVE, {"of_projection": name})).all()
        mine = [row for row in rows if (row[1], row[2]) == (projection.version, shape(projection))]
        if mine:
            generation, version, digest, position, event_id, log_id, floor = mine[0]
            return Generation(generation, version, digest, Checkpoint(position, event_id), log_id, floor)
        versions = ", ".join(f"version {row[1]}" for row in rows if row[1] != projection.version)
        if not rows:
            cause = "has not been filled"
        elif versions:
            cause = f"is there in {versions}, and the code has version {projection.version}"
        else:
            cause = "was filled by code with other views, rows or columns"
        self._findings.unchecked.append(f"Projection {name} {cause}.")
        return None

    async def check(self, projection: Projection, generation: Generation, pages: Pages, progress: Progress) -> None:
        """Fold the log up to a generation's checkpoint, and compare all its rows.

        Args:
            projection: The projection.
            generation: Its generation in the copy.
            pages: Returns the events of the log.
            progress: Called after every page with the positions that are folded, and all.

        Raises:
            sqlalchemy.exc.DBAPIError: A database can't be read or written.
        """
        self._scratch.unlink(missing_ok=True)
        engine = scratch_async_engine(self._scratch)
        try:
            async with engine.connect() as scratch:
                await scratch.run_sync(lambda opened: self._check(projection, generation, opened, pages, progress))
        finally:
            await engine.dispose()
            self._scratch.unlink(missing_ok=True)

    # The functions below run within `run_sync`, where both connections may be used without `await`.

    def _check(
        self, projection: Projection, generation: Generation, scratch: Connection, pages: Pages, progress: Progress
    ) -> None:
        self._left_out = 0
        try:
            complete = self._fold(projection, generation, scratch, pages, progress)
        except DecodeError:
            self._findings.unchecked.append(
                f"Projection {projection.name} cannot be folded anew: an event of the log cannot be read."
            )
            return
        if complete:
            rows = sum(self._compare(view, generation, scratch) for view in projection.views)
            self._findings.checked.append(
                f"projection {projection.name}, generation {generation.generation}, up to position "
                f"{generation.checkpoint.position:,}: {rows:,} rows{self._left_out_text(projection)}"
            )

    def _left_out_text(self, projection: Projection) -> str:
        """Return the clause about the events that the rows do not include; empty if they include all."""
        if not self._left_out:
            return ""
        events = f"{self._left_out:,} event{' is' if self._left_out == 1 else 's are'}"
        return f"; {events} left out, which `diptych parked list {projection.name} --discarded` lists"

    def _fold(
        self, projection: Projection, generation: Generation, scratch: Connection, pages: Pages, progress: Progress
    ) -> bool:
        """Fold the log into the scratch database; return False if an event can't be folded."""
        tables = [_ScratchTable(view_table(view, generation.generation)) for view in projection.views]
        for one in tables:
            one.create(scratch)
        folding = Folding(projection)
        for through, events in pages(generation.checkpoint.position, projection.event_types):
            prepared = folding.prepare(self._without_parked(projection, generation, events))
            loaded = [one.load(scratch, list(keys)) for one, keys in zip(tables, prepared.keys_to_load, strict=True)]
            folded = folding.fold(prepared, loaded)
            if folded.failure is not None:
                self._findings.add(
                    "FOLD_FAILED",
                    f"Projection {projection.name} applied an event that cannot be folded, and does not list it as "
                    f"parked. {folded.failure}",
                )
                return False
            for one, rows, changed in zip(tables, loaded, folded.changed, strict=True):
                one.write(scratch, rows, changed.values())
            scratch.commit()
            progress(through, generation.checkpoint.position)
        return True

    def _without_parked(
        self, projection: Projection, generation: Generation, events: Sequence[RecordedEvent]
    ) -> Sequence[RecordedEvent]:
        """Return the events without those that the generation lists as left out."""
        if not events or parked_events.name not in self._tables:
            return events
        bounds = {
            "of_projection": projection.name,
            "of_generation": generation.generation,
            "first": events[0].position,
            "last": events[-1].position,
        }
        left_out = set(self._stored.execute(_LEFT_OUT, bounds).scalars())
        included = [event for event in events if event.position not in left_out] if left_out else events
        self._left_out += len(events) - len(included)
        return included

    def _compare(self, view: View[Any], generation: Generation, scratch: Connection) -> int:
        """Compare the rows of a view; return their number."""
        table = view_table(view, generation.generation)
        if table.name not in self._tables:
            self._findings.add("VIEW_MISSING", f"View {view.name} has no table {table.name}.")
            return 0
        rows = 0
        for key, stored, expected in align(_all_rows(self._stored, table), _all_rows(scratch, table)):
            rows += 1
            if stored != expected:
                self._report(view, key, stored, expected, generation.tombstone_floor)
        return rows

    def _report(self, view: View[Any], key: str, stored: Row | None, expected: Row | None, floor: int) -> None:
        row = f"Row {key} of view {view.name}"
        if stored is None:
            assert expected is not None
            if expected[2] is not None:
                self._findings.add("ROW_MISSING", f"{row} is missing: it was written at position {expected[1]}.")
            elif expected[1] > floor:
                self._findings.add(
                    "TOMBSTONE_MISSING", f"{row} was deleted at position {expected[1]}, and its tombstone is missing."
                )
        elif expected is None:
            self._findings.add("ROW_EXTRA", f"{row} is there, from position {stored[1]}, and no event made it.")
        elif (stored[2] is None) != (expected[2] is None):
            kind, state = ("ROW_EXTRA", "is there") if expected[2] is None else ("ROW_MISSING", "is deleted")
            self._findings.add(
                kind, f"{row} {state}, as of position {stored[1]}, against what happened at {expected[1]}."
            )
        else:
            self._findings.add("ROW_DIFFERENT", f"{row} differs: {'; '.join(_differences(view, stored, expected))}.")


class _ScratchTable:
    """Table of one view in the scratch database, without other indexes than its key."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._names = [column.name for column in table.columns]
        self._select = select(table.c.key, table.c.row).where(table.c.key.in_(bindparam("keys", expanding=True)))
        self._insert = table.insert()
        changed: dict[str, Any] = {name: bindparam(f"new_{name}") for name in self._names if name != "key"}
        self._update = update(table).where(table.c.key == bindparam("new_key")).values(changed)

    def create(self, connection: Connection) -> None:
        """Create the table."""
        self._table.indexes.clear()
        self._table.create(connection)

    def load(self, connection: Connection, keys: Sequence[str]) -> Contents:
        """Return the rows that exist, tombstones included."""
        rows: dict[str, bytes | None] = {}
        for start in range(0, len(keys), _KEYS_MAX):
            batch = connection.execute(self._select, {"keys": keys[start : start + _KEYS_MAX]})
            rows.update({row[0]: row[1] for row in batch})
        return rows

    def write(self, connection: Connection, loaded: Contents, changes: Iterable[ChangedRow]) -> None:
        """Insert the changed rows that were not loaded, and update the others."""
        inserts: list[Mapping[str, Any]] = []
        updates: list[Mapping[str, Any]] = []
        for change in changes:
            if change[0] in loaded:
                updates.append({f"new_{name}": value for name, value in zip(self._names, change, strict=True)})
            else:
                inserts.append(dict(zip(self._names, change, strict=True)))
        if inserts:
            connection.execute(self._insert, inserts)
        if updates:
            connection.execute(self._update, updates)


def _all_rows(connection: Connection, table: Table) -> Iterator[Row]:
    """Return all rows of a table by key, with the values as the database has them, damaged ones included."""
    columns = [type_coerce(column, NullType()) for column in table.columns]
    query = select(*columns).select_from(table).order_by(table.c.key)
    for row in connection.execute(query, execution_options={"yield_per": _ROWS_PER_FETCH}):
        yield tuple(row)


def _differences(view: View[Any], stored: Row, expected: Row) -> Iterator[str]:
    """Describe the differences of two rows with the same key."""
    if stored[1] != expected[1]:
        yield f"it says that it was changed last at position {stored[1]}, and that was at {expected[1]}"
    if stored[2] != expected[2]:
        yield _field_differences(view, stored[2], expected[2])
    names = [name for name, one, other in zip(view.columns, stored[3:], expected[3:], strict=True) if one != other]
    if names:
        yield f"the column(s) {', '.join(names)} do not fit the row"


def _field_differences(view: View[Any], stored: bytes, expected: bytes) -> str:
    expected_row: Message = view.row.FromString(expected)
    try:
        stored_row: Message = view.row.FromString(stored)
    except DecodeError:
        return f"its bytes are no {view.row.DESCRIPTOR.full_name}"
    stored_fields = {field.number: value for field, value in stored_row.ListFields()}
    expected_fields = {field.number: value for field, value in expected_row.ListFields()}
    names = [
        field.name
        for field in view.row.DESCRIPTOR.fields
        if stored_fields.get(field.number) != expected_fields.get(field.number)
    ]
    if not names:
        return "its bytes are not those of the same message"
    more = f" and {len(names) - _FIELDS_MAX} more" if len(names) > _FIELDS_MAX else ""
    return f"the field(s) {', '.join(names[:_FIELDS_MAX])}{more}"


_G = generations.c
_ACTIVE = select(_G.generation, _G.version, _G.shape, _G.position, _G.event_id, _G.log_id, _G.tombstone_floor).where(
    _G.projection == bindparam("of_projection"), _G.active.is_(True)
)
_P = parked_events.c
_LEFT_OUT = select(_P.position).where(
    _P.projection == bindparam("of_projection"),
    _P.generation == bindparam("of_generation"),
    _P.position.between(bindparam("first"), bindparam("last")),
)
