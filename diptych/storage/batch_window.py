"""Batch window: the number of callers that a batch waits for, and the longest wait.

The cost of a batch hardly depends on its size, and gRPC hands over one call at a time. If several callers were just
answered, the next batch waits a moment for as many to return. A lone caller never waits. The event loop and the
database's thread then take turns instead of waiting for each other's interpreter lock.
"""

from __future__ import annotations

from typing import NamedTuple, Self

_SIZE_MAX = 64
"""Callers in a batch beyond which its own cost no longer counts."""

_CALL_SECONDS = 0.0002
"""Seconds that gRPC takes to hand over a call. A uvloop timer counts whole milliseconds, so two callers don't wait."""


class BatchWindow(NamedTuple):
    """Wait of the next batch: it ends with the number of callers or the time, whichever is first."""

    size: int
    seconds: float

    @classmethod
    def after(cls, callers: int, batch_max: int = _SIZE_MAX) -> Self:
        """Return the window that follows a batch.

        Args:
            callers: Callers that were in the batch or already wait for the next one.
            batch_max: Greatest size of a batch.
        """
        size = min(callers, batch_max, _SIZE_MAX)
        return cls(size, size * _CALL_SECONDS)
