"""Throttle: the size of a follower's batches, and the time that it leaves to other followers.

All followers write through one database thread, so that a commit waits for the batch under way. Three rules follow:

1. A live generation, one that answers reads, folds without waiting. Its batches are short while another live
   projection is at the head: it may be catching up after a long pause, and the other one's watchers must not notice.
2. A filling generation folds in turns: one batch at a time of all rebuilds. After each batch it waits as long as the
   batch took, if a live projection was folding.
3. A rebuild waits longer while a live projection lags.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from diptych.storage.adaptive_batch import AdaptiveBatchSize

BATCH_SECONDS = 0.012
"""Target duration of a rebuild's batch, and so about the longest wait of a live commit."""

LIVE_BATCH_SECONDS = 0.005
"""Target duration of a live projection's batch while another live projection is at the head."""

LAG_SECONDS = 0.25
"""Lag of a live projection above which it is not at the head, and rebuilds wait longer."""

_FIRST_EVENTS, _EVENTS_MIN = 100, 16
_LAG_WAIT_SECONDS = 0.25
"""Longest wait of a rebuild for a lagging live projection. A rebuild therefore advances under any load."""

_POLL_SECONDS = 0.01


class Throttle(Protocol):
    """Limits of a follower's batches."""

    @property
    def events_max(self) -> int:
        """Events that the next batch may have."""
        ...

    def turn(self, events: int) -> AbstractAsyncContextManager[None]:
        """Return the context in which a batch of this many events is folded."""
        ...


class FoldingLoad:
    """Load of all followers of a projector, as throttles see it."""

    def __init__(
        self, live_lag_seconds: Callable[[], float], live_busy: Callable[[], bool], live_at_head: Callable[[], bool]
    ) -> None:
        self.rebuild_turn = asyncio.Lock()
        """Lock of the rebuild that is folding a batch."""
        self.live_lag_seconds = live_lag_seconds
        """Lag in seconds of the live projection that is furthest behind."""
        self.live_busy = live_busy
        """True if a live projection folded a moment ago."""
        self.live_at_head = live_at_head
        """True if a live projection folded a moment ago and is at the head."""


class LiveThrottle:
    """Throttle of a live generation: short batches while another one is at the head."""

    def __init__(self, load: FoldingLoad, events_max: int) -> None:
        self._load = load
        self._events_max = events_max
        self._short = _batch_size(LIVE_BATCH_SECONDS, events_max)

    @property
    def events_max(self) -> int:
        """Events that the next batch may have."""
        return self._short.count if self._load.live_at_head() else self._events_max

    @asynccontextmanager
    async def turn(self, events: int) -> AsyncIterator[None]:
        """Measure the batch. Entering and leaving never wait."""
        started = time.perf_counter()
        yield
        if events >= self._short.count:  # A smaller batch had no more events to take, and says nothing of larger ones.
            self._short.observe(events, time.perf_counter() - started)


class RebuildThrottle:
    """Throttle of a filling generation, which becomes that of a live generation by `release`."""

    def __init__(self, load: FoldingLoad, events_max: int) -> None:
        self.hurried = False
        """True while a live projection waits for this rebuild, which then waits for nothing."""
        self._load = load
        self._events_max = events_max
        self._size = _batch_size(BATCH_SECONDS, events_max)
        self._live: LiveThrottle | None = None

    @property
    def events_max(self) -> int:
        """Events that the next batch may have."""
        return self._size.count if self._live is None else self._live.events_max

    def turn(self, events: int) -> AbstractAsyncContextManager[None]:
        """Return the context of a batch, which waits for this rebuild's turn, and after the batch for live ones."""
        return self._rebuild_turn(events) if self._live is None else self._live.turn(events)

    def release(self) -> None:
        """Throttle as a live generation from now on."""
        self._live, self.hurried = LiveThrottle(self._load, self._events_max), True

    @asynccontextmanager
    async def _rebuild_turn(self, events: int) -> AsyncIterator[None]:
        async with self._load.rebuild_turn:
            started = time.perf_counter()
            yield
            seconds = time.perf_counter() - started
            if events:
                self._size.observe(events, seconds)
            await self._wait_for_live(seconds)

    async def _wait_for_live(self, batch_seconds: float) -> None:
        load = self._load
        now = time.monotonic()
        not_before = now + (batch_seconds if load.live_busy() else 0.0)
        lag_wait_ends = now + _LAG_WAIT_SECONDS
        while not self.hurried:
            now = time.monotonic()
            if now >= not_before and (now >= lag_wait_ends or load.live_lag_seconds() < LAG_SECONDS):
                return
            await asyncio.sleep(min(_POLL_SECONDS, max(not_before - now, 0.001)))


def _batch_size(seconds: float, events_max: int) -> AdaptiveBatchSize:
    """Return the number of events to a batch that takes about this many seconds."""
    return AdaptiveBatchSize(seconds, first=_FIRST_EVENTS, minimum=_EVENTS_MIN, maximum=events_max)
