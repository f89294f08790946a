"""The log's tables, written once for every SQL dialect."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table

SCHEMA_VERSION = 1

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
    # SQLite makes this the row id only if the type is INTEGER to the letter.
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
    # Caller and request id, as `writer.request_key` makes it.
    Column("key", String, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("stream", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    sqlite_with_rowid=False,
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
