"""Progress of long work: a bar on a terminal, and a line now and then elsewhere. It goes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_SECONDS = 5.0
"""Between two lines about one piece of work, where there is no terminal."""

Told = Callable[[int, int], None]


@contextmanager
def progress(what: str) -> Iterator[Told]:
    """Shows a piece of work. Gives what is to be told how much is done, and of how much."""
    shown = _bar(what) if sys.stderr.isatty() else _lines(what)
    with shown as told:
        yield told


@contextmanager
def _bar(what: str) -> Iterator[Told]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=max(total, 1))
        bar.update(task, completed=1, total=1)


@contextmanager
def _lines(what: str) -> Iterator[Told]:
    said = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _LINE_SECONDS:
            said = time.monotonic()
            print(f"{what}: {100 * done // max(total, 1)} %", file=sys.stderr, flush=True)

    yield told
    print(f"{what}: done", file=sys.stderr, flush=True)
