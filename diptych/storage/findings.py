"""What a verification finds, and how two orderly lists are compared without holding either in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

Row = tuple[Any, ...]
"""A row of a list; its first value is its key."""


class Findings:
    """What differs, bounded: of each kind the first few, and how many there are in all."""

    def __init__(self, each_max: int = 20) -> None:
        self.differences: dict[str, list[str]] = {}
        """By kind, a name such as LOG_GAP, a sentence for each of the first ones."""
        self.counts: Counter[str] = Counter()
        """By kind, how many there are."""
        self.unchecked: list[str] = []
        """What could not be checked, and why: a sentence each."""
        self.checked: list[str] = []
        """What was checked: a sentence each."""
        self._each_max = each_max

    def differs(self, kind: str, sentence: str) -> None:
        """Takes note of something that is not as it must be."""
        self.counts[kind] += 1
        told = self.differences.setdefault(kind, [])
        if len(told) < self._each_max:
            told.append(sentence)


def aligned(one: Iterable[Row], other: Iterable[Row]) -> Iterator[tuple[Any, Row | None, Row | None]]:
    """Pairs the rows of two lists in ascending order of their keys: the key, and what each list has under it."""
    left, right = iter(one), iter(other)
    mine, theirs = next(left, None), next(right, None)
    while mine is not None or theirs is not None:
        if theirs is None or (mine is not None and mine[0] < theirs[0]):
            assert mine is not None
            yield mine[0], mine, None
            mine = next(left, None)
        elif mine is None or theirs[0] < mine[0]:
            yield theirs[0], None, theirs
            theirs = next(right, None)
        else:
            yield mine[0], mine, theirs
            mine, theirs = next(left, None), next(right, None)
