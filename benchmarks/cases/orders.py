"""Orders: fulfilled orders per second, by the process that reserves stock, charges the payment and confirms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.bench import Bench, case
from benchmarks.cases.commands import DRIVER, field
from benchmarks.measure import Measure, compared

_PRODUCTS = 50
_ROUNDS = 4


@case("fulfilment")
def fulfilment(bench: Bench) -> Iterator[Measure]:
    """10,000 orders over 50 products, 64 concurrent, until every one is confirmed; in four rounds."""
    pair, client = bench.pair(), bench.worker()
    pair.command.start()
    address = pair.command.address
    client.call(f"{DRIVER}:load", address=address, workload="create_product", first=0, count=_PRODUCTS)
    client.call(f"{DRIVER}:load", address=address, workload="register_user", first=0, count=1)
    count = bench.effort.scaled(10_000, 1_000) // _ROUNDS

    def ours() -> Any:
        return client.call(
            f"{DRIVER}:orders",
            address=address,
            first=bench.numbers(count),
            count=count,
            concurrency=64,
            products=_PRODUCTS,
        )

    def plain() -> Any:
        return client.call(
            f"{DRIVER}:closed",
            address=address,
            workload="adjust_stock",
            first=bench.numbers(100_000),
            concurrency=64,
            seconds=bench.effort.seconds,
            options={"products": _PRODUCTS},
        )

    rushes, commands = bench.rounds(ours, plain, warm_up=False, times=_ROUNDS)
    each = rushes[0]["events_each"]
    yield compared(
        "fulfilment/orders",
        "orders fulfilled, 50 products, 64 concurrent",
        field(rushes, "rate"),
        "orders/s",
        "AdjustStock of the same products, 64 concurrent",
        field(commands, "rate"),
        note=f"{each:.1f} events an order",
    )
    yield compared(
        "fulfilment/events",
        "the same, in events recorded",
        field(rushes, "events"),
        "/s",
        "AdjustStock of the same products, an event each",
        field(commands, "rate"),
    )
