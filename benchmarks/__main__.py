"""`python -m benchmarks [CASE...]`: measures, prints the table, writes JSON, draws plots. `--list` names the cases."""

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
"""How often the quick form measures a case that has fallen behind before it says so."""

_console = Console()


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="CASE...", help="Cases; none: all.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few and short; fails where a ratio is under half of the recorded one.")
    ] = False,
    recording: Annotated[
        bool,
        typer.Option("--record", help="Write recorded.json, the plots and the README's table, from a quiet machine."),
    ] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Write the measures to a file.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the cases.")] = False,
) -> None:
    """Measures the servers beside bare references, in the same run, on this machine."""
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
    kept = Path(tempfile.mkdtemp(prefix="diptych-bench-kept-"))
    try:
        measures, broken = _measure(chosen, QUICK if quick else FULL, kept)
        failed = _fallen_behind(measures, kept) if quick else []
        machine_now = machine.description()
        report.show(report.lines(measures), machine_now, _console)
        if output is not None:
            output.write_text(
                json.dumps({"machine": machine_now, "measures": [one.as_json() for one in measures]}, indent=2) + "\n"
            )
        if recording:
            _record(machine_now, measures, chosen, quick, kept, {each.split()[0] for each in broken})
    finally:
        shutil.rmtree(kept, ignore_errors=True)
    for sentence in (*broken, *failed):
        _console.print(sentence, style="red", highlight=False)
    sys.exit(1 if broken or failed else 0)


def _measure(chosen: Sequence[Case], effort: Effort, kept: Path) -> tuple[list[Measure], list[str]]:
    """The measures of these cases, and a sentence for each case that broke; the others go on."""
    measures: list[Measure] = []
    broken: list[str] = []
    for one in chosen:
        _console.print(f"[bold]{one.name}[/] {one.about}", highlight=False)
        began = time.perf_counter()
        try:
            with Bench(effort, kept) as bench:
                for measure in one.run(bench):
                    measures.append(measure)
                    _console.print(f"  {_line(measure)}", highlight=False)
        except Exception as error:
            _console.print_exception()
            broken.append(f"{one.name} broke: {type(error).__name__}: {str(error)[:500]}")
        _console.print(f"  [dim]{time.perf_counter() - began:.0f} s[/]", highlight=False)
    return measures, broken


def _line(measure: Measure) -> str:
    told = f"{measure.name}: {report.number(measure.figure)} {measure.unit}"
    if measure.ratio is not None:
        told += f", {report.number(measure.ratio)} x {measure.reference} ({report.number(measure.reference_figure)})"
    if measure.note:
        told += f" ({measure.note})"
    return told


def _fallen_behind(measures: list[Measure], kept: Path) -> list[str]:
    """Regressions that stay when their cases are measured again; of both measures the better one stays."""
    recorded = record.read()
    for _ in range(_ATTEMPTS - 1):
        names = {sentence.partition("/")[0] for sentence in record.regressions(measures, recorded)}
        if not names:
            return []
        again, _ = _measure([CASES[name] for name in sorted(names)], QUICK, kept)
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
    kept: Path,
    broken: set[str],
) -> None:
    if quick:
        written = record.write(machine_now, (), measures)
    else:
        again, _ = _measure([one for one in chosen if one.quick], QUICK, kept)
        # A case that broke would be missing: then the record keeps what it has of it.
        whole = {one.name for one in CASES.values()} <= {one.name for one in chosen} - broken
        written = record.write(machine_now, measures, again, anew=whole)
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
