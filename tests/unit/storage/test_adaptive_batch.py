"""Sizes that are learnt."""

from __future__ import annotations

from diptych.storage.adaptive_batch import AdaptiveBatchSize


def test_it_comes_to_what_gives_the_target_by_twice_or_half_at_a_time() -> None:
    size = AdaptiveBatchSize(1000, first=500, minimum=100, maximum=50_000)
    seen = []
    for _ in range(6):
        size.observe(size.count, size.count / 10)  # Ten of them come to one.
        seen.append(size.count)
    assert seen == [1000, 2000, 4000, 8000, 10_000, 10_000]
    size.observe(size.count, 1e9)
    assert size.count == 5000


def test_it_is_bounded_whatever_is_noted() -> None:
    size = AdaptiveBatchSize(1000, first=500, minimum=100, maximum=2000)
    for _ in range(5):
        size.observe(size.count, 0)
    assert size.count == 2000
    for _ in range(9):
        size.observe(size.count, 1e9)
    assert size.count == 100
    assert AdaptiveBatchSize(1, first=500, minimum=16, maximum=1).count == 1
