"""`python -m benchmarks [CASE...]`: measure, print the table, write JSON, draw plots. `--list` names the cases."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import cases as _declared  # noqa: F401
from benchmarks import machine, plots, record, report
from benchmarks.bench import CASES, FULL, QUICK, Bench, Case, Effort
from benchmarks.measure import Measure
from tests.support.programs import ROOT

_ATTEMPTS = 3
"""Measurements of a case in the quick form before it is reported as too slow."""

_console = Console()


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="CASE...", help="Names of cases; all by default.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure less; fail if a ratio is under half of the recorded one.")
    ] = False,
    recording: Annotated[
        bool,
        typer.Option("--record", help="Write recorded.json, the plots and the READMEs' tables. Use a quiet machine."),
    ] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Write the measures to a file.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the cases.")] = False,
) -> None:
    """Measure the servers beside bare references, in the same run, on this machine."""
    if listing:
        for one in CASES.values():
            _console.print(f"  {one.name:20} {one.about}{' (quick)' if one.quick else ''}", highlight=False)
        return
    unknown = [name for name in names or () if name not in CASES]
    if unknown:
        raise typer.BadParameter(f"there is no case {', '.join(unknown)}; --list names them")
    chosen = [CASES[name] for name in names] if names else list(CASES.values())
    if quick:
        chosen = [one for one in chosen if one.quick]
    shared_folder = Path(tempfile.mkdtemp(prefix="diptych-bench-shared_folder-"))
    try:
        measures, broken = _measure(chosen, QUICK if quick else FULL, shared_folder)
        failed = _remaining_regressions(measures, shared_folder) if quick else []
        machine_now = machine.description()
        report.show(report.lines(measures), machine_now, _console)
        if output is not None:
            output.write_text(
                json.dumps({"machine": machine_now, "measures": [one.as_json() for one in measures]}, indent=2) + "\n"
            )
        if recording:
            _record(machine_now, measures, chosen, quick, shared_folder, {each.split()[0] for each in broken})
    finally:
        shutil.rmtree(shared_folder, ignore_errors=True)
    for sentence in (*broken, *failed):
        _console.print(sentence, style="red", highlight=False)
    sys.exit(1 if broken or failed else 0)


def _measure(chosen: Sequence[Case], effort: Effort, shared_folder: Path) -> tuple[list[Measure], list[str]]:
    """Return the measures of these cases, and a sentence for each case that failed. The other cases are still run."""
    measures: list[Measure] = []
    broken: list[str] = []
    for one in chosen:
        _console.print(f"[bold]{one.name}[/] {one.about}", highlight=False)
        began = time.perf_counter()
        try:
            with Bench(effort, shared_folder) as bench:
                for measure in one.run(bench):
                    measures.append(measure)
                    _console.print(f"  {_line(measure)}", highlight=False)
        except Exception as error:
            _console.print_exception()
            broken.append(f"{one.name} failed: {type(error).__name__}: {str(error)[:500]}")
        _console.print(f"  [dim]{time.perf_counter() - began:.0f} s[/]", highlight=False)
    return measures, broken


def _line(measure: Measure) -> str:
    text = f"{measure.name}: {report.number(measure.figure)} {measure.unit}"
    if measure.ratio is not None:
        text += f", {report.number(measure.ratio)} x {measure.reference} ({report.number(measure.reference_figure)})"
    if measure.note:
        text += f" ({measure.note})"
    return text


def _remaining_regressions(measures: list[Measure], shared_folder: Path) -> list[str]:
    """Return the regressions that remain after their cases are measured again, and keep the better of both measures."""
    recorded = record.read()
    for _ in range(_ATTEMPTS - 1):
        names = {sentence.partition("/")[0] for sentence in record.regressions(measures, recorded)}
        if not names:
            return []
        again, _ = _measure([CASES[name] for name in sorted(names)], QUICK, shared_folder)
        better = {one.name: one for one in again}
        for index, measure in enumerate(measures):
            new = better.get(measure.name)
            if new is not None and (new.best or 0) > (measure.best or 0):
                measures[index] = new
    return record.regressions(measures, recorded)


def _record(
    machine_now: dict[str, object],
    measures: list[Measure],
    chosen: Sequence[Case],
    quick: bool,
    shared_folder: Path,
    broken: set[str],
) -> None:
    if quick:
        written = record.write(machine_now, (), measures)
    else:
        again, _ = _measure([one for one in chosen if one.quick], QUICK, shared_folder)
        # The record keeps its measures of a case that failed.
        all_measured = {one.name for one in CASES.values()} <= {one.name for one in chosen} - broken
        written = record.write(machine_now, measures, again, anew=all_measured)
    known = record.measures_of(written)
    report.put_between_markers(ROOT / "benchmarks" / "README.md", report.markdown(written, known))
    report.put_between_markers(ROOT / "README.md", report.headlines(written, known))
    if plots.can_draw():
        for path in plots.draw(known):
            _console.print(f"Drawn: {path.relative_to(ROOT)}", highlight=False)
    else:
        _console.print("No plots: matplotlib is not installed (pip install -e '.[bench]').")


if __name__ == "__main__":
    typer.run(main)
