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


class _Samples:
    """Samples of the head: at that time, it was at that position. Both lists ascend."""

    __slots__ = ("positions", "times")

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.times: list[float] = []

    def add(self, position: int, moment: float) -> None:
        """Add a sample. One below the last position comes from an earlier moment, and is left out."""
        positions, times = self.positions, self.times
        if not positions or position > positions[-1]:
            if len(positions) >= _SAMPLES_MAX:
                # Drop every second sample but the newest. The rest stay true, though older.
                del positions[len(positions) - 2 :: -2], times[len(times) - 2 :: -2]
            positions.append(position)
            times.append(max(moment, times[-1]) if times else moment)
        elif position == positions[-1]:
            times[-1] = max(moment, times[-1])

    def clear(self) -> None:
        """Drop all samples."""
        self.positions.clear()
        self.times.clear()


class LogHead:
    """Head of the log as last reported, with samples of where it was at which time.

    Reports that the command server sends by itself may have been under way for long, so they say nothing about the
    log of now: `lag_seconds` uses them, as an estimate. The answer to a request is at least as new as the request.
    Only answers bound the staleness of a read.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.identity: LogIdentity | None = None
        self._source = IdentitySource.STORE
        self._clock = clock
        self._started_at = clock()
        self.log_changes = 0
        """Number of times that the identity changed. Positions from before a change may be of events that are lost."""
        self._reports = _Samples()
        self._answers = _Samples()
        self._token = (-1, "")

    @property
    def position(self) -> int | None:
        """Head as last reported; None before the first report."""
        positions = self._reports.positions
        return positions[-1] if positions else None

    @property
    def known_position(self) -> int:
        """Head as last reported; 0 before the first report."""
        positions = self._reports.positions
        return positions[-1] if positions else 0

    @property
    def reported_at(self) -> float | None:
        """Time of the last report; None before the first."""
        times = self._reports.times
        return times[-1] if times else None

    def identify(self, identity: LogIdentity, source: IdentitySource) -> bool:
        """Take the log's identity from a source; return True if it changed.

        A later epoch of the same log is taken from every source: it cannot be known before it has begun. An earlier
        one is taken from none, as its report is older. Another log is taken unless a greater source has stated one.
        """
        before = self.identity
        if before is None:
            self.identity, self._source = identity, source
        elif before == identity:
            self._source = max(source, self._source)
            return False
        elif before.log_id == identity.log_id:
            if (identity.epoch, source) < (before.epoch, self._source):
                return False
            self.identity, self._source = identity, max(source, self._source)
        elif source < self._source:
            return False
        else:
            self.identity, self._source = identity, source
        self._token = -1, ""
        if before is not None:
            self.log_changes += 1
            self._reports.clear()
            self._answers.clear()
        return True

    def advance(self, position: int, now: float) -> None:
        """Take a report, received at a time, that the head was at a position."""
        self._reports.add(position, now)

    def answer(self, position: int, requested_at: float) -> None:
        """Take the answer to a request that began at a time."""
        self._reports.add(position, requested_at)
        self._answers.add(position, requested_at)

    def position_since(self, moment: float) -> int | None:
        """Return a position that includes every event recorded before a moment; None without an answer since then."""
        index = bisect_left(self._answers.times, moment)
        return self._answers.positions[index] if index < len(self._answers.times) else None

    def last_time_at(self, position: int) -> float | None:
        """Return the last time at which a position was known to include the whole log; None: never."""
        index = bisect_right(self._reports.positions, position) - 1
        return self._reports.times[index] if index >= 0 else None

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
