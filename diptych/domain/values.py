"""Stored form of column values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def stored(value: Any) -> Any:
    """Return the stored form of a column's value: of a datetime the microseconds since 1970, else the value itself."""
    if isinstance(value, datetime):
        return (value - _EPOCH) // _MICROSECOND
    return value
