"""Pace: how large the batches of a follower are, and how much it leaves to others.

All followers write through one thread, so that a commit waits for the batch that is under way. What answers is folded
as fast as it comes, in short batches while another projection that answers is at the head of the log: it may have come
back from a long pause, and the other one's watchers are not to notice. What is filled beside it takes turns: one batch
at a time of all rebuilds, and between two of them as much time as the batch took, if anybody has use for it. When a
live projection falls behind, rebuilds stand back further.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from diptych.storage.adaptive_batch import LearntSize

BATCH_SECONDS = 0.012
"""How long a batch of a rebuild should take: what a live commit waits for at most, about."""

LIVE_BATCH_SECONDS = 0.005
"""How long a batch of a live projection should take while another one is at the head."""

LAG_SECONDS = 0.25
"""A live projection that is further behind than this makes rebuilds stand back, and is not at the head."""

_FIRST_EVENTS, _LEAST_EVENTS = 100, 16
_STAND_BACK_SECONDS = 0.25  # So a rebuild comes on under any load, if slowly.
_LOOK_SECONDS = 0.01


class Pace(Protocol):
    """How a follower takes its batches."""

    @property
    def events_max(self) -> int:
        """How many events the next batch may have."""
        ...

    def turn(self, events: int) -> AbstractAsyncContextManager[None]:
        """Held around the folding of a batch of so many events."""
        ...


def _size(seconds: float, events_max: int) -> LearntSize:
    """How many events a batch may have so that it takes so long."""
    return LearntSize(seconds, first=_FIRST_EVENTS, least=_LEAST_EVENTS, most=events_max)


class Share:
    """What all followers of a projector share."""

    def __init__(
        self, live_lag: Callable[[], float], live_busy: Callable[[], bool], live_at_head: Callable[[], bool]
    ) -> None:
        self.turns = asyncio.Lock()
        """Held by the rebuild whose turn it is."""
        self.live_lag = live_lag
        """By how many seconds the live projection that is worst off is behind."""
        self.live_busy = live_busy
        """Whether anything live was folded just now."""
        self.live_at_head = live_at_head
        """Whether a live projection that is not behind folded something just now."""


class LivePace:
    """As fast as it comes."""

    def __init__(self, share: Share, events_max: int) -> None:
        self._share = share
        self._most = events_max
        self._short = _size(LIVE_BATCH_SECONDS, events_max)

    @property
    def events_max(self) -> int:
        """How many events the next batch may have."""
        return self._short.count if self._share.live_at_head() else self._most

    @asynccontextmanager
    async def turn(self, events: int) -> AsyncIterator[None]:
        """Waits for nothing."""
        started = time.perf_counter()
        yield
        if events >= self._short.count:  # A smaller one is what there was.
            self._short.note(events, time.perf_counter() - started)


class SharedPace:
    """A rebuild's pace."""

    def __init__(self, share: Share, events_max: int) -> None:
        self.hurried = False
        """Whether it leaves nothing to others: something live waits for it."""
        self._share = share
        self._size = _size(BATCH_SECONDS, events_max)
        self._live: LivePace | None = None
        self._most = events_max

    @property
    def events_max(self) -> int:
        """How many events the next batch may have."""
        return self._size.count if self._live is None else self._live.events_max

    def turn(self, events: int) -> AbstractAsyncContextManager[None]:
        """Waits for its turn, and leaves time to others after it."""
        return self._shared(events) if self._live is None else self._live.turn(events)

    def release(self) -> None:
        """Is the pace of what answers from now on."""
        self._live, self.hurried = LivePace(self._share, self._most), True

    @asynccontextmanager
    async def _shared(self, events: int) -> AsyncIterator[None]:
        async with self._share.turns:
            started = time.perf_counter()
            yield
            seconds = time.perf_counter() - started
            if events:
                self._size.note(events, seconds)
            await self._give_way(seconds)

    async def _give_way(self, seconds: float) -> None:
        share = self._share
        now = time.monotonic()
        until = now + (seconds if share.live_busy() else 0.0)
        longest = now + _STAND_BACK_SECONDS
        while not self.hurried:
            now = time.monotonic()
            if now >= until and (now >= longest or share.live_lag() < LAG_SECONDS):
                return
            await asyncio.sleep(min(_LOOK_SECONDS, max(until - now, 0.001)))
