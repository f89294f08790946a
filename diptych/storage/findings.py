"""Findings of a verification, and the comparison of two sorted lists that are not held in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

Row = tuple[Any, ...]
"""Row of a list. Its first value is its key."""


class Findings:
    """Differences that a check reports. Of each kind the first sentences and the number are stored."""

    def __init__(self, each_max: int = 20) -> None:
        """Begin without findings.

        Args:
            each_max: Sentences that are stored for each kind.
        """
        self.differences: dict[str, list[str]] = {}
        """By kind, a name such as LOG_GAP, a sentence for each of the first differences."""
        self.counts: Counter[str] = Counter()
        """By kind, the number of all differences."""
        self.unchecked: list[str] = []
        """Sentences: the parts that could not be checked, and why."""
        self.checked: list[str] = []
        """Sentences: the parts that were checked."""
        self._each_max = each_max

    def add(self, kind: str, sentence: str) -> None:
        """Add a difference.

        Args:
            kind: Name of its kind, such as LOG_GAP.
            sentence: Description with the values.
        """
        self.counts[kind] += 1
        sentences = self.differences.setdefault(kind, [])
        if len(sentences) < self._each_max:
            sentences.append(sentence)


def align(one: Iterable[Row], other: Iterable[Row]) -> Iterator[tuple[Any, Row | None, Row | None]]:
    """Pair the rows of two lists, both in ascending order of their keys.

    Yields:
        Each key with its row in the first list and its row in the second list; None if a list has no such key.
    """
    left_rows, right_rows = iter(one), iter(other)
    left, right = next(left_rows, None), next(right_rows, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left[0] < right[0]):
            assert left is not None
            yield left[0], left, None
            left = next(left_rows, None)
        elif left is None or right[0] < left[0]:
            yield right[0], None, right
            right = next(right_rows, None)
        else:
            yield left[0], left, right
            left, right = next(left_rows, None), next(right_rows, None)
