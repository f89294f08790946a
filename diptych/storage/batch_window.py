"""Batch window: the number of callers that a batch waits for, and the longest wait.

The cost of a batch hardly depends on its size, and gRPC hands over one call at a time. If several callers were just
answered, the next batch waits a moment for as many to return. A lone caller never waits. The event loop and the
database's thread then take turns instead of waiting for each other's interpreter lock.

Callers that do other things between their calls don't return in time, and a quick caller beside them must not wait for
them. `BatchWindows` therefore learns the share of callers that return.
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


_RETURNING_STEP = 1 / 256
"""Growth of the share for each batch without a wait: it goes from none to all in 256 batches."""


class BatchWindows:
    """The windows of one writer, which waits for the share of callers that return in time.

    1. A window that ends by its time halves the share. A window of one caller or fewer is no wait.
    2. A window that fills raises the share by a half, so that callers who all return are soon waited for again.
    3. While no caller is waited for, the share grows slowly.
    """

    def __init__(self, batch_max: int = _SIZE_MAX) -> None:
        """Begin with a window that waits for all.

        Args:
            batch_max: Greatest size of a batch.
        """
        self._batch_max = batch_max
        self._share = 1.0

    def after(self, callers: int) -> BatchWindow:
        """Return the window that follows a batch.

        Args:
            callers: Callers that were in the batch or already wait for the next one.
        """
        window = BatchWindow.after(callers, self._batch_max)
        if self._share == 1.0 or window.size <= 1:
            return window
        size = round(window.size * self._share)
        if size > 1:
            return BatchWindow(size, window.seconds)
        self._share += _RETURNING_STEP
        return BatchWindow(size, 0.0)

    def observe(self, filled: bool) -> None:
        """Fit the share to a window that was waited for.

        Args:
            filled: True if as many callers came as the window has.
        """
        self._share = min(1.0, self._share * 1.5) if filled else self._share / 2
