"""Retry policy: how often an event that cannot be folded is tried again before its stream is parked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_RECENT_SECONDS = 60.0
"""Age below which a parked stream takes an attempt from the next failing event."""


class RetryPolicy:
    """Attempts and backoff for one follower's failing events.

    Each stream that was parked within the last minute takes an attempt from the next failing event. Where every event
    fails, the projection therefore stalls soon, and does not back off at each event.
    """

    def __init__(self, attempts_max: int, backoff_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Create a policy without failures.

        Args:
            attempts_max: Attempts of one event before its stream is parked.
            backoff_seconds: Pause after the first failed attempt; it doubles with each further attempt.
            clock: Seconds of a monotonic clock.
        """
        self.attempts = 0
        """Failed attempts of the current event."""
        self._attempts_max = attempts_max
        self._backoff_seconds = backoff_seconds
        self._clock = clock
        self._position = 0
        self._parked_at: deque[float] = deque(maxlen=attempts_max)

    def record_failure(self, position: int) -> float | None:
        """Count a failed attempt of the event at a position.

        Returns:
            Seconds to wait before the next attempt; None if the stream is to be parked.
        """
        if position != self._position:
            self._position, self.attempts = position, 0
        self.attempts += 1
        recent = sum(self._clock() - parked_at < _RECENT_SECONDS for parked_at in self._parked_at)
        if self.attempts >= self._attempts_max - recent:
            return None
        return float(self._backoff_seconds * 2 ** (self.attempts - 1))

    def record_parked(self) -> None:
        """Note that the current event's stream was parked."""
        self._position = 0
        self._parked_at.append(self._clock())

    def reset(self) -> None:
        """Give the current event all its attempts again, because an operator resumed the projection."""
        self._position = 0
