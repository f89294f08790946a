"""The store `umadb` as its documentation uses it. Its Python client blocks, so each caller is a thread."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

from umadb import AppendCondition, Client, Event, Query, QueryItem

THREADS = 64
AGGREGATES = 1000
_DATA = b"x" * 120


def _event(kind: str, tag: str) -> Event:
    return Event(event_type=kind, tags=[tag], data=_DATA, uuid=uuid.uuid4())


def _shared(seconds: float, step: Callable[[int, int], None]) -> float:
    """Run a step in all threads for a time; return steps per second of all threads together."""
    counts = [0] * THREADS
    failures: list[BaseException] = []
    began = time.perf_counter()
    until = began + seconds

    def work(number: int) -> None:
        try:
            while time.perf_counter() < until:
                step(number, counts[number])
                counts[number] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(counts) / (time.perf_counter() - began)


def appends(address: str, seconds: float) -> float:
    """Append events, each to a stream that must not exist; return events per second."""
    client = Client(f"http://{address}")
    run = uuid.uuid4().hex

    def step(thread: int, n: int) -> None:
        tag = f"product-{run}-{thread}-{n}"
        absent = AppendCondition(fail_if_events_match=Query(items=[QueryItem(tags=[tag])]))
        client.append([_event("ProductCreated", tag)], condition=absent)

    return _shared(seconds, step)


def load_appends(address: str, seconds: float) -> float:
    """Read streams of 10 events and a few more, and append one event if unchanged; return events per second."""
    client = Client(f"http://{address}")
    run = uuid.uuid4().hex
    for n in range(AGGREGATES):
        client.append([_event("StockAdjusted", f"product-{run}-{n}") for _ in range(10)])

    def step(thread: int, n: int) -> None:
        # Each thread has its own aggregates, so that appends do not conflict.
        tag = f"product-{run}-{(thread + THREADS * n) % AGGREGATES // THREADS * THREADS + thread}"
        boundary = Query(items=[QueryItem(types=["StockAdjusted"], tags=[tag])])
        found = client.read(query=boundary)
        stock = 1_000_000
        for _ in found:
            stock -= 1
        condition = AppendCondition(fail_if_events_match=boundary, after=found.head())
        client.append([_event("StockAdjusted", tag)], condition=condition)

    return _shared(seconds, step)
