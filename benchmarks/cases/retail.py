"""Retail import: a month's invoices, from the first line to a complete read model."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.bench import Bench, case
from benchmarks.measure import Measure, alone
from tests.support.programs import environment

LINES = 25_281
_COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)


def _file(bench: Bench) -> tuple[Path, str]:
    """Return the data set named by the environment, or a generated one like it."""
    named = os.environ.get("DIPTYCH_RETAIL_CSV")
    if named:
        return Path(named), "UCI Online Retail"
    path = bench.folder / "retail.csv"
    start = datetime(2010, 12, 1, 8, 26)  # noqa: DTZ001
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for line in range(LINES):
            invoice = line // 16
            stock = line * 7919 % 2800
            writer.writerow(
                (
                    536_365 + invoice,
                    20_000 + stock,
                    f"ARTICLE NUMBER {stock}",
                    1 + line % 12,
                    (start + timedelta(minutes=17 * invoice)).strftime("%Y-%m-%d %H:%M:%S"),
                    f"{1 + stock % 20}.{stock % 100:02d}",
                    f"{12_346 + invoice * 31 % 900}.0",
                    "United Kingdom",
                )
            )
    return path, "a file like it"


@case("import")
def retail_import(bench: Bench) -> Iterator[Measure]:
    """The retail import (25,281 lines) end to end, the program's start included, until the read model is complete."""
    path, which = _file(bench)
    with path.open(encoding="utf-8-sig") as file:
        lines = sum(1 for _ in file) - 1
    rates: list[float] = []
    for number in range(3):
        pair = bench.pair(f"pair-{number}")
        pair.start()
        began = time.perf_counter()
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "shop.import_retail",
                str(path),
                f"--command-address={pair.command.address}",
                f"--query-address={pair.query.address}",
            ],
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
        took = time.perf_counter() - began
        pair.stop()
        if done.returncode:
            raise AssertionError(f"the import failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        rates.append(lines / took)
    yield alone(
        "import/lines", f"{lines:,} lines imported, read model complete ({which})", rates, "lines/s", floor=8000
    )
