"""Head of the log: its identity, its positions over time, and what follows from both: tokens, lag and staleness."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from diptych.contract.token import LogIdentity

SILENCE_SECONDS = 1.0
"""Time after which a silent stream counts as lost."""

_SAMPLES_MAX = 4096


class IdentitySource(IntEnum):
    """Sources of the log's identity; the greater one overrules the lesser."""

    STORE = 0
    PROJECTOR = 1
    COMMAND_SERVER = 2


class HeadReport(NamedTuple):
    """Answer of the command server about the head."""

    identity: LogIdentity
    position: int


class LogHead:
    """Head of the log as last reported, with samples of where it was at which time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.identity: LogIdentity | None = None
        self._source = IdentitySource.STORE
        self._clock = clock
        self._started_at = clock()
        # Both ascend: at that time, the head was at that position.
        self._positions: list[int] = []
        self._times: list[float] = []
        self._token = (-1, "")

    @property
    def position(self) -> int | None:
        """Head as last reported; None before the first report."""
        return self._positions[-1] if self._positions else None

    @property
    def known_position(self) -> int:
        """Head as last reported; 0 before the first report."""
        return self._positions[-1] if self._positions else 0

    @property
    def reported_at(self) -> float | None:
        """Time of the last report; None before the first."""
        return self._times[-1] if self._times else None

    def identify(self, identity: LogIdentity, source: IdentitySource) -> bool:
        """Take the log's identity from a source, unless a greater source has stated one; return True if it changed."""
        before = self.identity
        if before is not None and source < self._source:
            return False
        self.identity, self._source = identity, source
        if before == identity:
            return False
        self._token = -1, ""
        if before is not None:
            self._positions.clear()
            self._times.clear()
        return True

    def advance(self, position: int, now: float) -> None:
        """Take a report that the head was at a position at a time."""
        if not self._positions or position > self._positions[-1]:
            if len(self._positions) >= _SAMPLES_MAX:
                # Drop every second sample but the newest. The rest stay true, though older.
                del self._positions[len(self._positions) - 2 :: -2], self._times[len(self._times) - 2 :: -2]
            self._positions.append(position)
            self._times.append(max(now, self._times[-1]) if self._times else now)
        elif position == self._positions[-1]:
            self._times[-1] = max(now, self._times[-1])

    def position_since(self, moment: float) -> int | None:
        """Return a position that includes every event recorded before a moment; None without a report since then."""
        index = bisect_left(self._times, moment)
        return self._positions[index] if index < len(self._times) else None

    def last_time_at(self, position: int) -> float | None:
        """Return the last time at which a position was known to include the whole log; None: never."""
        index = bisect_right(self._positions, position) - 1
        return self._times[index] if index >= 0 else None

    def token(self, position: int) -> str:
        """Return the token for a position; empty while the log's identity is unknown."""
        if position == self._token[0]:
            return self._token[1]
        identity = self.identity
        if identity is None:
            return ""
        text = identity.token(position)
        self._token = position, text
        return text

    def lag_events(self, position: int) -> int:
        """Return the number of events between a position and the head as last reported."""
        return max(self.known_position - position, 0)

    def lag_seconds(self, position: int) -> float:
        """Return the time since a position was last known to be the head, in seconds."""
        now = self._clock()
        head, reported_at = self.position, self.reported_at
        if head is not None and reported_at is not None and position >= head and now - reported_at < SILENCE_SECONDS:
            return 0.0
        last = self.last_time_at(position)
        return now - (self._started_at if last is None else last)
