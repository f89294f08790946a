"""The crowd: for how many callers a batch waits, and how long.

What a batch costs by itself hardly depends on how many are in it, and gRPC hands calls over one at a time. So where
several callers were just answered, the next batch waits a moment for as many to come back; who calls alone never
waits. The loop and the database's thread then take turns, rather than each waiting for the other's interpreter.
"""

from __future__ import annotations

from typing import NamedTuple, Self

_SIZE_MAX = 64
"""With so many in a batch, what it costs by itself no longer counts."""

_CALL_SECONDS = 0.0002
"""What gRPC takes to hand a call over, about. uvloop's timers count whole milliseconds, so two are not waited for."""


class Crowd(NamedTuple):
    """What the next batch waits for: so many callers, and for so long at most."""

    size: int
    seconds: float

    @classmethod
    def after(cls, callers: int, batch_max: int = _SIZE_MAX) -> Self:
        """The crowd after a batch, by the callers who were in it or wait already."""
        size = min(callers, batch_max, _SIZE_MAX)
        return cls(size, size * _CALL_SECONDS)
