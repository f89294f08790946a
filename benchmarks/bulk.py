"""Bulk files: logs and read models with millions of rows, written by SQL because commands would take hours.

The rows of a read model are folded from events like all others. The events of a log have the right sizes and indexes,
but the same content. The measurement itself goes through the real programs on these files.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex

from benchmarks import workloads
from diptych.domain.folding import Folding
from diptych.domain.projection import View
from diptych.storage.read_store_schema import view_table
from diptych.v1.events_pb2 import RecordedEvent
from shop.product_views import product_rows, products
from shop.v1.product_commands_pb2 import CreateProductRequest
from shop.v1.product_events_pb2 import ProductCreated

_GROUP = 10_000
_PRAGMAS = "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-400000; PRAGMA temp_store=MEMORY;"


def fill_products(path: str, count: int) -> None:
    """Write `count` products into a new read store's view `products`, as a projector would have."""
    _fill(path, product_rows, lambda: _products(count))


def _products(count: int) -> Iterator[tuple[Any, ...]]:
    folding = Folding(products)
    for start in range(0, count, _GROUP):
        events = [_created(n) for n in range(start, min(count, start + _GROUP))]
        prepared = folding.prepare(events)
        folded = folding.fold(prepared, [{} for _ in products.views])
        for key, _, *rest in folded.changed[product_rows.index].values():
            yield key, 0, *rest


def _created(n: int) -> RecordedEvent:
    command = workloads.create_product(n)
    assert isinstance(command, CreateProductRequest)
    event = ProductCreated(
        product_id=command.product_id,
        name=command.name,
        category=command.category,
        brand=command.brand,
        price=command.price,
        stock=command.stock,
    )
    recorded = RecordedEvent(position=n + 1, version=1)
    recorded.record_time.seconds = 1_767_225_600 + n
    recorded.event.Pack(event)
    return recorded


@contextmanager
def _filling(path: str) -> Iterator[sqlite3.Connection]:
    """Open the file of a server that has ended, and sync it at the end, before anything is measured."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(_PRAGMAS)
        yield connection
        connection.execute("PRAGMA journal_mode=WAL")
    with Path(path).open("rb") as file:
        os.fsync(file.fileno())


def _fill(path: str, view: View[Any], rows: Callable[[], Iterator[tuple[Any, ...]]]) -> None:
    table = view_table(view, 1)
    with _filling(path) as connection:
        for index in table.indexes:
            connection.execute(f"DROP INDEX {index.name}")
        connection.execute("BEGIN")
        marks = ", ".join("?" * len(table.columns))
        connection.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows())
        for index in table.indexes:
            connection.execute(str(CreateIndex(index).compile(dialect=sqlite.dialect())))
        connection.execute("COMMIT")


def fill_log(path: str, events: int, frame_bytes: int) -> None:
    """Append events, each of its own stream, to a log that a command server has made."""
    rng = random.Random(events)
    frame = b"x" * frame_bytes
    names = sorted(f"{rng.getrandbits(40):010x}-bulk" for _ in range(events))
    names = sorted(set(names))
    order = list(range(1, len(names) + 1))
    rng.shuffle(order)
    with _filling(path) as connection:
        (head,) = connection.execute("SELECT head FROM log").fetchone()
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO events (position, stream, version, type, frame) VALUES (?, ?, 1, 'shop.v1.ProductCreated', ?)",
            ((head + n, head + n, frame) for n in range(1, len(names) + 1)),
        )
        connection.executemany(
            "INSERT INTO streams (name, stream, version, position) VALUES (?, ?, 1, ?)",
            ((f"product/{name}", head + n, head + n) for name, n in zip(names, order, strict=True)),
        )
        connection.executemany(
            "INSERT INTO requests (key, digest, stream, version, position) VALUES (?, ?, ?, 1, ?)",
            (("\n" + name, frame[:16], f"product/{name}", head + n) for name, n in zip(names, order, strict=True)),
        )
        connection.execute("UPDATE log SET head = head + ?", (len(names),))
        connection.execute("COMMIT")
