"""The log's tables, written once for every SQL dialect."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table

SCHEMA_VERSION = 3
"""Version of these tables. Opening a log of an older version upgrades it: `upgrades.upgrade`."""
OLDER_VERSIONS = (1, 2)
TABLES_SINCE_2 = frozenset({"process_work", "process_marks", "parked_inputs"})
"""Tables that version 1 does not have."""
TABLES_SINCE_3 = frozenset({"request_sweeps"})
"""Tables that versions 1 and 2 do not have. `requests.accepted_at` is of version 3, too."""

metadata = MetaData()

log = Table(
    "log",
    metadata,
    Column("singleton", Integer, primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("log_id", LargeBinary, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    # The counter that orders commits: every position comes from here.
    Column("head", BigInteger, nullable=False),
)

epochs = Table(
    "epochs",
    metadata,
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("first_position", BigInteger, nullable=False),
)

events = Table(
    "events",
    metadata,
    # SQLite makes this column the row id only if its type is INTEGER, literally.
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    # The position of the stream's first event, which is unique and never changes.
    Column("stream", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("type", String, nullable=False),
    Column("frame", LargeBinary, nullable=False),
)
Index("events_stream", events.c.stream, events.c.version, unique=True)

streams = Table(
    "streams",
    metadata,
    Column("name", String, primary_key=True),
    Column("stream", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

requests = Table(
    "requests",
    metadata,
    # Caller and request id: `submission.request_key`.
    Column("key", String, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("stream", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    # Microseconds since 1970, UTC, by the command server's clock.
    Column("accepted_at", BigInteger, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)

request_sweeps = Table(
    "request_sweeps",
    metadata,
    Column("singleton", Integer, primary_key=True),
    # Request ids of clients that were accepted before this time may be missing. It never decreases.
    Column("accepted_before", BigInteger, nullable=False),
)

unique_values = Table(
    "unique_values",
    metadata,
    Column("key", String, primary_key=True),
    Column("holder", String, nullable=False),
    sqlite_with_rowid=False,
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("stream", String, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("shape", LargeBinary, nullable=False),
    Column("state", LargeBinary, nullable=False),
)

process_work = Table(
    "process_work",
    metadata,
    # The step of the output, and the output's ordinal in it.
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    Column("process", String, nullable=False),
    Column("instance", String, nullable=False),
    # `records.WorkKind`.
    Column("kind", Integer, nullable=False),
    # Due time of a timeout: microseconds since 1970, UTC; else 0.
    Column("due", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

process_marks = Table(
    "process_marks",
    metadata,
    Column("process", String, primary_key=True),
    Column("position", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

parked_inputs = Table(
    "parked_inputs",
    metadata,
    Column("process", String, primary_key=True),
    Column("instance", String, primary_key=True),
    # Of an event: its position, and -1. Of an outcome: the position of the step, and the ordinal of the output.
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    # Reason why the instance is parked; empty: this input waits behind another one.
    Column("error", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    # Microseconds since 1970, UTC.
    Column("since", BigInteger, nullable=False),
    # Outcome of an output: `diptych.internal.v1.Outcome`.
    Column("outcome", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
