"""The report: the table on the screen, and the one in the README."""

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
_PLOTS = ("offered-load/", "concurrency/", "log-size/")
"""Measures that are points of a plot, and no lines of the table, but for those with a target."""


class NoPlace(Exception):
    """A file has no place for figures."""


def number(value: float | None) -> str:
    """A figure with three or four digits that mean something."""
    if value is None or math.isnan(value):
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def lines(measures: Iterable[Measure]) -> list[Measure]:
    """Those that the table shows."""
    return [
        measure for measure in measures if measure.target or measure.reference or not measure.name.startswith(_PLOTS)
    ]


def table(measures: Sequence[Measure]) -> Table:
    """The table on the screen."""
    made = Table(title="Benchmarks", header_style="bold")
    for heading in ("what", "figure", "spread", "beside", "ratio", "spread of it", "target", "met"):
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
    """Prints the table and the machine."""
    console.print(table(measures))
    console.print(sentence(machine))


def markdown(record: Mapping[str, Any], measures: Sequence[Measure]) -> str:
    """The table in the README."""
    rows = [
        "| what | figure | beside | ratio (spread) | target | met |",
        "|---|--:|---|--:|---|---|",
    ]
    for measure in lines(measures):
        ratio = ""
        if measure.ratio is not None:
            ratio = f"{number(measure.ratio)} ({_spread(measure.ratio_least, measure.ratio_greatest)})"
        beside = f"{measure.reference}: {number(measure.reference_figure)}" if measure.reference else ""
        met = "" if measure.met is None else "yes" if measure.met else "**no**"
        cells = (measure.what, f"{number(measure.figure)} {measure.unit}", beside, ratio, measure.target, met)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join((f"Measured on {sentence(record['machine'])}.", "", *rows))


def put_between_markers(path: Path, text: str) -> None:
    """Replaces what a file has between the two markers; raises `NoPlace`."""
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoPlace(f"{path.name} has no lines {BEGIN!r} and {END!r}, between which the figures stand.")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


def _spread(least: float | None, greatest: float | None) -> str:
    if least is None or greatest is None or math.isnan(least) or least == greatest:
        return ""
    return f"{number(least)} to {number(greatest)}"
