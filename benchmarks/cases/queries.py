"""Queries: rows by key, lists, and the saving of a denormalised row."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, case, quiet_pair
from benchmarks.cases.commands import DRIVER, field
from benchmarks.h2load import unary_rate
from benchmarks.measure import Measure, absent, alone, compared
from benchmarks.worker import Worker
from benchmarks.workloads import requests
from tests.support.pair import Pair
from tests.support.programs import Server

PRODUCTS = 10_000


def _with_products(bench: Bench, client: Worker, name: str = "pair", **query: object) -> tuple[Pair, str]:
    """Return a pair with products made by commands, and the token of the last one."""
    pair = bench.pair(name, {"query-server": query})
    pair.start()
    loaded = client.call(
        f"{DRIVER}:load", address=pair.command.address, workload="create_product", first=0, count=PRODUCTS
    )
    client.call(f"{DRIVER}:wait_for", address=pair.query.address, token=loaded["token"])
    bench.numbers()
    return pair, loaded["token"]


def _get(bench: Bench, client: Worker, server: Server, **more: Any) -> Any:
    return client.call(
        f"{DRIVER}:closed",
        address=server.address,
        workload="get_product",
        first=0,
        concurrency=64,
        seconds=bench.effort.seconds,
        options={"products": PRODUCTS},
        **more,
    )


@case("get", quick=True)
def get(bench: Bench) -> Iterator[Measure]:
    """Get by key, cached, with and without a token already reached; 64 concurrent."""
    echo, client = bench.echo(), bench.worker()
    pair, token = _with_products(bench, client)
    size = _get(bench, client, pair.query)["response_bytes"]
    plain, fresh, echoed, told = bench.rounds(
        lambda: _get(bench, client, pair.query),
        lambda: _get(bench, client, pair.query, metadata={"diptych-token": token}),
        lambda: _get(bench, client, echo, method=f"/benchmarks.Echo/Unary{size}"),
        lambda: _get(bench, client, echo, method=f"/benchmarks.Echo/Told{size}"),
    )
    e = field(echoed, "rate")
    yield compared("get/cached", "GetProduct, cached", field(plain, "rate"), "/s", "E at 64", e, at_least=0.90)
    yield compared(
        "get/token", "GetProduct, cached, with a token", field(fresh, "rate"), "/s", "E at 64", e, at_least=0.90
    )
    if bench.effort.quick:
        return
    yield compared("get/told", "a bare echo with a token in its trailers", field(told, "rate"), "/s", "E at 64", e)
    request = requests("get_product", 1, 1, products=PRODUCTS)[0]
    path = "/shop.v1.QueryService/GetProduct"

    def ours() -> float | None:
        return unary_rate(pair.query.address, path, request, bench.folder, clients=4, streams=16, seconds=2)

    def bare() -> float | None:
        return unary_rate(
            echo.address, f"/benchmarks.Echo/Unary{size}", request, bench.folder, clients=4, streams=16, seconds=2
        )

    if ours() is None:
        yield absent("get/h2load", "GetProduct by h2load", "h2load is not installed (Debian: nghttp2-client)")
        return
    got, answered = bench.rounds(ours, bare, warm_up=False, times=3)
    yield compared("get/h2load", "GetProduct, cached, by h2load", got, "/s", "E by h2load", answered)


@case("get-uncached", quick=True)
def get_uncached(bench: Bench) -> Iterator[Measure]:
    """Get by key, not cached; 64 concurrent."""
    echo, client = bench.echo(), bench.worker()
    pair, _ = _with_products(bench, client, cache_bytes_max=0)
    size = _get(bench, client, pair.query)["response_bytes"]
    read, echoed = bench.rounds(
        lambda: _get(bench, client, pair.query),
        lambda: _get(bench, client, echo, method=f"/benchmarks.Echo/Unary{size}"),
    )
    yield compared(
        "get-uncached/echo",
        "GetProduct, not cached",
        field(read, "rate"),
        "/s",
        "E at 64",
        field(echoed, "rate"),
        at_least=0.50,
    )


@case("mixed")
def mixed(bench: Bench) -> Iterator[Measure]:
    """A thousand reads to a write; 64 concurrent."""
    echo, client = bench.echo(), bench.worker()
    pair, _ = _with_products(bench, client)
    size = _get(bench, client, pair.query)["response_bytes"]

    def ours() -> Any:
        write = {
            "address": pair.command.address,
            "workload": "create_product",
            "first": bench.numbers(1000),
            "every": 1000,
        }
        return _get(bench, client, pair.query, between=write)

    mixes, echoed = bench.rounds(ours, lambda: _get(bench, client, echo, method=f"/benchmarks.Echo/Unary{size}"))
    yield compared(
        "mixed/echo",
        "1,000 GetProduct to a command",
        field(mixes, "rate"),
        "/s",
        "E at 64",
        field(echoed, "rate"),
        at_least=0.85,
    )


def filled(bench: Bench, count: int, **query: object) -> Pair:
    """Return a started pair with `products` products that were written in bulk; its log is empty."""
    prepared = bench.shared_folder / f"products-{count}"
    if not prepared.exists():
        with quiet_pair(bench.folder / "empty") as empty:
            empty.start()
        bench.worker().call("benchmarks.bulk:fill_products", path=str(bench.folder / "empty" / "read.db"), count=count)
        shutil.copytree(bench.folder / "empty", prepared, ignore=shutil.ignore_patterns("*.lock", "*.log"))
    folder: Path = bench.folder / f"filled-{count}"
    shutil.copytree(prepared, folder)
    pair = bench.pair(folder.name, {"query-server": query})
    pair.start()
    return pair


@case("list")
def list_page(bench: Bench) -> Iterator[Measure]:
    """A list with a filter and a page of 20 over 1,000,000 rows, first page and deep; 64 concurrent."""
    count, categories = 1_000_000, 5
    echo, client = bench.echo(), bench.worker()
    pair = filled(bench, count, cache_bytes_max=0)
    tokens = [
        client.call(f"{DRIVER}:page_token", address=pair.query.address, category=category, pages=18)
        for category in range(categories)
    ]

    def page(server: Server, method: str = "", page_tokens: list[str] | None = None) -> Any:
        return client.call(
            f"{DRIVER}:closed",
            address=server.address,
            workload="search_products",
            first=0,
            concurrency=64,
            seconds=bench.effort.seconds,
            method=method,
            options={"categories": categories, "page_tokens": page_tokens or []},
        )

    size = page(pair.query)["response_bytes"]
    first, deep, echoed = bench.rounds(
        lambda: page(pair.query),
        lambda: page(pair.query, page_tokens=tokens),
        lambda: page(echo, f"/benchmarks.Echo/Unary{size}"),
        times=4,
    )
    yield compared(
        "list/echo",
        "SearchProducts, page 1 of a category, of 1,000,000 rows, not cached",
        field(first, "rate"),
        "/s",
        f"E at 64, {size} bytes",
        field(echoed, "rate"),
        at_least=0.25,
    )
    yield compared(
        "list/depth", "the same, page 901", field(deep, "rate"), "/s", "page 1", field(first, "rate"), at_least=0.9
    )


@case("document")
def document(bench: Bench) -> Iterator[Measure]:
    """The denormalised product beside the five-table join, with average and count, that it replaces."""
    products, reviews = 100_000, 1_000_000
    client, other = bench.worker(), bench.worker()
    tables = str(bench.folder / "tables.db")
    other.start("benchmarks.normalised:make", path=tables, products=products, reviews=reviews)
    pair = filled(bench, products)
    pair.stop()
    other.result()
    view = str(pair.data / "read.db")
    rows, joins = bench.rounds(
        lambda: client.call("benchmarks.normalised:denormalised", path=view, products=products, seconds=0.5),
        lambda: other.call("benchmarks.normalised:joined", path=tables, products=products, seconds=0.5),
    )
    yield compared(
        "document/best",
        "the 20 best rated products of a category, 100,000 products",
        field(rows, "best"),
        "us",
        "the join over 1,000,000 reviews",
        field(joins, "best"),
        less_is_better=True,
        at_least=100,
    )
    yield compared(
        "document/one",
        "one product by its id",
        field(rows, "one"),
        "us",
        "the join of that product's ten reviews",
        field(joins, "one"),
        less_is_better=True,
    )


@case("query-servers")
def query_servers(bench: Bench) -> Iterator[Measure]:
    """Two query servers on one read store beside one, driven by h2load."""
    name, what = "query-servers/two", "GetProduct, two query servers"
    client = bench.worker()
    pair, _ = _with_products(bench, client)
    second = pair.another_query_server()
    request = requests("get_product", 1, 1, products=PRODUCTS)[0]
    path = "/shop.v1.QueryService/GetProduct"
    _get(bench, client, second)

    def rate(address: str, folder: str) -> float | None:
        own = bench.folder / folder
        own.mkdir(exist_ok=True)
        return unary_rate(address, path, request, own, clients=4, streams=16, seconds=2)

    def both() -> float:
        with ThreadPoolExecutor(2) as threads:
            rates = list(threads.map(rate, (pair.query.address, second.address), ("one", "two")))
        return sum(one or 0 for one in rates)

    if rate(pair.query.address, "one") is None:
        yield absent(name, what, "h2load is not installed (Debian: nghttp2-client)")
        return
    two, one = bench.rounds(both, lambda: rate(pair.query.address, "one"), times=3)
    yield compared(
        name,
        what,
        two,
        "/s",
        "one query server",
        one,
        at_least=1.5,
        note="on two cores the client takes a share of both",
    )


@case("query-1")
def query_1(bench: Bench) -> Iterator[Measure]:
    """Get by key, one caller: the time it adds to an echo."""
    echo, client = bench.echo(), bench.worker()
    pair, _ = _with_products(bench, client)

    def one(server: Server, method: str = "") -> Any:
        return client.call(
            f"{DRIVER}:closed",
            address=server.address,
            workload="get_product",
            first=0,
            concurrency=1,
            seconds=bench.effort.seconds,
            method=method,
            options={"products": PRODUCTS},
            rate_max=10_000,
        )

    size = one(pair.query)["response_bytes"]
    got, echoed = bench.rounds(lambda: one(pair.query), lambda: one(echo, f"/benchmarks.Echo/Unary{size}"))
    added = [mine["p50"] - bare["p50"] for mine, bare in zip(got, echoed, strict=True)]
    yield alone("query-1/added", "GetProduct, cached, one caller, p50 over that of E", added, "ms")
