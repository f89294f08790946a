"""Lag clock: seconds since a projection was last at the head of the log, by this process's clock."""

from __future__ import annotations

import time

from projector.log_head import LogHead

_SILENCE_SECONDS = 3.0
"""Age of the last head frame, of which the log sends four a second, above which no projection counts as at the head."""


class LagClock:
    """Seconds since one projection was last at the head.

    Under load the head moves while a batch is folded, and a projection is never exactly at it. So lag is the time
    since the newest head that the projection has reached by now was the head:

    1. While behind, remember one head as the goal, and the time at which it was the head.
    2. When the goal is applied, its time is the new start of the lag, and the next head becomes the goal.
    """

    __slots__ = ("_goal", "_goal_observed_at", "_head", "_last_at_head")

    def __init__(self, head: LogHead) -> None:
        self._head = head
        self._last_at_head = time.monotonic()
        self._goal: int | None = None
        self._goal_observed_at = 0.0

    def record(self, applied: int) -> None:
        """Record the applied position. Call it whenever that or the head has changed."""
        head = self._head
        if head.observed_at is None:
            return
        if applied >= head.position:
            self._last_at_head = head.observed_at
            self._goal = None
            return
        if self._goal is not None and applied >= self._goal:
            self._last_at_head = self._goal_observed_at
            self._goal = None
        if self._goal is None:
            self._goal, self._goal_observed_at = head.position, head.observed_at

    def seconds(self, applied: int) -> float:
        """Return the seconds since the projection was at the head; 0 if it is there."""
        now, head = time.monotonic(), self._head
        if head.observed_at is not None and applied >= head.position and now - head.observed_at < _SILENCE_SECONDS:
            return 0.0
        return now - self._last_at_head
