"""Poll helpers: the value they return, their limit, and the message that they fail with."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.polling import eventually, eventually_blocking


async def test_eventually_returns_the_first_true_value() -> None:
    values = iter([0, None, "", "ready", "late"])
    assert await eventually(lambda: next(values), every=0) == "ready"


async def test_eventually_awaits_a_coroutine_function() -> None:
    values = iter([0, 7])

    async def read() -> int:
        return next(values)

    assert await eventually(read, every=0) == 7


async def test_eventually_fails_with_the_condition_and_its_last_value() -> None:
    count = [0]
    with pytest.raises(AssertionError, match=r"not true within 0 s: .*count\[1:\].*; last value: \[\]"):
        await eventually(lambda: count[1:], seconds=0)


async def test_eventually_fails_with_the_name_of_the_condition_when_it_has_one() -> None:
    with pytest.raises(AssertionError, match="not true within 0 s: the server is ready; last value: None"):
        await eventually(lambda: None, what="the server is ready", seconds=0)


async def test_eventually_describes_a_condition_without_source() -> None:
    with pytest.raises(AssertionError, match="not true within 0 s: <class 'bool'>; last value: False"):
        await eventually(bool, seconds=0)


async def test_eventually_fails_when_a_call_of_the_condition_does_not_return() -> None:
    with pytest.raises(AssertionError, match="the answer; last value: 'no value yet'; a call did not return"):
        await eventually(asyncio.Event().wait, what="the answer", seconds=0.01, every=0.01)


async def test_eventually_lets_errors_of_the_condition_through() -> None:
    async def fail() -> bool:
        raise TimeoutError("of the condition")

    with pytest.raises(TimeoutError, match="of the condition"):
        await eventually(fail)


def test_eventually_blocking_returns_the_first_true_value() -> None:
    values = iter([0, 7])
    assert eventually_blocking(lambda: next(values), every=0) == 7


def test_eventually_blocking_fails_with_the_condition_and_its_last_value() -> None:
    with pytest.raises(AssertionError, match="not true within 0 s: all rows; last value: 0"):
        eventually_blocking(lambda: 0, what="all rows", seconds=0)
