"""Bench of one case: a folder, processes that end with the case, and the effort of its measurements."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.measure import Measure
from benchmarks.worker import Worker
from tests.support.pair import Pair, Settings
from tests.support.programs import Program, Server


@dataclass(frozen=True)
class Effort:
    """Sizes of a run. The quick form is for comparisons, the full one for figures."""

    quick: bool
    rounds: int
    seconds: float
    """Seconds of one round."""

    def scaled(self, full: int, quick: int) -> int:
        """Return the count for this effort."""
        return quick if self.quick else full


FULL = Effort(quick=False, rounds=5, seconds=2.0)
QUICK = Effort(quick=True, rounds=3, seconds=0.8)


def quiet_pair(data: Path, settings: Settings | None = None, env: dict[str, str] | None = None) -> Pair:
    """Return the shop's servers on a folder of their own, not started. They log warnings only."""
    return Pair(data, settings=settings, env=env, options=["--log-level=warning"])


class Bench:
    """Folder, processes and rounds of one case. Use it in `with`."""

    def __init__(self, effort: Effort, shared_folder: Path) -> None:
        self.effort = effort
        self.shared_folder = shared_folder
        """Folder that outlives the case, for files that take long to make."""
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="diptych-bench-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._first = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def worker(self) -> Worker:
        """Start a worker process and return it."""
        return self._stack.enter_context(Worker())

    def pair(self, name: str = "pair", settings: Settings | None = None, env: dict[str, str] | None = None) -> Pair:
        """Return the shop's servers on a folder of their own, not started."""
        return self._stack.enter_context(quiet_pair(self.folder / name, settings, env))

    def running(self, program: Program) -> Program:
        """Close a program at the end of the case, and return it."""
        return self._stack.enter_context(program)

    def echo(self) -> Server:
        """Start the bare server and return it."""
        server = self._stack.enter_context(Server("benchmarks.echo", log=self.folder / "echo.log"))
        server.start()
        return server

    def numbers(self, count: int = 1_000_000) -> int:
        """Return the first of `count` numbers that no request of this case has used."""
        first = self._first
        self._first += count
        return first

    def rounds(self, *sides: Callable[[], Any], warm_up: bool = True, times: int = 0) -> list[list[Any]]:
        """Measure the sides in turn, round after round; return the rounds of each side.

        The first side begins every other round, because the second side finds the processor's caches warmer.
        """
        if warm_up:
            for side in sides:
                side()
        results: list[list[Any]] = [[] for _ in sides]
        for number in range(times or self.effort.rounds):
            order: Sequence[int] = range(len(sides)) if number % 2 == 0 else range(len(sides))[::-1]
            for index in order:
                results[index].append(sides[index]())
        return results


Run = Callable[[Bench], Iterator[Measure]]


@dataclass(frozen=True)
class Case:
    """One case: its name, description and function."""

    name: str
    about: str
    run: Run
    quick: bool


CASES: dict[str, Case] = {}


def case(name: str, *, quick: bool = False) -> Callable[[Run], Run]:
    """Declare a case; its docstring is its description. `quick` cases are part of the quick form."""

    def declare(run: Run) -> Run:
        assert name not in CASES, f"{name} is declared twice"
        CASES[name] = Case(name, (run.__doc__ or "").partition("\n")[0].rstrip("."), run, quick)
        return run

    return declare
