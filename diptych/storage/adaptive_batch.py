"""Sizes that are learnt: how many of something at once come to a given measure of something else."""

from __future__ import annotations


class LearntSize:
    """How many at once come to the target, as far as is known: events to seconds, say, or rows to pages."""

    def __init__(self, target: float, *, first: int, least: int, most: int) -> None:
        self.count = min(first, most)
        self._target = target
        self._least = least
        self._most = most

    def note(self, count: int, measure: float) -> None:
        """So many came to so much. It comes nearer a step at a time, twice or half, as one may be unlike others."""
        fitting = count * self._target / max(measure, 1e-6)
        bounded = min(max(fitting, self.count / 2), self.count * 2)
        self.count = min(max(int(bounded), self._least), self._most)
