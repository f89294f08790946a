"""LagClock: lag under load is measured by the newest head that was reached."""

from __future__ import annotations

import pytest

from projector import lag, log_head
from projector.lag import LagClock
from projector.log_head import LogHead


class Clock:
    """Monotonic clock that a test sets."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lag, "time", clock)
    monkeypatch.setattr(log_head, "time", clock)
    return clock


def test_lag_is_zero_at_a_head_that_was_reported_lately(clock: Clock) -> None:
    head = LogHead()
    lag_clock = LagClock(head)
    head.observe(5)
    lag_clock.record(5)
    assert lag_clock.seconds(5) == 0.0
    clock.now += 3.5
    assert lag_clock.seconds(5) == 3.5, "the log is silent"


def test_lag_counts_from_the_newest_head_that_was_reached(clock: Clock) -> None:
    head = LogHead()
    lag_clock = LagClock(head)
    head.observe(10)
    lag_clock.record(0)
    clock.now += 1
    head.observe(20)
    lag_clock.record(5)
    assert lag_clock.seconds(5) == 1.0
    clock.now += 1
    lag_clock.record(10)  # Reaches the head of 100 s; 20 is the next goal.
    assert lag_clock.seconds(10) == 2.0
    lag_clock.record(20)
    assert lag_clock.seconds(20) == 0.0
