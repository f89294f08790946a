"""The library `eventsourcing` as its documentation uses it: an aggregate, an application, an SQLite file."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking
from eventsourcing.projection import Projection
from eventsourcing.sqlite import SQLiteDatastore, SQLiteTrackingRecorder
from eventsourcing.utils import get_topic

AGGREGATES = 1000


class Product(Aggregate):
    """A product with a stock."""

    class Created(Aggregate.Created):
        """Create the product."""

        name: str
        category: str
        brand: str
        price: int
        stock: int

    @event(Created)
    def __init__(self, name: str, category: str, brand: str, price: int, stock: int) -> None:
        self.name = name
        self.category = category
        self.brand = brand
        self.price = price
        self.stock = stock

    @event("StockAdjusted")
    def adjust(self, delta: int, reason: str) -> None:
        """Add pieces, or remove them."""
        self.stock += delta


class Shop(Application[UUID]):
    """Application of products."""

    def create(self, n: int) -> UUID:
        """Create a product and return its id."""
        product = Product(f"A product that is called number {n}", "category", "brand", n, 1_000_000)
        self.save(product)
        product_id: UUID = product.id
        return product_id

    def adjust(self, product_id: UUID) -> None:
        """Remove a piece from the stock."""
        product: Product = self.repository.get(product_id)
        product.adjust(-1, "sold")
        self.save(product)


def _environment(folder: str, name: str) -> dict[str, str]:
    path = Path(folder) / f"eventsourcing-{name}-{time.monotonic_ns()}.db"
    return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}


def saves(folder: str, seconds: float) -> float:
    """Save new aggregates; return aggregates per second."""
    shop = Shop(env=_environment(folder, "saves"))
    count = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        shop.create(count)
        count += 1
    rate = count / (time.perf_counter() - began)
    shop.close()
    return rate


def load_saves(folder: str, seconds: float) -> float:
    """Load, change and save aggregates of 10 events and a few more; return aggregates per second."""
    shop = Shop(env=_environment(folder, "load"))
    ids = []
    for n in range(AGGREGATES):
        product = Product(f"number {n}", "category", "brand", n, 1_000_000)
        for _ in range(9):
            product.adjust(-1, "sold")
        shop.save(product)
        ids.append(product.id)
    count = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        shop.adjust(ids[count * 7919 % AGGREGATES])
        count += 1
    rate = count / (time.perf_counter() - began)
    shop.close()
    return rate


class _Rows(SQLiteTrackingRecorder):
    """Read model: a table with a row for each event, and its tracking."""

    def __init__(self, datastore: SQLiteDatastore, **kwargs: Any) -> None:
        super().__init__(datastore, **kwargs)
        self.create_table_statements.append("CREATE TABLE IF NOT EXISTS products (id TEXT PRIMARY KEY, name TEXT)")

    def put(self, product_id: UUID, name: str, tracking: Tracking) -> None:
        """Write a row and the projection's position in one transaction."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute("INSERT INTO products VALUES (?, ?)", (str(product_id), name))


class _Products(Projection[_Rows]):
    """Projection with a row for each product."""

    name = "products"
    topics = (get_topic(Product.Created),)

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Ignore other events."""
        self.view.insert_tracking(tracking)

    @process_event.register
    def _(self, domain_event: Product.Created, tracking: Tracking) -> None:
        self.view.put(domain_event.originator_id, domain_event.name, tracking)


def projects(folder: str, events: int) -> float:
    """Project events, each into its own row; return events per second."""
    env = _environment(folder, "log")
    shop = Shop(env=env)
    products = [Product(f"number {n}", "category", "brand", n, 1_000_000) for n in range(events)]
    for start in range(0, events, 500):
        shop.save(*products[start : start + 500])
    view = str(Path(folder) / f"eventsourcing-view-{time.monotonic_ns()}.db")
    rows_of = _Rows(SQLiteDatastore(view))
    rows_of.create_table()
    projection = _Products(rows_of)
    last = 0
    began = time.perf_counter()
    # The SQLite recorder has no subscription, which would do the same event by event.
    while notifications := shop.recorder.select_notifications(start=last + 1, limit=500):
        for notification in notifications:
            domain_event = shop.mapper.to_domain_event(notification)
            projection.process_event(domain_event, Tracking(shop.name, notification.id))
        last = notifications[-1].id
    took = time.perf_counter() - began
    shop.close()
    rows_of.datastore.close()
    with sqlite3.connect(view) as read:
        (rows,) = read.execute("SELECT COUNT(*) FROM products").fetchone()
    if rows != events:
        raise AssertionError(f"{rows} rows of {events} events")
    Path(view).unlink()
    return events / took
