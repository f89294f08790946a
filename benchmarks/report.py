"""Reports of measures: the table on the screen, all figures in `benchmarks/README.md`, eight in the README."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import sentence
from benchmarks.measure import Measure

BEGIN = "<!-- figures: begin (made by `make bench`) -->"
END = "<!-- figures: end -->"
HEADLINES = (
    "command-64/echo",
    "command-1/p50",
    "visible/wait/p50",
    "visible/query/p50",
    "get/cached",
    "list/echo",
    "subscribe/rate",
    "fold-shop/all",
)
"""Names of the measures that the README shows, in its order."""
_PLOTS = ("offered-load/", "concurrency/", "log-size/")
"""Beginnings of the names of measures that are points of a plot. The table has only those with a target."""


class MarkersMissingError(Exception):
    """A file lacks the two markers that figures stand between."""


def number(value: float | None) -> str:
    """Return a figure with its three or four significant digits; empty for None and NaN."""
    if value is None or math.isnan(value):
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def lines(measures: Iterable[Measure]) -> list[Measure]:
    """Return the measures that the table shows."""
    return [
        measure for measure in measures if measure.target or measure.reference or not measure.name.startswith(_PLOTS)
    ]


def table(measures: Sequence[Measure]) -> Table:
    """Return the table for the screen."""
    made = Table(title="Benchmarks", header_style="bold")
    for heading in ("measure", "figure", "spread", "reference", "ratio", "ratio's spread", "target", "met"):
        made.add_column(heading, justify="right" if heading in ("figure", "ratio") else "left")
    for measure in measures:
        met = "" if measure.met is None else "[green]yes[/]" if measure.met else "[red]no[/]"
        note = f"\n[dim]{measure.note}[/]" if measure.note else ""
        made.add_row(
            f"{measure.what}\n[dim]{measure.name}[/]{note}",
            f"{number(measure.figure)} {measure.unit}",
            _spread(measure.least, measure.greatest),
            f"{measure.reference}: {number(measure.reference_figure)}" if measure.reference else "",
            number(measure.ratio),
            _spread(measure.ratio_least, measure.ratio_greatest),
            measure.target,
            met,
        )
    return made


def show(measures: Sequence[Measure], machine: dict[str, object], console: Console) -> None:
    """Print the table and the machine."""
    console.print(table(measures))
    console.print(sentence(machine))


def markdown(record: Mapping[str, Any], measures: Sequence[Measure]) -> str:
    """Return the machine and the table of all measures, as `benchmarks/README.md` has them."""
    rows = [
        "| measure | figure | reference | ratio (spread) | target | met |",
        "|---|--:|---|--:|---|---|",
    ]
    for measure in lines(measures):
        ratio = ""
        if measure.ratio is not None:
            ratio = f"{number(measure.ratio)} ({_spread(measure.ratio_least, measure.ratio_greatest)})"
        reference = f"{measure.reference}: {number(measure.reference_figure)}" if measure.reference else ""
        met = "" if measure.met is None else "yes" if measure.met else "**no**"
        cells = (measure.what, f"{number(measure.figure)} {measure.unit}", reference, ratio, measure.target, met)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join((_machine(record), "", *rows))


def headlines(record: Mapping[str, Any], measures: Sequence[Measure]) -> str:
    """Return the machine and the table of the measures in `HEADLINES`, as the README has them."""
    by_name = {measure.name: measure for measure in measures}
    rows = ["| measure | figure | reference | ratio |", "|---|--:|---|--:|"]
    for name in HEADLINES:
        if (measure := by_name.get(name)) is not None:
            reference = f"{measure.reference}: {number(measure.reference_figure)}" if measure.reference else ""
            figure = f"{number(measure.figure)} {measure.unit}"
            rows.append(f"| {measure.what} | {figure} | {reference} | {number(measure.ratio)} |")
    return "\n".join((_machine(record), "", *rows))


def put_between_markers(path: Path, text: str) -> None:
    """Replace the text between the two markers of a file.

    Raises:
        MarkersMissingError: The file lacks a marker.
    """
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MarkersMissingError(f"{path.name} lacks the lines {BEGIN!r} and {END!r}. Add them where figures belong.")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


def _machine(record: Mapping[str, Any]) -> str:
    return f"Measured on {sentence(record['machine'])}."


def _spread(least: float | None, greatest: float | None) -> str:
    if least is None or greatest is None or math.isnan(least) or least == greatest:
        return ""
    return f"{number(least)} to {number(greatest)}"
