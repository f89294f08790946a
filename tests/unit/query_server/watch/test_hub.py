"""Tests of the hub alone: subscribers that join and leave."""

from __future__ import annotations

import time
from typing import Any

import pytest

from query_server.freshness.progress import ProjectionProgress
from query_server.watch.hub import Hub
from query_server.watch.memory import BufferMemory
from query_server.watch.resume_token import ResumeToken, Source
from query_server.watch.subscriber import Subscriber
from tests.support.notes import Notes

CUT = ResumeToken(Source(1, 1, ""), 0, 0)


def _hub() -> Hub:
    reader: Any = None  # Joining and leaving read nothing.
    return Hub(Notes().notes, reader, ProjectionProgress(1), BufferMemory(), time.monotonic)


def _cpu_seconds_of_leaving(count: int, keys: frozenset[str]) -> float:
    hub = _hub()
    subscribers = [Subscriber(keys, rows_max=1000, bytes_max=1 << 20) for _ in range(count)]
    for subscriber in subscribers:
        hub.join(subscriber, 0, CUT, 0)
    before = time.process_time()
    for subscriber in reversed(subscribers):
        hub.leave(subscriber)
    assert not hub._of_key
    return time.process_time() - before


async def test_bug_leaving_a_hub_took_time_for_each_other_watch_of_the_same_keys() -> None:
    """The same number of keys in all leaves at like cost: 20 watches of 10,000 keys, and 2,000 watches of 100."""
    few = min(_cpu_seconds_of_leaving(20, frozenset(f"k{n}" for n in range(10_000))) for _ in range(2))
    many = min(_cpu_seconds_of_leaving(2000, frozenset(f"k{n}" for n in range(100))) for _ in range(2))
    assert many < 8 * few  # A search of a list made it 40 times.


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
async def test_hub_serves_each_remaining_subscriber_of_a_key_when_others_leave(order: tuple[int, ...]) -> None:
    hub = _hub()
    subscribers = [Subscriber(frozenset({"a"}), rows_max=10, bytes_max=1 << 20) for _ in range(3)]
    for subscriber in subscribers:
        hub.join(subscriber, 0, CUT, 0)
    for index in order:
        hub.leave(subscribers[index])
        subscribers_left = hub._of_key.get("a", set())
        left = subscribers_left if isinstance(subscribers_left, set) else {subscribers_left}
        assert left == set(hub._subscribers)
