"""Creation of the log's tables, and upgrades of a log with an older schema version."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from pathlib import Path

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from command_server.store import schema, statements
from diptych.contract.frames import recorded
from diptych.contract.token import LogIdentity
from diptych.server.errors import StartError


def create_or_upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables of a new log, or upgrade an older one, in the open transaction.

    1. Version 1 gets the tables of processes.
    2. Version 2 gets acceptance times of request ids. Those that it has count as accepted now, as it has no times.

    Raises:
        StartError: the file is no log, or of another schema version.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        _create_log(connection)
        return
    if not tables >= set(schema.metadata.tables) - schema.TABLES_SINCE_2 - schema.TABLES_SINCE_3:
        raise StartError(f"{path} is an SQLite file of something else, and no log.")
    version, _ = connection.execute(statements.IDENTITY.sql).fetchone()
    if version == 1:
        _create_tables(connection, schema.TABLES_SINCE_2 - tables)
        version = 2
    if version == 2:
        _create_tables(connection, schema.TABLES_SINCE_3)
        # A column with a constant default: no row is written, however long the log is.
        connection.execute(f"ALTER TABLE requests ADD COLUMN accepted_at BIGINT NOT NULL DEFAULT {_now(connection)}")
        version = 3
    if version != schema.SCHEMA_VERSION:
        raise StartError(f"The log {path} has schema version {version}, and this program has {schema.SCHEMA_VERSION}.")
    connection.execute("UPDATE log SET schema_version = ? WHERE schema_version < ?", (version, version))


def _now(connection: sqlite3.Connection) -> int:
    """Return the time in microseconds since 1970; at least the record time of the last event."""
    (last,) = connection.execute(statements.LAST_POSITION.sql).fetchone()
    now = time.time_ns() // 1000
    if last is None:
        return now
    (frame,) = connection.execute(statements.FRAME_AT.sql, (last,)).fetchone()
    return max(now, recorded(frame).record_time.ToMicroseconds())


def _create_log(connection: sqlite3.Connection) -> None:
    _create_tables(connection, schema.metadata.tables)
    identity = LogIdentity.new()
    connection.execute(
        "INSERT INTO log (singleton, schema_version, log_id, epoch, head) VALUES (1, ?, ?, ?, 0)",
        (schema.SCHEMA_VERSION, identity.log_id, identity.epoch),
    )
    connection.executemany("INSERT INTO epochs (epoch, first_position) VALUES (?, ?)", identity.epochs)


def _create_tables(connection: sqlite3.Connection, names: Collection[str]) -> None:
    dialect = sqlite.dialect()
    for name in names:
        table = schema.metadata.tables[name]
        connection.execute(str(CreateTable(table).compile(dialect=dialect)))
        for index in table.indexes:
            connection.execute(str(CreateIndex(index).compile(dialect=dialect)))
