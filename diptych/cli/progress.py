"""Progress of long work, on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_SECONDS = 5.0
"""Time between two lines about one piece of work, without a terminal."""

Report = Callable[[int, int], None]
"""Function of the amount that is done and the amount in all, in any unit."""


@contextmanager
def show_progress(title: str) -> Iterator[Report]:
    """Show the progress of the work in the `with` block. Yield the function that reports it."""
    with _bar(title) if sys.stderr.isatty() else _lines(title) as report:
        yield report


@contextmanager
def _bar(title: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=max(total, 1))
        bar.update(task, completed=1, total=1)


@contextmanager
def _lines(title: str) -> Iterator[Report]:
    last_line = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= _LINE_SECONDS:
            last_line = time.monotonic()
            print(f"{title}: {100 * done // max(total, 1)} %", file=sys.stderr, flush=True)

    yield report
    print(f"{title}: done", file=sys.stderr, flush=True)
