"""Batch window: a lone caller never waits, more callers wait for as many again, and nobody for slow ones."""

from __future__ import annotations

import pytest

from diptych.storage.batch_window import BatchWindow, BatchWindows


@pytest.mark.parametrize(
    ("callers", "batch_max", "size"), [(0, 100, 0), (1, 100, 1), (7, 100, 7), (500, 100, 64), (50, 9, 9)]
)
def test_window_waits_for_the_callers_of_the_last_batch_within_bounds(callers: int, batch_max: int, size: int) -> None:
    window = BatchWindow.after(callers, batch_max)
    assert window.size == size
    assert window.seconds == pytest.approx(size * 0.0002)


def test_bug_a_quick_caller_waited_in_every_batch_for_slow_ones() -> None:
    windows = BatchWindows()
    waits = 0
    for _ in range(1000):
        window = windows.after(3)  # Itself and two that do other things before they return.
        if window.size > 1:
            waits += 1
            windows.observe(False)
    assert waits < 30


def test_callers_that_all_return_are_waited_for_whatever_was_before() -> None:
    windows = BatchWindows()
    for _ in range(10):
        if windows.after(8).size > 1:
            windows.observe(False)
    sizes = []
    for _ in range(400):
        window = windows.after(8)
        sizes.append(window.size)
        if window.size > 1:
            windows.observe(True)
    assert sizes[-1] == 8
    assert windows.after(64) == BatchWindow.after(64)
    assert BatchWindows(9).after(50).size == 9
