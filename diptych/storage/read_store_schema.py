"""Schema of the read store: the tables of projections, which the projector writes and query servers read.

The data is derived and belongs to its projections. Every generation of a projection has tables of its own, created
with the generation and deleted after it is dropped. A row has the bytes that go on the wire, and the columns by which
queries filter and order. A deleted row stays for a time as a *tombstone*: a row whose bytes are NULL.
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
    # True for the one generation of a projection that answers code of this shape.
    Column("active", Boolean, nullable=False),
    # The checkpoint. Everything up to `position` is applied; the event there has `event_id` (empty at 0).
    Column("position", BigInteger, nullable=False),
    Column("event_id", String, nullable=False),
    # Log that the rows come from: 16 hexadecimal digits, and [[epoch, first position], ...]. Empty before the first
    # contact with the log.
    Column("log_id", String, nullable=False),
    Column("epochs", String, nullable=False),
    # Random name, in hexadecimal, of this filling of the tables: filling them again, in place or in another file,
    # changes it.
    Column("filling", String, nullable=False, server_default=""),
    # Fence of the lease that writes it: a leader with another fence may change nothing.
    Column("fence", BigInteger, nullable=False, server_default="0"),
    # Rows that were deleted after this position still have tombstones.
    Column("tombstone_floor", BigInteger, nullable=False, server_default="0"),
    # True while an operator has paused it: nothing after the checkpoint is applied.
    Column("paused", Boolean, nullable=False, server_default=false()),
    # FILLING, RETURNING or DROPPED. Empty: the generation is active or kept.
    Column("stage", String, nullable=False, server_default=""),
    # Names of its views, as a JSON array, by which other code can drop its tables. Empty: not recorded.
    Column("views", String, nullable=False, server_default=""),
    # Digest of the code that began it, after Python's version, as 3.11:0123456789abcdef. Empty: not recorded.
    Column("code", String, nullable=False, server_default=""),
    # Number of parked streams; number of left out events, discarded ones included; position of the last of them.
    Column("parked_streams", BigInteger, nullable=False, server_default="0"),
    Column("left_out_events", BigInteger, nullable=False, server_default="0"),
    Column("left_out_position", BigInteger, nullable=False, server_default="0"),
)
"""Every generation of every projection, with its checkpoint, which is written together with the rows.

A projection may have several active generations with different shapes. Each answers the code that has its shape.
"""

FILLING = "filling"
"""Stage of a new generation that is being filled, and becomes active when it has caught up."""

RETURNING = "returning"
"""Stage of a kept generation that catches up to become active again."""

DROPPED = "dropped"
"""Stage of a generation whose rows and tables are deleted, a few rows at a time."""


marks = Table(
    "diptych_marks",
    MetaData(),
    Column("projection", String, primary_key=True),
    Column("generation", BigInteger, primary_key=True),
    # Everything up to this position was applied at `time`, in microseconds since 1970.
    Column("position", BigInteger, primary_key=True),
    Column("time", BigInteger, nullable=False),
)
"""Marks: times at which checkpoints were passed, from which the age of a tombstone follows."""

parked = Table(
    "diptych_parked",
    MetaData(),
    Column("projection", String, primary_key=True),
    Column("generation", BigInteger, primary_key=True),
    # Position of the first event that could not be folded.
    Column("first_position", BigInteger, primary_key=True),
    Column("aggregate_type", String, nullable=False),
    Column("aggregate_id", String, nullable=False),
    # Cause of the last failure: a sentence, and the end of the trace.
    Column("error", String, nullable=False),
    Column("trace", String, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    # In microseconds since 1970.
    Column("park_time", BigInteger, nullable=False),
    # Time at which an operator let the stream go on without its left out events; NULL: it is parked.
    Column("discard_time", BigInteger),
    # Event that failed in the last attempt, a `RecordedEvent`.
    Column("event", LargeBinary, nullable=False),
)
"""Parked streams of a generation, and streams of which a part was discarded."""


parked_events = Table(
    "diptych_parked_events",
    MetaData(),
    Column("projection", String, primary_key=True),
    Column("generation", BigInteger, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    # Position of the first of the events that were parked together: the key of their row in `parked`.
    Column("first_position", BigInteger, nullable=False),
    Index("diptych_parked_events_first", "projection", "generation", "first_position", "position"),
    sqlite_with_rowid=False,
)
"""Events that are left out of a generation: a view is the fold of the log without these."""


def new_filling() -> str:
    """Return a random name for one filling of a generation's tables."""
    return os.urandom(8).hex()


class Checkpoint(NamedTuple):
    """Position up to which a generation has applied the log, and the event there. At 0 there is no event."""

    position: int
    event_id: str


def shape(projection: Projection) -> str:
    """Return a digest of a projection's views, rows, columns and indexes. It may change only with the version."""
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


def _fields(message: descriptor.Descriptor, described: set[str]) -> list[Any]:
    if message.full_name in described:
        return [message.full_name]
    described.add(message.full_name)
    return [
        [
            field.number,
            field.type,
            field.is_repeated,
            _fields(field.message_type, described) if field.message_type is not None else None,
        ]
        for field in message.fields
    ]


def view_table_name(view: str, generation: int) -> str:
    """Return the name of the table of one view in one generation."""
    return f"{view}_g{generation}"


def view_table(view: View[Any], generation: int) -> Table:
    """Return the table of one view in one generation."""
    name = view_table_name(view.name, generation)
    table = Table(
        name,
        MetaData(),
        Column("key", String, primary_key=True),
        # Position of the event that last changed the row.
        Column("position", BigInteger, nullable=False),
        # The message, serialised deterministically; NULL: deleted.
        Column("row", LargeBinary),
        *(Column(column.name, _TYPES[column.kind]) for column in view.columns.values()),
        sqlite_with_rowid=False,
    )
    # Watches read changes after a position in this order.
    Index(f"{name}_position", table.c.position, table.c.key)
    deleted = table.c.row.is_(None)
    Index(f"{name}_tombstones", table.c.position, sqlite_where=deleted, postgresql_where=deleted)
    for column in view.columns.values():
        if column.indexed:
            Index(f"{name}_{column.name}", table.c[column.name], table.c.key)
    for columns in view.indexes:
        Index(f"{name}_{'_'.join(c.name for c in columns)}", *(table.c[c.name] for c in columns), table.c.key)
    return table
