"""Event ids: UUIDs of version 7, of one moment."""

from __future__ import annotations

import os
from datetime import datetime

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""Digit of a UUID whose upper two bits are the variant of RFC 4122."""


class EventIds:
    """Makes unique ids with one timestamp; their order is random."""

    __slots__ = ("_prefix",)

    def __init__(self, now: datetime) -> None:
        milliseconds = f"{int(now.timestamp() * 1000):012x}"
        self._prefix = f"{milliseconds[:8]}-{milliseconds[8:]}-"

    def next(self) -> str:
        """Return a new id."""
        tail = os.urandom(10).hex()
        return f"{self._prefix}7{tail[:3]}-{_VARIANT[tail[3]]}{tail[4:7]}-{tail[7:19]}"
