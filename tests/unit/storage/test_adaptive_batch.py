"""Adaptive batch size: it approaches its target within bounds."""

from __future__ import annotations

from diptych.storage.adaptive_batch import AdaptiveBatchSize


def test_size_approaches_the_target_by_a_factor_of_two_at_most() -> None:
    size = AdaptiveBatchSize(1000, first=500, minimum=100, maximum=50_000)
    sizes = []
    for _ in range(6):
        size.observe(size.count, size.count / 10)  # Ten give a result of one.
        sizes.append(size.count)
    assert sizes == [1000, 2000, 4000, 8000, 10_000, 10_000]
    size.observe(size.count, 1e9)
    assert size.count == 5000


def test_size_is_bounded() -> None:
    size = AdaptiveBatchSize(1000, first=500, minimum=100, maximum=2000)
    for _ in range(5):
        size.observe(size.count, 0)
    assert size.count == 2000
    for _ in range(9):
        size.observe(size.count, 1e9)
    assert size.count == 100
    assert AdaptiveBatchSize(1, first=500, minimum=16, maximum=1).count == 1
