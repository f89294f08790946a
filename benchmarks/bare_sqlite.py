"""Reference S: the time of SQLite alone for the same rows, by `sqlite3`, with the same durability.

A job writes to a file whose tables are made by the product's own definitions.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from command_server.store import schema as log_schema
from diptych.storage.read_store_schema import view_table
from shop.product_views import reviews


def review_key(n: int, count: int) -> str:
    """Return the key of review `number` of `count`. Each key comes once, in random order as real reviews do."""
    return f"product-{n * 7919 % count:09d}/user-{n:09d}"


def append(folder: str, *, seconds: float, group: int, frame_bytes: int) -> float:
    """Append events to a new log, each with its stream and request, in groups; return events per second."""
    connection = _opened(Path(folder) / f"bare-{time.monotonic_ns()}.db")
    dialect = sqlite.dialect()
    for table in log_schema.metadata.sorted_tables:
        connection.execute(str(CreateTable(table).compile(dialect=dialect)))
        for index in table.indexes:
            connection.execute(str(CreateIndex(index).compile(dialect=dialect)))
    with closing(connection):
        return _append(connection, 0, "product-{:09d}".format, seconds, group, frame_bytes)


def append_scattered(path: str, *, seconds: float, group: int, frame_bytes: int) -> float:
    """Append events to a log that a command server has made, with random ids; return events per second."""
    rng = random.Random()
    with closing(_opened(Path(path))) as connection:
        (last,) = connection.execute("SELECT max(position) FROM events").fetchone()
        return _append(connection, last, lambda n: f"{rng.getrandbits(40):010x}-{n}", seconds, group, frame_bytes)


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-32768")
    return connection


def _append(
    connection: sqlite3.Connection,
    last: int,
    name: Callable[[int], str],
    seconds: float,
    group: int,
    frame_bytes: int,
) -> float:
    frame = b"x" * frame_bytes
    count = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        numbers = range(last + count + 1, last + count + 1 + group)
        names = [name(n) for n in numbers]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO events (position, stream, version, type, frame) VALUES (?, ?, 1, 'shop.v1.ProductCreated', ?)",
            [(n, n, frame) for n in numbers],
        )
        connection.executemany(
            "INSERT INTO streams (name, stream, version, position) VALUES (?, ?, 1, ?)",
            [(f"product/{one}", n, n) for n, one in zip(numbers, names, strict=True)],
        )
        connection.executemany(
            "INSERT INTO requests (key, digest, stream, version, position) VALUES (?, ?, ?, 1, ?)",
            [(f"\n{name(n)}", frame[:16], f"product/{one}", n) for n, one in zip(numbers, names, strict=True)],
        )
        connection.execute("COMMIT")
        count += group
    return count / (time.perf_counter() - began)


def upsert(folder: str, *, rows: int, group: int, row_bytes: int) -> float:
    """Upsert rows of one view's table in groups, with the settings of the projector's file; return rows per second."""
    path = Path(folder) / f"bare-{time.monotonic_ns()}.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    table = view_table(reviews, 1)
    dialect = sqlite.dialect()
    connection.execute(str(CreateTable(table).compile(dialect=dialect)))
    for index in table.indexes:
        connection.execute(str(CreateIndex(index).compile(dialect=dialect)))
    statement = (
        f"INSERT INTO {table.name} (key, position, row) VALUES (?, ?, ?) "
        "ON CONFLICT (key) DO UPDATE SET position = excluded.position, row = excluded.row"
    )
    row = b"x" * row_bytes
    began = time.perf_counter()
    for start in range(1, rows + 1, group):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            statement,
            [(review_key(n, rows), n, row) for n in range(start, min(rows + 1, start + group))],
        )
        connection.execute("COMMIT")
    took = time.perf_counter() - began
    connection.close()
    return rows / took
