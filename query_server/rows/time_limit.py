"""Time limit of one read of the store."""

from __future__ import annotations

import time


class TimeLimit:
    """Time at which a read is ended. Callers that join the read extend the limit, up to its greatest duration."""

    __slots__ = ("_began_at", "_latest", "until")

    def __init__(self, seconds: float, seconds_max: float) -> None:
        """Begin now.

        Args:
            seconds: Duration that the caller allows.
            seconds_max: Greatest duration, whatever the callers allow.
        """
        self._began_at = time.monotonic()
        self._latest = self._began_at + seconds_max
        self.until = self._began_at + min(seconds, seconds_max)
        """End of the read, in monotonic seconds."""

    @property
    def seconds_left(self) -> float:
        """Seconds until the end; 0 or less after it."""
        return self.until - time.monotonic()

    @property
    def milliseconds(self) -> int:
        """Duration from begin to end, in whole milliseconds."""
        return round((self.until - self._began_at) * 1000)

    def extend(self, other: TimeLimit) -> None:
        """Move the end to that of another caller's limit, if that is later."""
        self.until = max(self.until, min(other.until, self._latest))
