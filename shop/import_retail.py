"""Import of UCI *Online Retail*: `python -m shop.import_retail FILE.csv`, with the servers running.

Each invoice becomes an order or, if its number begins with C, a return. The import can be interrupted and run again
without duplicates. It ends when the read model includes all of it, and compares the read model's sums for the file's
days with its own.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TextIO

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diptych.client import CallRefused, Connection
from diptych.v1.read_model_pb2 import WAIT_OUTCOME_REACHED, WaitForVersionResponse, WaitOutcome
from shop.retail import importer
from shop.retail.commands import CURRENCY
from shop.retail.importer import Imported, Importer
from shop.retail.reader import UnreadableFile
from shop.retail.report import Comparison, command_lines, row_lines, sum_lines
from shop.retail.sums import DAY_SECONDS, Figures, Summing, Sums, figures_of
from shop.v1.analytics_pb2 import ANALYTICS_GROUPING_COUNTRY, ANALYTICS_GROUPING_DAY, AnalyticsGroup
from shop.v1.order_queries_pb2 import GetOrderAnalyticsRequest

_CONNECT_SECONDS = 5.0
_RETRY_SECONDS = 60.0
"""Limit for the absence of a server after the import has begun."""


class ReportLost(Exception):
    """Standard output cannot be written to. The message is the cause."""


def _address(value: str) -> str:
    """Return an address that has the form HOST:PORT; raise `typer.BadParameter` if it has not."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise typer.BadParameter("must be HOST:PORT, such as 127.0.0.1:50051")
    return value


def main(
    file: Annotated[Path, typer.Argument(metavar="CSV", help="The data set: CSV, UTF-8.", show_default=False)],
    command_address: Annotated[
        str,
        typer.Option(envvar="DIPTYCH_COMMAND_ADDRESS", callback=_address, help="HOST:PORT of the command server."),
    ] = "127.0.0.1:50051",
    query_address: Annotated[
        str, typer.Option(envvar="DIPTYCH_QUERY_ADDRESS", callback=_address, help="HOST:PORT of the query server.")
    ] = "127.0.0.1:50052",
    window: Annotated[int, typer.Option(min=1, max=64, help="Messages under way at once.")] = 16,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Commands to a message.")] = 250,
) -> None:
    """Import UCI Online Retail into the shop, and compare its sums with those of the read model.

    The import can be interrupted and run again without duplicates. The sums differ if the deployment has other orders
    on the file's days. Exit status 0: the sums agree; 1: they differ, a command was refused, rows were left out because
    of a fault in them, or no row was imported; 2: the file cannot be read; 3: the report cannot be written.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # No name of a country or product ends the report.
            stream.reconfigure(errors="backslashreplace")
    try:
        opened = file.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise typer.Exit(_fail(f"{file} cannot be read: {error.strerror or error}.", 2)) from None
    try:
        with opened:
            status = asyncio.run(_main(opened, command_address, query_address, window=window, batch=batch))
    except ReportLost as lost:
        status = _fail(f"The report cannot be written: {lost}. Run it again: nothing is doubled.", 3)
        # The interpreter would try once more to write the rest, at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UnreadableFile as error:
        status = _fail(f"{file}: {error}", 2)
    except CallRefused as refused:
        status = _fail(f"{refused} Run it again: nothing is doubled.", 1)
    except KeyboardInterrupt:
        status = _fail("Broken off. Run it again: nothing is doubled.", 130)
    raise typer.Exit(status)


async def _main(file: TextIO, commands: str, queries: str, *, window: int, batch: int) -> int:
    async with Connection(commands, queries, retry_seconds=_RETRY_SECONDS) as shop:
        absent = await _absent(shop, commands, queries)
        if absent:
            return _fail(f"{absent} Are the servers running?", 1)
        start = time.monotonic()
        with Bar(os.fstat(file.fileno()).st_size) as bar:
            run = Importer(shop, window=window, batch=batch)
            imported = await run.run(file, bar.show_sent)
            sent = time.monotonic()
            reached = await run.wait(bar.show_wait)
        readable = time.monotonic()
        _print(*row_lines(imported), "", *command_lines(imported), "")
        rate = imported.reader.rows / max(readable - start, 1e-9)
        _print(
            f"Decided after {sent - start:.2f} s, readable after {readable - start:.2f} s: {rate:,.0f} rows/s.",
            "",
        )
        if reached is not None and reached.outcome != WAIT_OUTCOME_REACHED:
            outcome = WaitOutcome.Name(reached.outcome).removeprefix("WAIT_OUTCOME_")
            return _fail(f"The read model does not include the import: {reached.projection} is {outcome}.", 1)
        return await _compare(shop, imported)


async def _absent(shop: Connection, commands: str, queries: str) -> str:
    """Return a sentence about the server that cannot be reached; empty if both can."""
    servers = (("command server", commands, shop.commands), ("query server", queries, shop.queries))
    for name, address, channel in servers:
        try:
            await asyncio.wait_for(channel.channel_ready(), _CONNECT_SECONDS)
        except TimeoutError:
            return f"No {name} answers at {address}."
    return ""


async def _compare(shop: Connection, imported: Imported) -> int:
    file = imported.summing.sums()
    if file is None:
        _print("The file has nothing to compare.")
        if imported.tally.refusals or imported.reader.rows:
            return _fail("No row of the file was imported: all were left out.", 1)
        return 0
    comparison = Comparison(file, await query_sums(shop, imported.summing))
    _print(*sum_lines(comparison), "")
    if not comparison.agrees:
        return _fail("The sums differ. Only the file's orders should be there on its days; were there others?", 1)
    if imported.tally.refusals:
        return _fail("The sums agree, but commands were refused.", 1)
    if imported.reader.unusable:
        rows = imported.reader.unusable
        return _fail(f"The sums agree, but {rows:,} rows were left out because of a fault in them; see above.", 1)
    _print("The sums agree exactly.")
    return 0


async def query_sums(shop: Connection, summing: Summing) -> Sums:
    """Return the read model's sums for the days of the file, at least up to the last token."""
    start, end = (Timestamp(seconds=day * DAY_SECONDS) for day in (summing.first_day, summing.last_day + 1))
    by_day, by_country = [
        await shop.query(
            GetOrderAnalyticsRequest(start_time=start, end_time=end, group_by=grouping), token=shop.token or None
        )
        for grouping in (ANALYTICS_GROUPING_DAY, ANALYTICS_GROUPING_COUNTRY)
    ]
    whole = figures_by_key(by_day.totals).get("", Figures())
    return Sums(days=figures_by_key(by_day.groups), countries=figures_by_key(by_country.groups), whole=whole)


