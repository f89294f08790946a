"""Text search: the cost of a search without a match, which has to read every row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.bench import Bench, case
from benchmarks.cases.commands import DRIVER, field
from benchmarks.cases.queries import filled
from benchmarks.measure import Measure, alone


@case("search")
def search(bench: Bench) -> Iterator[Measure]:
    """Text search over 100,000 products, with and without a match; one caller."""
    pair = filled(bench, 100_000, cache_bytes_max=0)
    client = bench.worker()

    def page(text: str) -> Any:
        return client.call(
            f"{DRIVER}:closed",
            address=pair.query.address,
            workload="search_products",
            first=0,
            concurrency=1,
            seconds=1.0,
            options={"text": text},
            rate_max=2000,
        )

    found, missing = bench.rounds(lambda: page("number 9"), lambda: page("no such thing"), times=3)
    yield alone("search/found", "SearchProducts by text, found, p50", field(found, "p50"), "ms")
    yield alone("search/missing", "SearchProducts by text, nothing found, p50", field(missing, "p50"), "ms")
