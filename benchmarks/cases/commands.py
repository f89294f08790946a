"""Commands: the rate of deciding and recording beside a bare echo, a bare stream and a bare database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.bench import Bench, case
from benchmarks.h2load import unary_rate
from benchmarks.measure import Measure, absent, alone, compared
from benchmarks.peers import eventsourcing_saves, umadb_appends
from benchmarks.slow_disk import fsync_delay
from benchmarks.worker import Worker
from benchmarks.workloads import requests
from tests.support.pair import Pair

DRIVER = "benchmarks.driver"
_HOPELESS_MILLISECONDS = 200
FRAME_BYTES = 330
"""Approximate bytes of a created product in the log."""
PRODUCTS = 8000
"""Aggregates that commands are spread over; all of them fit into the state cache."""


def field(rounds: list[Any], name: str) -> list[float]:
    """Return one figure of every round."""
    return [load[name] for load in rounds]


def _command_server(bench: Bench, **settings: object) -> Pair:
    pair = bench.pair(settings={"command-server": settings})
    pair.command.start()
    return pair


def _bare_rows(bench: Bench, client: Worker, *, group: int) -> float:
    """Return S: events per second with their streams and requests, in groups of one commit each."""
    rate: float = client.call(
        "benchmarks.bare_sqlite:append",
        folder=str(bench.folder),
        seconds=bench.effort.seconds,
        group=group,
        frame_bytes=FRAME_BYTES,
    )
    return rate


@case("command-64", quick=True)
def command_64(bench: Bench) -> Iterator[Measure]:
    """A typed command, one event, validated, idempotent, durable; 64 concurrent."""
    pair, echo, client = _command_server(bench), bench.echo(), bench.worker()
    seconds = bench.effort.seconds
    size = 0

    def ours() -> Any:
        nonlocal size
        first = bench.numbers(100_000)
        load = client.call(
            f"{DRIVER}:closed",
            address=pair.command.address,
            workload="create_product",
            first=first,
            concurrency=64,
            seconds=seconds,
        )
        size = load["response_bytes"]
        return load

    def bare() -> Any:
        return client.call(
            f"{DRIVER}:closed",
            address=echo.address,
            workload="create_product",
            first=0,
            concurrency=64,
            seconds=seconds,
            method=f"/benchmarks.Echo/Unary{size}",
        )

    commands, echoes = bench.rounds(ours, bare)
    yield compared(
        "command-64/echo",
        "CreateProduct, 64 concurrent",
        field(commands, "rate"),
        "/s",
        "E at 64",
        field(echoes, "rate"),
        at_least=0.70,
        note=f"p99 {max(field(commands, 'p99')):.1f} ms",
    )
    if bench.effort.quick:
        return
    saves = eventsourcing_saves(bench)
    if isinstance(saves, Measure):
        yield saves
    else:
        peers, again = bench.rounds(saves, ours, times=3)
        yield compared(
            "command-64/eventsourcing",
            "CreateProduct, 64 concurrent",
            field(again, "rate"),
            "/s",
            "eventsourcing, saves in process",
            peers,
            at_least=1.2,
        )
    yield from _by_h2load(bench, pair, echo.address, size)


def _by_h2load(bench: Bench, pair: Pair, echo: str, size: int) -> Iterator[Measure]:
    """Yield the same rate with h2load, a faster client. It repeats one request, which has no ids of its own."""
    name, what = "command-64/h2load", "CreateProduct by h2load, 64 concurrent"
    request = requests("anonymous_product", 0, 1)[0]
    path = "/shop.v1.CommandService/CreateProduct"

    def ours() -> float | None:
        return unary_rate(pair.command.address, path, request, bench.folder, clients=4, streams=16, seconds=2)

    def bare() -> float | None:
        return unary_rate(
            echo, f"/benchmarks.Echo/Unary{size}", request, bench.folder, clients=4, streams=16, seconds=2
        )

    if ours() is None:
        yield absent(name, what, "h2load is not installed (Debian: nghttp2-client)")
        return
    commands, echoes = bench.rounds(ours, bare, warm_up=False, times=3)
    yield compared(name, what, commands, "/s", "E by h2load", echoes)


@case("command-1")
def command_1(bench: Bench) -> Iterator[Measure]:
    """The same command, one caller: the time it adds to an echo."""
    pair, echo, client = _command_server(bench), bench.echo(), bench.worker()
    size = 0

    def ours() -> Any:
        nonlocal size
        load = client.call(
            f"{DRIVER}:closed",
            address=pair.command.address,
            workload="create_product",
            first=bench.numbers(100_000),
            concurrency=1,
            seconds=bench.effort.seconds,
            rate_max=5000,
        )
        size = load["response_bytes"]
        return load

    def bare() -> Any:
        return client.call(
            f"{DRIVER}:closed",
            address=echo.address,
            workload="create_product",
            first=0,
            concurrency=1,
            seconds=bench.effort.seconds,
            method=f"/benchmarks.Echo/Unary{size}",
            rate_max=10_000,
        )

    commands, echoes, rows = bench.rounds(ours, bare, lambda: 1000 / _bare_rows(bench, client, group=1))
    added = [one["p50"] - other["p50"] for one, other in zip(commands, echoes, strict=True)]
    yield compared(
        "command-1/p50",
        "CreateProduct, one caller, p50",
        field(commands, "p50"),
        "ms",
        "E, p50",
        field(echoes, "p50"),
        less_is_better=True,
    )
    yield alone("command-1/added", "CreateProduct, one caller, p50 over that of E", added, "ms", ceiling=0.6)
    yield alone("command-1/bare", "S: the same rows, a commit for each command", rows, "ms")


@case("stream-1")
def stream_1(bench: Bench) -> Iterator[Measure]:
    """CommandStreamService.Execute, one command a message."""
    yield from _stream(bench, commands=1, at_least=0.75)


@case("stream-100", quick=True)
def stream_100(bench: Bench) -> Iterator[Measure]:
    """CommandStreamService.Execute, 100 commands a message."""
    yield from _stream(bench, commands=100, floor=None if bench.effort.quick else 20_000)


def _stream(
    bench: Bench, *, commands: int, at_least: float | None = None, floor: float | None = None
) -> Iterator[Measure]:
    pair, echo, client = _command_server(bench), bench.echo(), bench.worker()
    size = 0

    def load(address: str, first: int, method: str) -> Any:
        return client.call(
            f"{DRIVER}:stream",
            address=address,
            workload="create_product",
            first=first,
            seconds=bench.effort.seconds,
            commands=commands,
            window=64 if commands == 1 else 16,
            method=method,
            rate_max=25_000 if commands == 1 else 50_000,
        )

    def ours() -> Any:
        nonlocal size
        answer = load(pair.command.address, bench.numbers(100_000), "/diptych.v1.CommandStreamService/Execute")
        size = answer["response_bytes"]
        return answer

    def bare() -> Any:
        return load(echo.address, 0, f"/benchmarks.Echo/Stream{size}")

    what = f"Execute, {commands} command{'s' if commands > 1 else ''} a message"
    if commands == 1:
        streamed, echoed = bench.rounds(ours, bare)
        yield compared(
            "stream-1/echo", what, field(streamed, "rate"), "/s", "P", field(echoed, "rate"), at_least=at_least
        )
        return
    streamed, written = bench.rounds(ours, lambda: _bare_rows(bench, client, group=64))
    yield compared(
        "stream-100/sqlite",
        what,
        field(streamed, "rate"),
        "/s",
        "S, the same rows in groups of 64",
        written,
        floor=floor,
    )
    if bench.effort.quick:
        return
    appends = umadb_appends(bench)
    if isinstance(appends, Measure):
        yield appends
        return
    peers, again = bench.rounds(appends, ours, times=3)
    yield compared(
        "stream-100/umadb", what, field(again, "rate"), "/s", "umadb, appends by 64 threads", peers, at_least=1.0
    )


@case("load-decide-append")
def load_decide_append(bench: Bench) -> Iterator[Measure]:
    """Load, decide and append on aggregates of 10 events, cached and cold; 64 concurrent."""
    from benchmarks.peers import eventsourcing_load_save, umadb_load_append

    echo, client = bench.echo(), bench.worker()
    cached = bench.pair("cached")
    cold = bench.pair("cold", {"command-server": {"state_cache_entries": 0}})
    sizes: dict[str, int] = {}
    for pair in (cached, cold):
        pair.command.start()
        client.call(f"{DRIVER}:load", address=pair.command.address, workload="create_product", first=0, count=PRODUCTS)
        client.call(
            f"{DRIVER}:load",
            address=pair.command.address,
            workload="adjust_in_turn",
            first=0,
            count=9 * PRODUCTS,
            options={"products": PRODUCTS},
        )
    bench.numbers(1_000_000)

    def adjust(address: str, method: str = "") -> Any:
        load = client.call(
            f"{DRIVER}:closed",
            address=address,
            workload="adjust_stock",
            first=bench.numbers(100_000),
            concurrency=64,
            seconds=bench.effort.seconds,
            method=method,
            options={"products": PRODUCTS},
        )
        sizes["response"] = load["response_bytes"]
        return load

    def warm() -> Any:
        return adjust(cached.command.address)

    def anew() -> Any:
        return adjust(cold.command.address)

    def bare() -> Any:
        return adjust(echo.address, f"/benchmarks.Echo/Unary{sizes['response']}")

    loaded_once, loaded, echoed = bench.rounds(warm, anew, bare, times=4)
    e = field(echoed, "rate")
    yield compared(
        "load-decide-append/cached",
        "AdjustStock, aggregates in memory",
        field(loaded_once, "rate"),
        "/s",
        "E at 64",
        e,
        at_least=0.65,
    )
    yield compared(
        "load-decide-append/cold",
        "AdjustStock, aggregates loaded",
        field(loaded, "rate"),
        "/s",
        "E at 64",
        e,
        at_least=0.45,
    )
    for name, reference, make in (
        ("eventsourcing", "eventsourcing, load, decide, save in process", eventsourcing_load_save),
        ("umadb", "umadb, read, decide, append by 64 threads", umadb_load_append),
    ):
        side = make(bench)
        if isinstance(side, Measure):
            yield side
            continue
        peers, again = bench.rounds(side, anew, times=3)
        yield compared(
            f"load-decide-append/{name}",
            "AdjustStock, aggregates loaded",
            field(again, "rate"),
            "/s",
            reference,
            peers,
            at_least=1.0,
        )


@case("long-stream")
def long_stream(bench: Bench) -> Iterator[Measure]:
    """An aggregate of 100,000 events, loaded with its snapshot, beside one of 10."""
    events = 100_000
    pair, client = _command_server(bench, state_cache_entries=0), bench.worker()
    address = pair.command.address
    client.call(f"{DRIVER}:load", address=address, workload="create_product", first=0, count=2)
    # Product 1 has 10 events and product 0 all others. The option `start` keeps their numbers apart.
    client.call(f"{DRIVER}:load", address=address, workload="adjust_in_turn", first=0, count=events - 1)
    client.call(f"{DRIVER}:load", address=address, workload="adjust_in_turn", first=0, count=9, options={"start": 1})

    def adjust(product: int) -> Any:
        return client.call(
            f"{DRIVER}:closed",
            address=address,
            workload="adjust_in_turn",
            first=2 * events + bench.numbers(100_000),
            concurrency=1,
            seconds=1,
            rate_max=3000,
            options={"start": product},
        )

    long, short = bench.rounds(lambda: adjust(0), lambda: adjust(1), warm_up=False, times=3)
    added = [one["p50"] - other["p50"] for one, other in zip(long, short, strict=True)]
    yield alone(
        "long-stream/added",
        "AdjustStock on 100,000 events over one on some more than 10, p50",
        added,
        "ms",
        ceiling=5,
        note="the short one grows by what is measured; its snapshot is the same distance away at most",
    )


@case("slow-disk")
def slow_disk(bench: Bench) -> Iterator[Measure]:
    """Commands with 1 ms added to every sync of the disk; 64 concurrent."""
    env = fsync_delay(bench.folder, 1)
    if env is None:
        yield absent("slow-disk/sqlite", "CreateProduct, 64 concurrent, sync + 1 ms", "there is no C compiler")
        return
    slow = bench.pair("slow", env=env)
    slow.command.start()
    client = bench.worker()

    def ours() -> Any:
        return client.call(
            f"{DRIVER}:closed",
            address=slow.command.address,
            workload="create_product",
            first=bench.numbers(100_000),
            concurrency=64,
            seconds=bench.effort.seconds,
        )

    fast = bench.pair("fast")
    fast.command.start()

    def undelayed() -> Any:
        return client.call(
            f"{DRIVER}:closed",
            address=fast.command.address,
            workload="create_product",
            first=bench.numbers(100_000),
            concurrency=64,
            seconds=bench.effort.seconds,
        )

    delayed, plain = bench.rounds(ours, undelayed, times=3)
    yield compared(
        "slow-disk/undelayed",
        "CreateProduct, 64 concurrent, sync + 1 ms",
        field(delayed, "rate"),
        "/s",
        "the same without the delay",
        field(plain, "rate"),
    )


@case("offered-load")
def offered_load(bench: Bench) -> Iterator[Measure]:
    """Latency over offered load, of commands and of queries."""
    pair = bench.pair()
    pair.start()
    client = bench.worker()
    loaded = client.call(
        f"{DRIVER}:load", address=pair.command.address, workload="create_product", first=bench.numbers(), count=PRODUCTS
    )
    client.call(f"{DRIVER}:wait_for", address=pair.query.address, token=loaded["token"])
    kinds = [("create_product", pair.command.address), ("get_product", pair.query.address)]
    for rate in (250, 500, 1000, 2000, 3000, 4000, 5000):
        for kind, address in list(kinds):
            load = client.call(
                f"{DRIVER}:fixed_rate",
                address=address,
                workload=kind,
                first=bench.numbers(100_000),
                rate=rate,
                seconds=1.5,
                options={"products": PRODUCTS} if kind == "get_product" else {},
            )
            for percent in ("p50", "p99"):
                yield alone(
                    f"offered-load/{kind}/{percent}/{rate}", f"{kind} at {rate}/s, {percent}", [load[percent]], "ms"
                )
            if (
                load["failed"] or load["p50"] > _HOPELESS_MILLISECONDS
            ):  # Beyond the capacity; higher rates would add nothing.
                kinds.remove((kind, address))


@case("concurrency")
def concurrency(bench: Bench) -> Iterator[Measure]:
    """Throughput over concurrency, of commands, queries and the bare echo."""
    pair, echo = bench.pair(), bench.echo()
    pair.start()
    client = bench.worker()
    loaded = client.call(
        f"{DRIVER}:load", address=pair.command.address, workload="create_product", first=bench.numbers(), count=PRODUCTS
    )
    client.call(f"{DRIVER}:wait_for", address=pair.query.address, token=loaded["token"])
    for callers in (1, 4, 16, 64, 256):
        for kind, workload, address, method in (
            ("create_product", "create_product", pair.command.address, ""),
            ("get_product", "get_product", pair.query.address, ""),
            ("echo", "get_product", echo.address, "/benchmarks.Echo/Unary180"),
        ):
            load = client.call(
                f"{DRIVER}:closed",
                address=address,
                workload=workload,
                first=bench.numbers(100_000),
                concurrency=callers,
                seconds=1.0,
                method=method,
                options={"products": PRODUCTS} if workload == "get_product" else {},
            )
            yield alone(f"concurrency/{kind}/{callers}", f"{kind}, {callers} concurrent", [load["rate"]], "/s")
