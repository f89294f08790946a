"""RetryPolicy: attempts and backoff before a stream is parked."""

from __future__ import annotations

from projector.generation.retry_policy import RetryPolicy


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def backoffs(policy: RetryPolicy, position: int) -> list[float]:
    """Return the backoffs, in seconds, of an event that always fails."""
    found: list[float] = []
    while (seconds := policy.record_failure(position)) is not None:
        found.append(seconds)
    return found


def test_backoff_doubles_with_each_attempt() -> None:
    policy = RetryPolicy(4, 0.1, Clock())
    assert backoffs(policy, 7) == [0.1, 0.2, 0.4]
    assert policy.attempts == 4
    policy.reset()
    assert policy.record_failure(7) == 0.1
    assert policy.record_failure(8) == 0.1, "another event has its own attempts"
    assert backoffs(RetryPolicy(1, 0.1), 7) == []


def test_recently_parked_streams_take_attempts_from_the_next() -> None:
    clock = Clock()
    policy = RetryPolicy(4, 0.1, clock)
    tried = []
    for position in range(1, 7):
        tried.append(len(backoffs(policy, position)))
        policy.record_parked()
    assert tried == [3, 2, 1, 0, 0, 0]
    clock.now += 61
    assert backoffs(policy, 7) == [0.1, 0.2, 0.4]
