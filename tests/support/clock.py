"""A clock that only the test moves."""

from __future__ import annotations


class Clock:
    """Time in seconds, given to code under test in place of `time.monotonic` or `time.time`."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
