"""The record: what was measured last on a quiet machine, and whether a quick run still comes near it.

`recorded.json` holds the machine, every measure of the full run, and the best ratios of the quick form, which is what
quick runs are compared with: its rounds are too short to be compared with the full ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import Measure

RECORDED = Path(__file__).with_name("recorded.json")
LEAST_SHARE = 0.5
"""A ratio below this share of the recorded one is a regression; what noise does to ratios stays above it."""


def read(path: Path = RECORDED) -> dict[str, Any]:
    """The record; empty if there is none."""
    if not path.exists():
        return {}
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return record


def write(
    machine: Mapping[str, object],
    measures: Iterable[Measure],
    quick: Iterable[Measure],
    path: Path = RECORDED,
    *,
    anew: bool = False,
) -> dict[str, Any]:
    """Merges measures into the record: what was not measured again stays, so that a case can be run by itself.

    `anew` begins an empty record.
    """
    record = {} if anew else read(path)
    kept: dict[str, Any] = record.get("measures", {})
    for measure in measures:
        if math.isnan(measure.figure):
            continue
        as_json = measure.as_json()
        kept[as_json.pop("name")] = as_json
    best: dict[str, float] = record.get("quick", {})
    best.update({measure.name: round(measure.best, 3) for measure in quick if measure.best is not None})
    record = {"machine": dict(machine), "measures": kept, "quick": best}
    path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", "utf-8")
    return record


def measures_of(record: Mapping[str, Any]) -> list[Measure]:
    """The measures of a record."""
    return [Measure(name=name, **fields) for name, fields in record.get("measures", {}).items()]


def regressions(measures: Iterable[Measure], record: Mapping[str, Any]) -> list[str]:
    """A sentence for every ratio that has fallen to under half of the recorded one. What is new has no record."""
    recorded: Mapping[str, float] = record.get("quick", {})
    return [
        f"{measure.name}: {measure.best:.2f} x its reference, and {recorded[measure.name]:.2f} x is recorded"
        for measure in measures
        if measure.best is not None and measure.name in recorded and measure.best < LEAST_SHARE * recorded[measure.name]
    ]
