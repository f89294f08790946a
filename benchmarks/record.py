"""Record: the last measurements on a quiet machine, and the check of quick runs against it.

`recorded.json` holds the machine, every measure of the full run, and the best ratios of the quick form. Quick runs are
compared with the latter, because their rounds are too short to compare with full ones.
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
"""Share of the recorded ratio below which a ratio is a regression. Noise alone stays above it."""


def read(path: Path = RECORDED) -> dict[str, Any]:
    """Return the record; empty if there is none."""
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
    """Merge measures into the record, so that a case can be run by itself. `anew` starts with an empty record."""
    record = {} if anew else read(path)
    merged: dict[str, Any] = record.get("measures", {})
    for measure in measures:
        if math.isnan(measure.figure):
            continue
        as_json = measure.as_json()
        merged[as_json.pop("name")] = as_json
    best: dict[str, float] = record.get("quick", {})
    best.update({measure.name: round(measure.best, 3) for measure in quick if measure.best is not None})
    record = {"machine": dict(machine), "measures": merged, "quick": best}
    path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", "utf-8")
    return record


def measures_of(record: Mapping[str, Any]) -> list[Measure]:
    """Return the measures of a record."""
    return [Measure(name=name, **fields) for name, fields in record.get("measures", {}).items()]


def regressions(measures: Iterable[Measure], record: Mapping[str, Any]) -> list[str]:
    """Return a sentence for every ratio under half of the recorded one. A measure without a record is skipped."""
    recorded: Mapping[str, float] = record.get("quick", {})
    return [
        f"{measure.name}: {measure.best:.2f} x its reference, and {recorded[measure.name]:.2f} x is recorded"
        for measure in measures
        if measure.best is not None and measure.name in recorded and measure.best < LEAST_SHARE * recorded[measure.name]
    ]
