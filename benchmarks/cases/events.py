"""Log: reading it from its start, and appending to a long one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from benchmarks.bench import Bench, case
from benchmarks.cases.commands import DRIVER, FRAME_BYTES, field
from benchmarks.cases.folding import SHOP_EVENTS, log_head, shop_log
from benchmarks.measure import Measure, alone, compared


@case("subscribe")
def subscribe(bench: Bench) -> Iterator[Measure]:
    """EventService.Subscribe from the start of the log, one subscriber."""
    folder_of_log = shop_log(bench, SHOP_EVENTS)
    shutil.copytree(folder_of_log, bench.folder / "pair")
    pair, client = bench.pair(), bench.worker()
    pair.command.start()
    head = log_head(folder_of_log)

    def read() -> Any:
        return client.call(f"{DRIVER}:subscribe", address=pair.command.address, events=head)

    (reads,) = bench.rounds(read)
    yield alone("subscribe/rate", f"{head:,} events to one subscriber", field(reads, "rate"), "/s", floor=200_000)


@case("log-size")
def log_size(bench: Bench) -> Iterator[Measure]:
    """Appending to a log of 10,000,000 events, beside one of 10,000."""
    sizes = (10_000, 100_000, 1_000_000, 10_000_000)
    client = bench.worker()
    pairs = []
    for size in sizes:
        pair = bench.pair(f"log-{size}")
        pair.command.start()
        pair.command.stop()
        client.call("benchmarks.bulk:fill_log", path=str(pair.data / "log.db"), events=size, frame_bytes=FRAME_BYTES)
        pair.command.start()
        pairs.append(pair)

    def append(index: int) -> Any:
        return client.call(
            f"{DRIVER}:closed",
            address=pairs[index].command.address,
            workload="create_scattered",
            first=bench.numbers(100_000),
            concurrency=64,
            seconds=1.5,
        )

    for index in range(len(sizes)):
        append(index)  # A second warm-up: the indexes of a large log have many upper pages.
    rounds = bench.rounds(*(lambda index=index: append(index) for index in range(len(sizes))), times=6)
    for size, loads in zip(sizes, rounds, strict=True):
        times = [1e6 / load["rate"] for load in loads]
        if size == sizes[-1]:
            yield compared(
                "log-size/ratio",
                f"a command at {size:,} events in the log, random ids, 64 concurrent",
                times,
                "us",
                f"at {sizes[0]:,}",
                [1e6 / load["rate"] for load in rounds[0]],
                less_is_better=True,
                at_least=1 / 1.15,
            )
        yield alone(f"log-size/{size}", f"a command at {size:,} events", times, "us")
    for pair in pairs:
        pair.command.stop()

    def bare(index: int) -> float:
        rate: float = client.call(
            "benchmarks.bare_sqlite:append_scattered",
            path=str(pairs[index].data / "log.db"),
            seconds=1.5,
            group=64,
            frame_bytes=FRAME_BYTES,
        )
        return 1e6 / rate

    few, many = bench.rounds(lambda: bare(0), lambda: bare(-1), times=3)
    yield compared(
        "log-size/bare",
        f"S: the same rows in groups of 64 at {sizes[-1]:,} events",
        many,
        "us",
        f"S at {sizes[0]:,}",
        few,
        less_is_better=True,
    )
