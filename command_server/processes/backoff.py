"""Backoff between the attempts of a process's outputs, steps and writes."""

from __future__ import annotations

import random

_SECONDS_MIN, _SECONDS_MAX = 0.1, 30.0
_DOUBLINGS_MAX = 20


def backoff(attempts: int) -> float:
    """Return the seconds to wait after a number of failed attempts; jitter keeps concurrent retries apart."""
    delay: float = min(_SECONDS_MAX, _SECONDS_MIN * 2 ** min(attempts - 1, _DOUBLINGS_MAX))
    return delay * random.uniform(0.5, 1.0)
