"""The read store's schema: the tables of projections, which the projector writes and query servers read.

It is derived data and belongs to its projections: every generation of a projection has tables of its own, made
when the generation begins and dropped when it is no longer wanted. A row is kept as the bytes that go on the wire,
with the columns that queries filter and order by beside it. A deleted row stays for a time as a *tombstone*: a row
whose bytes are NULL.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime
from typing import Any, NamedTuple

from google.protobuf import descriptor
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    false,
)
from sqlalchemy.types import TypeEngine

from diptych.domain.projection import Projection, View

_TYPES: dict[type, TypeEngine[Any]] = {
    str: String(),
    int: BigInteger(),
    float: Double(),
    bool: Boolean(),
    datetime: BigInteger(),
}

generations = Table(
    "diptych_generations",
    MetaData(),
    Column("projection", String, primary_key=True),
    Column("generation", BigInteger, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("shape", String, nullable=False),
    # The one generation of a projection that answers, to code of this shape.
    Column("active", Boolean, nullable=False),
    # The checkpoint. Everything up to `position` is applied; the event there has `event_id` (empty at 0).
    Column("position", BigInteger, nullable=False),
    Column("event_id", String, nullable=False),
    # The log that it was folded from: 16 hexadecimal digits, and [[epoch, first position], ...]. Empty before the
    # first contact with the log.
    Column("log_id", String, nullable=False),
    Column("epochs", String, nullable=False),
    # Random, in hexadecimal: whoever fills the tables anew, in place or in another file, gives another one.
    Column("filling", String, nullable=False, server_default=""),
    # Fence of the lease that writes it: a leader with another fence may change nothing.
    Column("fence", BigInteger, nullable=False, server_default="0"),
    # Rows that were deleted after this position still have their tombstones.
    Column("tombstone_floor", BigInteger, nullable=False, server_default="0"),
    # An operator paused it: nothing is applied after the checkpoint until it is resumed.
    Column("paused", Boolean, nullable=False, server_default=false()),
    # What it is for while it does not answer: FILLING, RETURNING or DROPPED. Empty: it answers, or it is kept.
    Column("stage", String, nullable=False, server_default=""),
    # The names of its views, as a JSON array, so that other code than its own can drop its tables. Empty: not known.
    Column("views", String, nullable=False, server_default=""),
    # How many streams are parked; how many events are left out, discarded ones among them, and the last of them.
    Column("parked_streams", BigInteger, nullable=False, server_default="0"),
    Column("left_out_events", BigInteger, nullable=False, server_default="0"),
    Column("left_out_position", BigInteger, nullable=False, server_default="0"),
)
"""Every generation of every projection, with its checkpoint, which is written with the rows it speaks of.

Of one projection several may be active, of different shapes: each answers for the code that has its shape.
"""

FILLING = "filling"
"""The stage of a new generation that is being filled, to answer when it has caught up."""

RETURNING = "returning"
"""The stage of a kept generation that catches up, to answer again."""

DROPPED = "dropped"
"""The stage of a generation that nobody wants any more. Its rows and tables go, a few at a time."""


marks = Table(
    "diptych_marks",
    MetaData(),
    Column("projection", String, primary_key=True),
    Column("generation", BigInteger, primary_key=True),
    # At that time, in microseconds since 1970, everything up to that position was applied.
    Column("position", BigInteger, primary_key=True),
    Column("time", BigInteger, nullable=False),
)
"""When checkpoints were passed, now and then: what tells how old a tombstone is."""

parked = Table(
    "diptych_parked",
    MetaData(),
    Column("projection", String, primary_key=True),
    Column("generation", BigInteger, primary_key=True),
    # The event that could not be folded first.
    Column("first_position", BigInteger, primary_key=True),
    Column("aggregate_type", String, nullable=False),
    Column("aggregate_id", String, nullable=False),
    # Why the last attempt failed: a sentence, and the end of the trace.
    Column("error", String, nullable=False),
    Column("trace", String, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    # In microseconds since 1970.
    Column("park_time", BigInteger, nullable=False),
    # When an operator let the stream go on without what is left out; NULL: it is parked.
    Column("discard_time", BigInteger),
    # The event that failed in the last attempt, a `RecordedEvent`.
    Column("event", LargeBinary, nullable=False),
)
"""Streams that are parked in a generation, and those of which a part was discarded."""


parked_events = Table(
    "diptych_parked_events",
    MetaData(),
    Column("projection", String, primary_key=True),
    Column("generation", BigInteger, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    # The first event of those that were parked together, which names their row in `parked`.
    Column("first_position", BigInteger, nullable=False),
    Index("diptych_parked_events_first", "projection", "generation", "first_position", "position"),
    sqlite_with_rowid=False,
)
"""Every event that is left out of a generation: a view is the fold of the log without these."""


def new_filling() -> str:
    """What tells one filling of a generation's tables from every other."""
    return os.urandom(8).hex()


class Checkpoint(NamedTuple):
    """How far a generation is. The event at `position` has `event_id`; at 0 there is none."""

    position: int
    event_id: str


def shape(projection: Projection) -> str:
    """A digest of what a projection's tables and rows look like. It may change only with the version."""
    parts = [
        [
            view.name,
            _fields(view.row.DESCRIPTOR, set()),
            [[column.name, column.kind.__name__, column.indexed] for column in view.columns.values()],
            [[column.name for column in columns] for columns in view.indexes],
        ]
        for view in projection.views
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _fields(message: descriptor.Descriptor, seen: set[str]) -> list[Any]:
    if message.full_name in seen:
        return [message.full_name]
    seen.add(message.full_name)
    return [
        [
            field.number,
            field.type,
            field.is_repeated,
            _fields(field.message_type, seen) if field.message_type is not None else None,
        ]
        for field in message.fields
    ]


def view_table_name(view: str, generation: int) -> str:
    """The name of the table of one view in one generation."""
    return f"{view}_g{generation}"


def view_table(view: View[Any], generation: int) -> Table:
    """The table of one view in one generation."""
    name = view_table_name(view.name, generation)
    table = Table(
        name,
        MetaData(),
        Column("key", String, primary_key=True),
        # The position that last changed the row.
        Column("position", BigInteger, nullable=False),
        # The message, serialised deterministically; NULL: deleted.
        Column("row", LargeBinary),
        *(Column(column.name, _TYPES[column.kind]) for column in view.columns.values()),
        sqlite_with_rowid=False,
    )
    # What follows a place is read in this order.
    Index(f"{name}_position", table.c.position, table.c.key)
    deleted = table.c.row.is_(None)
    Index(f"{name}_tombstones", table.c.position, sqlite_where=deleted, postgresql_where=deleted)
    for column in view.columns.values():
        if column.indexed:
            Index(f"{name}_{column.name}", table.c[column.name], table.c.key)
    for columns in view.indexes:
        Index(f"{name}_{'_'.join(c.name for c in columns)}", *(table.c[c.name] for c in columns), table.c.key)
    return table
