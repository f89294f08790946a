"""Freshness: the time until an acknowledged change is visible, and with many watchers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from benchmarks.bench import Bench, case
from benchmarks.cases.commands import DRIVER
from benchmarks.measure import Measure, alone, percentile
from benchmarks.worker import Worker
from tests.support.pair import Pair

_RATE = 200
_LABELS = {
    "wait": ("row visible (WaitForVersion)", 2, 8),
    "watch": ("watcher told", 2, 8),
    "query": ("query with its token answered", 3, 10),
}


def _follow(bench: Bench, client: Worker, pair: Pair, how: str, seconds: float) -> list[float]:
    told = client.call(
        f"{DRIVER}:follow",
        commands=pair.command.address,
        queries=pair.query.address,
        first=bench.numbers(10_000),
        rate=_RATE,
        seconds=seconds,
        how=how,
    )
    seen: list[float] = told["seen"]
    return seen


@case("visible")
def visible(bench: Bench) -> Iterator[Measure]:
    """From an acknowledged command to its visible row, at 200 commands a second."""
    pair, client = bench.pair(), bench.worker()
    pair.start()
    for how, (what, p50, p99) in _LABELS.items():
        _follow(bench, client, pair, how, 0.5)
        rounds = [_follow(bench, client, pair, how, 3.0) for _ in range(3)]
        for percent, most in ((50, p50), (99, p99)):
            yield alone(
                f"visible/{how}/p{percent}",
                f"acknowledged -> {what}, p{percent}",
                [percentile(each, percent) for each in rounds],
                "ms",
                ceiling=most,
            )


@case("visible-behind")
def visible_behind(bench: Bench) -> Iterator[Measure]:
    """The same beside a projection that catches up: after a pause, and in a rebuild."""
    users, logins = 2000, 300_000
    pair, client, other = bench.pair(), bench.worker(), bench.worker()
    pair.start()
    other.call(f"{DRIVER}:load", address=pair.command.address, workload="register_user", first=0, count=users)
    other.call(f"{DRIVER}:steer", address=pair.projector.address, what="Pause", projection="users")
    loaded = other.call(
        f"{DRIVER}:load",
        address=pair.command.address,
        workload="record_login",
        first=0,
        count=logins,
        options={"users": users},
    )
    _follow(bench, client, pair, "wait", 0.5)
    for what, kind in (("Resume", "a catch-up"), ("Rebuild", "a rebuild")):
        other.call(f"{DRIVER}:steer", address=pair.projector.address, what=what, projection="users")
        for how in ("wait", "watch"):
            label, _, _ = _LABELS[how]
            seen = _follow(bench, client, pair, how, 3.0)
            yield alone(
                f"visible-behind/{what.lower()}/{how}/p99",
                f"acknowledged -> {label} beside {kind}, p99",
                [percentile(seen, 99)],
                "ms",
                ceiling=50,
                note=f"{logins:,} events",
            )
        if what == "Resume":
            measured = time.monotonic()
            other.call(f"{DRIVER}:wait_for", address=pair.query.address, token=loaded["token"])
            if time.monotonic() - measured < 0.1:
                raise AssertionError("the catch-up had ended before what was measured beside it")
    # This is refused if the rebuild ended before the measurement.
    other.call(f"{DRIVER}:steer", address=pair.projector.address, what="CancelRebuild", projection="users")


@case("watchers")
def watchers(bench: Bench) -> Iterator[Measure]:
    """A thousand watchers of one view at 100 changes a second."""
    yield from _watchers(bench, each=0, what="1,000 watchers of all rows", name="all")
    yield from _watchers(bench, each=10, what="1,000 watchers of 10 rows each", name="some")


def _watchers(bench: Bench, *, each: int, what: str, name: str) -> Iterator[Measure]:
    rate, count, products, sampled = 100, 1000, 1000, 20 if not each else 1000
    pair, client, crowd = bench.pair(name), bench.worker(), bench.worker()
    pair.start()
    loaded = client.call(
        f"{DRIVER}:load", address=pair.command.address, workload="create_product", first=0, count=products
    )
    client.call(f"{DRIVER}:wait_for", address=pair.query.address, token=loaded["token"])
    first = bench.numbers(10_000)

    def change(seconds: float) -> Any:
        nonlocal first
        told = client.call(
            f"{DRIVER}:changes",
            address=pair.command.address,
            first=first,
            rate=rate,
            seconds=seconds,
            products=products,
        )
        first += 10_000
        return told

    change(0.5)
    before = change(3.0)["commands"]
    crowd.start(
        f"{DRIVER}:watchers",
        address=pair.query.address,
        count=count,
        seconds=9.0,
        sampled=sampled,
        products=products,
        each=each,
    )
    # The worker reports when all watchers are live; that is also when memory is read.
    time.sleep(6.0)
    change(1.0)
    memory = pair.query.resident_mib()
    told = change(6.0)
    later = pair.query.resident_mib()
    seen = crowd.result()
    acknowledged = told["acknowledged"]
    latencies = [
        (at - acknowledged[row]) * 1e3 for row, times in seen["told"].items() if row in acknowledged for at in times
    ]
    note = f"by {sampled} of them; {seen['frames']:,} frames in all; query server {memory:.0f} -> {later:.0f} MiB"
    yield alone(f"watchers/{name}/p50", f"{what}: acknowledged -> told, p50", [percentile(latencies, 50)], "ms")
    yield alone(
        f"watchers/{name}/p99",
        f"{what}: acknowledged -> told, p99",
        [percentile(latencies, 99)],
        "ms",
        ceiling=100,
        note=note,
    )
    slower = percentile(told["commands"], 50) / percentile(before, 50)
    yield alone(
        f"watchers/{name}/writer", f"{what}: the command's p50 with them by that without", [slower], "x", ceiling=1.1
    )
    pair.stop()
