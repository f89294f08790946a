"""Batch window: a lone caller never waits, and more callers wait for as many again."""

from __future__ import annotations

import pytest

from diptych.storage.batch_window import BatchWindow


@pytest.mark.parametrize(
    ("callers", "batch_max", "size"), [(0, 100, 0), (1, 100, 1), (7, 100, 7), (500, 100, 64), (50, 9, 9)]
)
def test_window_waits_for_the_callers_of_the_last_batch_within_bounds(callers: int, batch_max: int, size: int) -> None:
    window = BatchWindow.after(callers, batch_max)
    assert window.size == size
    assert window.seconds == pytest.approx(size * 0.0002)
