"""Limits in bytes for commands that wait for their outcomes, and for outcomes that callers have not read."""

from __future__ import annotations

import asyncio

from diptych.contract.reasons import Overloaded

_RETRY_SECONDS = 0.1


class ByteLimit:
    """Bytes in use by all calls together.

    Args:
        what: Name of the bytes in a refusal, such as "bytes of waiting commands".
        limit: Greatest number of bytes in use. One use may be larger if it is the only one.
    """

    def __init__(self, what: str, limit: int) -> None:
        self._what = what
        self._limit = limit
        self._waiting = 0
        self._released = asyncio.Event()
        self.used = 0
        """Bytes in use."""

    @property
    def exceeded(self) -> bool:
        """True while more than the limit is in use."""
        return self.used > self._limit

    def acquire(self, size: int) -> None:
        """Use bytes. Raise `Overloaded`, and use none, if the limit does not allow it."""
        if self.used + size > self._limit and self.used:
            raise self.overloaded()
        self.used += size

    def add(self, size: int) -> None:
        """Use bytes without regard to the limit."""
        self.used += size

    def release(self, size: int) -> None:
        """Give back bytes."""
        self.used -= size
        self._released.set()

    async def wait_for(self, size: int) -> None:
        """Wait until the bytes can be used, and use them. Cancelling uses none.

        Half of the limit stays free for calls that `acquire`.

        Raises:
            Overloaded: The calls that wait already have as many bytes as the limit.
        """
        if self.used and self.used + size > self._limit // 2:
            if self._waiting + size > self._limit and self._waiting:
                raise self.overloaded()
            self._waiting += size
            try:
                while self.used and self.used + size > self._limit // 2:
                    self._released.clear()
                    await self._released.wait()
            finally:
                self._waiting -= size
        self.used += size

    def check_below(self, factor: int) -> None:
        """Raise `Overloaded` if more than `factor` times the limit is in use."""
        if self.used > factor * self._limit:
            raise self.overloaded()

    def overloaded(self) -> Overloaded:
        """Return the refusal of a use beyond the limit."""
        refusal = Overloaded(what=self._what, limit=self._limit)
        return refusal.with_details(retry_seconds=_RETRY_SECONDS)
