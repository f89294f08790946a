"""Adaptive batch size: a count fitted to a measured result, such as events to seconds or rows to pages."""

from __future__ import annotations


class AdaptiveBatchSize:
    """Size of a batch whose measured result is to reach a target."""

    def __init__(self, target: float, *, first: int, minimum: int, maximum: int) -> None:
        """Begin with a first size.

        Args:
            target: Result that one batch should have, in the unit that `observe` takes.
            first: Size before the first observation.
            minimum: Least size.
            maximum: Greatest size.
        """
        self.count = min(first, maximum)
        """Size of the next batch."""
        self._target = target
        self._minimum = minimum
        self._maximum = maximum

    def observe(self, count: int, result: float) -> None:
        """Fit the size to the result of a batch.

        The size changes by a factor of two at most, since one batch may be unlike the others.

        Args:
            count: Size of the batch.
            result: Its measured result, in the target's unit.
        """
        fitting = count * self._target / max(result, 1e-6)
        bounded = min(max(fitting, self.count / 2), self.count * 2)
        self.count = min(max(int(bounded), self._minimum), self._maximum)
