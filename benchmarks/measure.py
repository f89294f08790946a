"""Measures: figures beside their references, and the statistics that make one figure of many rounds.

A ratio above 1 always means that we are better: for rates it is ours by theirs, for times theirs by ours. Its rounds
alternate, so other load on the machine affects both sides alike.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class Summary(NamedTuple):
    """Rounds of one side: median, minimum and maximum."""

    median: float
    least: float
    greatest: float


def summary(values: Sequence[float]) -> Summary:
    """Return the summary of rounds; raise `ValueError` without rounds."""
    if not values:
        raise ValueError("no round was measured")
    return Summary(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` percent of the values do not exceed, by nearest rank.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


class Ratio(NamedTuple):
    """Ratio of a figure to its reference, with the spread over the rounds."""

    value: float
    least: float
    greatest: float


def ratio(figures: Sequence[float], references: Sequence[float], *, less_is_better: bool = False) -> Ratio:
    """Return the median of the rounds' ratios. Rounds with the same number ran one after the other."""
    if len(figures) != len(references) or not figures:
        raise ValueError("every round has a figure and a reference")
    pairs = zip(references, figures, strict=True) if less_is_better else zip(figures, references, strict=True)
    ratios = [ours / theirs for ours, theirs in pairs]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def best_ratio(figures: Sequence[float], references: Sequence[float], *, less_is_better: bool = False) -> float:
    """Return the best round of one side by the best of the other, because noise only makes a round worse."""
    if less_is_better:
        return min(references) / min(figures)
    return max(figures) / max(references)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One line of the table."""

    name: str
    """Unique name, such as `command-64/echo`. A plot's points have names of their own."""
    what: str
    """Description in a few words."""
    figure: float
    unit: str
    least: float
    greatest: float
    reference: str = ""
    """Description of the reference in a few words; empty if there is none."""
    reference_figure: float | None = None
    ratio: float | None = None
    ratio_least: float | None = None
    ratio_greatest: float | None = None
    best: float | None = None
    """Ratio of the best rounds, which the quick form compares with the recorded one."""
    target: str = ""
    """Target as the table shows it; empty if there is none."""
    met: bool | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the measure as JSON, without unknown fields."""
        return {key: _rounded(value) for key, value in asdict(self).items() if value not in (None, "")}


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def compared(
    name: str,
    what: str,
    figures: Sequence[float],
    unit: str,
    reference: str,
    references: Sequence[float],
    *,
    less_is_better: bool = False,
    at_least: float | None = None,
    floor: float | None = None,
    ceiling: float | None = None,
    note: str = "",
) -> Measure:
    """Return a measure beside its reference.

    `at_least` is the ratio to reach. `floor` and `ceiling` are limits of the figure itself.
    """
    ours, theirs = summary(figures), summary(references)
    how = ratio(figures, references, less_is_better=less_is_better)
    target, met = _judged(ours.median, how.value, at_least, floor, ceiling, unit)
    return Measure(
        name=name,
        what=what,
        figure=ours.median,
        unit=unit,
        least=ours.least,
        greatest=ours.greatest,
        reference=reference,
        reference_figure=theirs.median,
        ratio=how.value,
        ratio_least=how.least,
        ratio_greatest=how.greatest,
        best=best_ratio(figures, references, less_is_better=less_is_better),
        target=target,
        met=met,
        note=note,
    )


def alone(
    name: str,
    what: str,
    figures: Sequence[float],
    unit: str,
    *,
    floor: float | None = None,
    ceiling: float | None = None,
    note: str = "",
) -> Measure:
    """Return a measure without a reference."""
    ours = summary(figures)
    target, met = _judged(ours.median, None, None, floor, ceiling, unit)
    return Measure(
        name=name,
        what=what,
        figure=ours.median,
        unit=unit,
        least=ours.least,
        greatest=ours.greatest,
        target=target,
        met=met,
        note=note,
    )


def absent(name: str, what: str, why: str) -> Measure:
    """Return a line with the reason why a figure could not be measured here."""
    return Measure(name=name, what=what, figure=math.nan, unit="", least=math.nan, greatest=math.nan, note=why)


def _judged(
    figure: float,
    how: float | None,
    at_least: float | None,
    floor: float | None,
    ceiling: float | None,
    unit: str,
) -> tuple[str, bool | None]:
    targets: list[str] = []
    met: list[bool] = []
    if at_least is not None and how is not None:
        targets.append(f">= {at_least:g} x")
        met.append(how >= at_least)
    if floor is not None:
        targets.append(f">= {floor:,g} {unit}")
        met.append(figure >= floor)
    if ceiling is not None:
        targets.append(f"<= {ceiling:,g} {unit}")
        met.append(figure <= ceiling)
    return ", ".join(targets), all(met) if met else None