class Bar:
    """Progress bar on stderr, if stderr is a terminal."""

    def __init__(self, size: int) -> None:
        console = Console(stderr=True)
        self._shown = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._sending = self._shown.add_task("Sending", total=size, note="")
        self._waiting = self._shown.add_task("Read model", total=None, start=False, visible=False, note="")

    def __enter__(self) -> Bar:
        self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    def show_sent(self, progress: importer.Progress) -> None:
        """Show the part of the file that is sent."""
        refused = f", {progress.refused:,} commands refused" if progress.refused else ""
        self._shown.update(self._sending, completed=progress.bytes, note=f"{progress.rows:,} rows{refused}")

    def show_wait(self, answer: WaitForVersionResponse) -> None:
        """Show the progress of the read model."""
        self._shown.start_task(self._waiting)
        progress = answer.progress
        self._shown.update(
            self._waiting,
            visible=True,
            total=progress.head_position,
            completed=progress.applied_position,
            note=f"{answer.projection}: {progress.lag_events:,} events behind",
        )


def figures_by_key(groups: Iterable[AnalyticsGroup]) -> dict[str, Figures]:
    """Return the figures of groups in pounds. Groups in other currencies are not of the file."""
    return {group.key: figures_of(group) for group in groups if group.currency_code == CURRENCY}


def _print(*lines: str) -> None:
    try:
        print("\n".join(lines), flush=True)
    except OSError as error:
        raise ReportLost(error.strerror or str(error)) from error


def _fail(sentence: str, status: int) -> int:
    print(f"import_retail: {sentence}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    typer.run(main)
