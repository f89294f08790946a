"""Plots: latency over offered load, throughput over concurrency, cost over log size."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import Measure

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
_NAMES = {"create_product": "command", "get_product": "query", "echo": "bare echo"}

Points = Mapping[float, float]


def can_draw() -> bool:
    """Return True if matplotlib is installed; the extra `bench` installs it."""
    return importlib.util.find_spec("matplotlib") is not None


def points(measures: Iterable[Measure], prefix: str) -> dict[float, float]:
    """Return the figures of the measures `prefix/NUMBER`, by number."""
    found = {
        float(name): measure.figure
        for measure in measures
        if measure.name.startswith(f"{prefix}/") and (name := measure.name.removeprefix(f"{prefix}/")).isdigit()
    }
    return dict(sorted(found.items()))


def draw(measures: Iterable[Measure], folder: Path = FIGURES) -> list[Path]:
    """Draw every plot that has points; return the files."""
    measures = list(measures)
    latency = {
        f"{_NAMES[kind]}, {percent}": points(measures, f"offered-load/{kind}/{percent}")
        for kind in ("create_product", "get_product")
        for percent in ("p50", "p99")
    }
    throughput = {_NAMES[kind]: points(measures, f"concurrency/{kind}") for kind in _NAMES}
    plots = (
        ("latency-over-offered-load", latency, "offered load, calls a second", "latency, ms", "linear", "log"),
        ("throughput-over-concurrency", throughput, "concurrent callers", "calls a second", "log", "linear"),
        (
            "cost-over-log-size",
            {"a command, 64 concurrent": points(measures, "log-size")},
            "events in the log",
            "microseconds a command",
            "log",
            "linear",
        ),
    )
    drawn: list[Path] = []
    for name, series, x, y, x_scale, y_scale in plots:
        if any(series.values()):
            drawn.append(folder / f"{name}.svg")
            _plot(drawn[-1], series, x, y, x_scale, y_scale)
    return drawn


def _plot(path: Path, series: Mapping[str, Points], x: str, y: str, x_scale: str, y_scale: str) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "diptych", "font.size": 10})
    from matplotlib import pyplot

    figure: Any
    axes: Any
    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    for label, values in series.items():
        if values:
            axes.plot(list(values), list(values.values()), marker="o", markersize=4, label=label)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xscale(x_scale)
    axes.set_yscale(y_scale)
    if y_scale == "linear":
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
