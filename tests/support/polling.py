"""Polling with a limit: wait until a condition is true, and fail with the condition and its last value."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast, overload

T = TypeVar("T")

LIMIT_SECONDS = 30.0
"""Default limit: much longer than any condition takes on a loaded machine."""
INTERVAL_SECONDS = 0.02


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]], *, what: str = ..., seconds: float = ..., every: float = ...
) -> T: ...
@overload
async def eventually(condition: Callable[[], T], *, what: str = ..., seconds: float = ..., every: float = ...) -> T: ...
async def eventually(
    condition: Callable[[], T | Awaitable[T]],
    *,
    what: str = "",
    seconds: float = LIMIT_SECONDS,
    every: float = INTERVAL_SECONDS,
) -> T:
    """Return the condition's value as soon as it is true.

    Args:
        condition: Function or coroutine function that is called again and again.
        what: Name of the condition for the failure's message; its source code by default.
        seconds: Limit on the wait, for calls of the condition that do not return as well.
        every: Seconds between two calls.

    Raises:
        AssertionError: The condition was not true within the limit. The message has its last value.
    """
    deadline = time.monotonic() + seconds
    value: T | str = "no value yet"
    while True:
        limit = asyncio.timeout(max(deadline - time.monotonic(), every))
        try:
            async with limit:
                result = condition()
                value = cast("T", await result if inspect.isawaitable(result) else result)
        except TimeoutError:
            if not limit.expired():
                raise
            raise AssertionError(f"{_failure(condition, what, seconds, value)}; a call did not return") from None
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(_failure(condition, what, seconds, value))
        await asyncio.sleep(every)


def eventually_blocking(
    condition: Callable[[], T],
    *,
    what: str = "",
    seconds: float = LIMIT_SECONDS,
    every: float = INTERVAL_SECONDS,
) -> T:
    """Return the condition's value as soon as it is true, as `eventually` does, for code without an event loop."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(_failure(condition, what, seconds, value))
        time.sleep(every)
    return value


def _failure(condition: Callable[[], object], what: str, seconds: float, value: object) -> str:
    return f"not true within {seconds:g} s: {what or _source(condition)}; last value: {value!r}"


def _source(condition: Callable[[], object]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):  # No function, or its file is not there.
        return repr(condition)
