"""The five joined tables, with an average and a count, that a denormalised product replaces.

Both sides run on SQLite in one process without a network: the join by plain SQL, and the view by the query server's own
statements on a read store's table.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from benchmarks import workloads
from benchmarks.measure import percentile
from diptych.domain.query import Find
from query_server.rows.statements import Statements, find_values
from shop import product_views
from shop.v1.product_queries_pb2 import SearchProductsRequest

_SCHEMA = """
CREATE TABLE categories (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE brands (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE products (id TEXT PRIMARY KEY, name TEXT NOT NULL, category_id INTEGER NOT NULL REFERENCES categories,
    brand_id INTEGER NOT NULL REFERENCES brands, stock INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE prices (product_id TEXT PRIMARY KEY REFERENCES products, currency TEXT, units INTEGER, nanos INTEGER)
    WITHOUT ROWID;
CREATE TABLE reviews (product_id TEXT NOT NULL REFERENCES products, user_id TEXT NOT NULL, rating INTEGER NOT NULL,
    text TEXT NOT NULL, PRIMARY KEY (product_id, user_id)) WITHOUT ROWID;
"""
_JOIN = """
SELECT p.id, p.name, c.name, b.name, pr.currency, pr.units, pr.nanos, p.stock, AVG(r.rating) AS rating, COUNT(r.rating)
FROM products p JOIN categories c ON c.id = p.category_id JOIN brands b ON b.id = p.brand_id
JOIN prices pr ON pr.product_id = p.id LEFT JOIN reviews r ON r.product_id = p.id
"""
_ONE = f"{_JOIN} WHERE p.id = ? GROUP BY p.id"
_BEST = f"{_JOIN} WHERE c.name = ? GROUP BY p.id ORDER BY rating DESC, p.id DESC LIMIT 20"


def make(path: str, products: int, reviews: int) -> None:
    """Make the joined tables, with every index that helps."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript("PRAGMA synchronous=OFF; PRAGMA journal_mode=WAL;")
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN")
        categories, brands = range(workloads.CATEGORIES), range(workloads.BRANDS)
        connection.executemany("INSERT INTO categories VALUES (?, ?)", ((n, f"category {n}") for n in categories))
        connection.executemany("INSERT INTO brands VALUES (?, ?)", ((n, f"brand {n}") for n in brands))
        connection.executemany(
            "INSERT INTO products VALUES (?, ?, ?, ?, 100)",
            (
                (f"product-{n:09d}", f"Number {n}", n % workloads.CATEGORIES, n % workloads.BRANDS)
                for n in range(products)
            ),
        )
        connection.executemany(
            "INSERT INTO prices VALUES (?, 'GBP', ?, 0)", ((f"product-{n:09d}", n % 100) for n in range(products))
        )
        each = reviews // products
        connection.executemany(
            "INSERT INTO reviews VALUES (?, ?, ?, 'It does what it says.')",
            (
                (f"product-{n:09d}", f"user-{user:09d}", 1 + (n * 7 + user) % 5)
                for n in range(products)
                for user in range(each)
            ),
        )
        connection.execute("CREATE INDEX products_category ON products (category_id, id)")
        connection.execute("CREATE INDEX categories_name ON categories (name)")
        connection.execute("ANALYZE")
        connection.execute("COMMIT")


def joined(path: str, products: int, seconds: float) -> dict[str, float]:
    """Return the microseconds to read one product, and the twenty best of a category, from the joined tables."""
    with closing(sqlite3.connect(path)) as connection:
        return {
            "one": _median(lambda n: connection.execute(_ONE, (_key(n, products),)).fetchall(), seconds),
            "best": _median(lambda n: connection.execute(_BEST, (_category(n),)).fetchall(), seconds),
        }


def denormalised(path: str, products: int, seconds: float) -> dict[str, float]:
    """Return the same times for a read store, by the query server's own statements."""
    statements, view = Statements(), product_views.product_rows
    by_key = statements.by_key(view, 1).one
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def find_best(n: int) -> Find:
        found = product_views.search(SearchProductsRequest(category=_category(n)), now)
        return Find(*found.conditions, order=product_views.rating.descending())

    page = statements.find(view, 1, find_best(0), after=False, total=False)
    active = {"projection": "products", "generation": 1}
    with closing(sqlite3.connect(path)) as connection:
        (filled,) = connection.execute("SELECT COUNT(*) FROM products_g1").fetchone()
        if filled != products:
            raise AssertionError(f"the view has {filled} rows")

        def one(n: int) -> Any:
            return connection.execute(by_key.sql, by_key.bind(key=_key(n, products), **active)).fetchall()

        def best(n: int) -> Any:
            values = find_values(find_best(n), None, 20)
            return connection.execute(page.sql, page.bind(**values, **active)).fetchall()

        return {"one": _median(one, seconds), "best": _median(best, seconds)}


def _key(n: int, products: int) -> str:
    return f"product-{n * 7919 % products:09d}"


def _category(n: int) -> str:
    return f"category {n % workloads.CATEGORIES}"


def _median(read: Callable[[int], Any], seconds: float) -> float:
    """Return the median time of a read in microseconds, over different rows."""
    for n in range(3):
        if not read(n):
            raise AssertionError("it reads nothing")
    took: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until or len(took) < 5:
        read(len(took) + 3)
        took.append((time.perf_counter() - began) * 1e6)
    return percentile(took, 50)
