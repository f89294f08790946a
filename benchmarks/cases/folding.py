"""Folding: the rate at which the projector catches up."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, case, quiet_pair
from benchmarks.cases.commands import DRIVER, field
from benchmarks.measure import Measure, alone, compared
from benchmarks.peers import eventsourcing_projects

SHOP_EVENTS = 150_000
"""Events that can be made and folded within a minute; ten times as many give the same rate."""
PROJECTIONS = ["users", "products", "orders", "analytics"]


def shop_log(bench: Bench, events: int) -> Path:
    """Return a folder with the log of a shop with `events` events, made by commands once."""
    folder_of_log = bench.shared_folder / f"shop-{events}"
    if not folder_of_log.exists():
        with quiet_pair(bench.folder / "making") as pair:
            pair.command.start()
            bench.worker().call(
                f"{DRIVER}:load", address=pair.command.address, workload="shop_event", first=0, count=events
            )
            pair.stop()
        shutil.copytree(bench.folder / "making", folder_of_log, ignore=shutil.ignore_patterns("*.lock", "*.log"))
    return folder_of_log


def log_head(folder: Path) -> int:
    """Return the last position of a log that no server writes to."""
    with closing(sqlite3.connect(folder / "log.db")) as connection:
        head: int = connection.execute("SELECT head FROM log").fetchone()[0]
    return head


@case("fold-one-table", quick=True)
def fold_one_table(bench: Bench) -> Iterator[Measure]:
    """Events into one table, a row each, by the projector's own parts."""
    events = bench.effort.scaled(200_000, 20_000)
    client = bench.worker()
    size = 0

    def ours() -> Any:
        nonlocal size
        folded = client.call("benchmarks.one_table:fold", folder=str(bench.folder), events=events)
        size = int(folded["row_bytes"])
        return folded

    def bare() -> Any:
        return client.call(
            "benchmarks.bare_sqlite:upsert", folder=str(bench.folder), rows=events, group=1000, row_bytes=size
        )

    folds, upserts = bench.rounds(ours, bare, times=3)
    yield compared(
        "fold-one-table/sqlite",
        f"{events:,} events into a row each, in process",
        field(folds, "rate"),
        "/s",
        "S, upserts in groups of 1,000",
        upserts,
        at_least=0.5,
    )
    if bench.effort.quick:
        return
    projects = eventsourcing_projects(bench, 10_000)
    if isinstance(projects, Measure):
        yield projects
        return
    peers, again = bench.rounds(projects, ours, times=3, warm_up=False)
    yield compared(
        "fold-one-table/eventsourcing",
        "the same",
        field(again, "rate"),
        "/s",
        "eventsourcing, a transaction an event",
        peers,
        at_least=5,
    )


@case("fold-shop")
def fold_shop(bench: Bench) -> Iterator[Measure]:
    """A shop's events into all of the shop's views, by the projector, and its memory."""
    events = SHOP_EVENTS
    folder_of_log = shop_log(bench, events)
    client = bench.worker()
    rates: list[float] = []
    memory: list[tuple[float, float]] = []
    for number in range(2):
        folder = bench.folder / f"fold-{number}"
        shutil.copytree(folder_of_log, folder)
        pair = bench.pair(folder.name)
        pair.command.start()
        pair.projector.start()
        began, head = time.monotonic(), log_head(folder)
        client.call(f"{DRIVER}:catch_up", address=pair.projector.address, projections=PROJECTIONS, head=head // 4)
        early = pair.projector.resident_mib()
        client.call(f"{DRIVER}:catch_up", address=pair.projector.address, projections=PROJECTIONS, head=head)
        rates.append(head / (time.monotonic() - began))
        memory.append((early, pair.projector.resident_mib()))
        if number == 1:
            pair.query.start()
            pair.wait_readable()
            yield alone(
                "memory/command-server",
                f"command server, {events:,} events read by it",
                [pair.command.resident_mib()],
                "MiB",
                ceiling=200,
            )
            yield alone(
                "memory/projector",
                f"projector after {events:,} events",
                [pair.projector.resident_mib()],
                "MiB",
                ceiling=200,
            )
        pair.stop()
    growth = [late - early for early, late in memory]
    yield alone(
        "fold-shop/all",
        f"{events:,} mixed events of the shop into all 4 projections",
        rates,
        "/s",
        floor=30_000,
    )
    yield alone(
        "fold-shop/memory", "the projector's memory at the end over that after a quarter", growth, "MiB", ceiling=40
    )
    yield from _alone_each(bench, folder_of_log, events)


def _alone_each(bench: Bench, folder_of_log: Path, events: int) -> Iterator[Measure]:
    """Yield the rate of each projection alone, to show where the time goes."""
    client = bench.worker()
    for projection in PROJECTIONS:
        folded = client.call(
            "benchmarks.fold_layers:fold",
            folder=str(bench.folder),
            log=str(folder_of_log / "log.db"),
            projection=projection,
            events=events // 5,
        )
        yield alone(
            f"fold-shop/{projection}",
            f"projection {projection} by itself, in process, of all events",
            [folded["rate"]],
            "/s",
        )


@case("load-memory")
def load_memory(bench: Bench) -> Iterator[Measure]:
    """The memory of each server over ten minutes of commands and queries, and 1,000,000 events."""
    minutes, commands, queries = 10, 1_700, 400
    pair, client, other = bench.pair(), bench.worker(), bench.worker()
    pair.start()
    samples: list[list[float]] = []
    loaded = client.call(
        f"{DRIVER}:load", address=pair.command.address, workload="create_product", first=bench.numbers(2000), count=2000
    )
    client.call(f"{DRIVER}:wait_for", address=pair.query.address, token=loaded["token"])
    for _ in range(minutes):
        first = bench.numbers(60 * commands)
        client.start(
            f"{DRIVER}:fixed_rate",
            address=pair.command.address,
            workload="create_product",
            first=first,
            rate=commands,
            seconds=60.0,
        )
        asked = other.call(
            f"{DRIVER}:fixed_rate",
            address=pair.query.address,
            workload="get_product",
            first=0,
            rate=queries,
            seconds=60.0,
            options={"products": first - 1000},  # The rows of the last ones may not exist yet.
        )
        loaded = client.result()
        if asked["failed"] or loaded["failed"]:
            raise AssertionError(f"{loaded['failed']} commands and {asked['failed']} queries failed")
        samples.append([server.resident_mib() for server in pair.servers])
    for index, name in enumerate(("command server", "projector", "query server")):
        yield alone(
            f"load-memory/{name.replace(' ', '-')}",
            f"{name} after {minutes} minutes of load",
            [samples[-1][index]],
            "MiB",
            ceiling=200,
            note=f"{commands * 60 * minutes:,} events; " + ", ".join(f"{each[index]:.0f}" for each in samples) + " MiB",
        )
    half = samples[minutes // 2 - 1]
    # The query server's cache fills up to `cache_bytes_max`.
    growth = max(samples[-1][index] - half[index] for index in (0, 1))
    yield alone(
        "load-memory/growth",
        "what command server or projector took more than after half of it",
        [growth],
        "MiB",
        ceiling=10,
    )
