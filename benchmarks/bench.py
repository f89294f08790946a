"""A bench: what a case works with: a folder, processes that end with it, and how long and how often to measure."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.measure import Measure
from benchmarks.worker import Worker
from tests.support.pair import Pair, Settings
from tests.support.programs import Program, Server


@dataclass(frozen=True)
class Effort:
    """How much of everything. The quick form is for a comparison, the full one for figures."""

    quick: bool
    rounds: int
    seconds: float
    """Of one round."""

    def scaled(self, full: int, quick: int) -> int:
        """A number of things, by how thorough it is to be."""
        return quick if self.quick else full


FULL = Effort(quick=False, rounds=5, seconds=2.0)
QUICK = Effort(quick=True, rounds=3, seconds=0.8)


def quiet_pair(data: Path, settings: Settings | None = None, env: dict[str, str] | None = None) -> Pair:
    """Return the shop's servers on a folder of their own, not started yet, which log warnings alone."""
    return Pair(data, settings=settings, env=env, options=["--log-level=warning"])


class Bench:
    """Where one case runs. Use it in `with`."""

    def __init__(self, effort: Effort, kept: Path) -> None:
        self.effort = effort
        self.kept = kept
        """A folder that outlives the case: what takes long to make is made once."""
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="diptych-bench-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._first = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def worker(self) -> Worker:
        """A worker process of its own."""
        return self._stack.enter_context(Worker())

    def pair(self, name: str = "pair", settings: Settings | None = None, env: dict[str, str] | None = None) -> Pair:
        """The shop's servers on a folder of their own, not started yet."""
        return self._stack.enter_context(quiet_pair(self.folder / name, settings, env))

    def running(self, program: Program) -> Program:
        """A program that ends with the case."""
        return self._stack.enter_context(program)

    def echo(self) -> Server:
        """The bare server, started."""
        server = self._stack.enter_context(Server("benchmarks.echo", log=self.folder / "echo.log"))
        server.start()
        return server

    def numbers(self, count: int = 1_000_000) -> int:
        """The first of so many numbers that no request of this case has had."""
        first = self._first
        self._first += count
        return first

    def rounds(self, *sides: Callable[[], Any], warm_up: bool = True, times: int = 0) -> list[list[Any]]:
        """Measures the sides in turn, round after round; returns the rounds of each side.

        The first side begins every other round, as whoever comes second finds the machine warmer.
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
    """One thing that is measured."""

    name: str
    about: str
    run: Run
    quick: bool


CASES: dict[str, Case] = {}


def case(name: str, *, quick: bool = False) -> Callable[[Run], Run]:
    """Declares a case; `quick` ones are in the quick form, too. Its docstring says what it is about."""

    def declare(run: Run) -> Run:
        assert name not in CASES, f"{name} is declared twice"
        CASES[name] = Case(name, (run.__doc__ or "").partition("\n")[0].rstrip("."), run, quick)
        return run

    return declare
