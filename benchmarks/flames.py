"""`python -m benchmarks.flames`: draw a flame graph of each hot path with py-spy into docs/figures.

The sampler stops the server at every sample, so the graphs show the shares of the time and not its amount. Only the
thread that holds the interpreter counts.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bench import FULL, Bench
from benchmarks.cases.commands import DRIVER
from benchmarks.cases.folding import SHOP_EVENTS, shop_log
from benchmarks.plots import FIGURES
from tests.support.programs import Server

_SECONDS = 3
_PRODUCTS = 2000


def _command(bench: Bench) -> tuple[Server, Callable[[], Any]]:
    """Return the command server and its load: CreateProduct, 64 concurrent."""
    pair, client = bench.pair(), bench.worker()
    pair.command.start()
    _call(bench, client, pair.command.address, "create_product", 1.0)
    return pair.command, lambda: _call(bench, client, pair.command.address, "create_product", _SECONDS + 1.0)


def _query(bench: Bench) -> tuple[Server, Callable[[], Any]]:
    """Return the query server and its load: GetProduct, cached, 64 concurrent."""
    pair, client = bench.pair(), bench.worker()
    pair.start()
    loaded = client.call(
        f"{DRIVER}:load", address=pair.command.address, workload="create_product", first=0, count=_PRODUCTS
    )
    client.call(f"{DRIVER}:wait_for", address=pair.query.address, token=loaded["token"])
    options = {"products": _PRODUCTS}
    _call(bench, client, pair.query.address, "get_product", 1.0, options)
    return pair.query, lambda: _call(bench, client, pair.query.address, "get_product", _SECONDS + 1.0, options)


def _stream(bench: Bench) -> tuple[Server, Callable[[], Any]]:
    """Return the command server and its load: CommandStreamService.Execute, one command a message."""
    pair, client = bench.pair(), bench.worker()
    pair.command.start()
    return pair.command, lambda: client.call(
        f"{DRIVER}:stream",
        address=pair.command.address,
        workload="create_product",
        first=bench.numbers(),
        seconds=_SECONDS + 1.0,
        commands=1,
    )


def _fold(bench: Bench) -> tuple[Server, Callable[[], Any]]:
    """Return the projector that catches up with a shop's events in all views."""
    folder = bench.folder / "fold"
    shutil.copytree(shop_log(bench, SHOP_EVENTS), folder)
    pair = bench.pair(folder.name)
    pair.command.start()
    pair.projector.start()
    return pair.projector, lambda: None


def _call(
    bench: Bench, client: Any, address: str, workload: str, seconds: float, options: dict[str, int] | None = None
) -> None:
    client.call(
        f"{DRIVER}:closed",
        address=address,
        workload=workload,
        first=bench.numbers(100_000),
        concurrency=64,
        seconds=seconds,
        options=options or {},
    )


_PATHS = {"command": _command, "stream": _stream, "query": _query, "fold": _fold}


def main() -> None:
    """Draw all flame graphs."""
    sampler = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if sampler is None:
        sys.exit("py-spy is not installed (pip install -e '.[bench]').")
    for name, start in _PATHS.items():
        shared_folder = Path(tempfile.mkdtemp(prefix="diptych-flames-"))
        try:
            with Bench(FULL, shared_folder) as bench:
                server, load = start(bench)
                path = FIGURES / f"flame-{name}.svg"
                what = (start.__doc__ or "").rstrip(".")
                how = ("--gil", "--function", "--rate", "500", "--duration", str(_SECONDS), "--format", "flamegraph")
                sampling = subprocess.Popen(
                    [sampler, "record", *how, "--output", str(path), "--pid", str(server.pid)],
                    stdout=subprocess.DEVNULL,
                )
                load()
                if sampling.wait(60):
                    sys.exit(f"py-spy could not sample {what}.")
            # The sampler's title is its command line with paths of this machine.
            title = re.compile(r'(<text id="title"[^>]*>)[^<]*')
            path.write_text(title.sub(rf"\g<1>{what}", path.read_text("utf-8"), count=1), "utf-8")
            print(f"Drawn: {path.name}, {what}")
        finally:
            shutil.rmtree(shared_folder, ignore_errors=True)


if __name__ == "__main__":
    main()
