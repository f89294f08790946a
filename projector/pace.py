"""Pace: how large the batches of a follower are, and how much it leaves to others.

What answers is folded as fast as it comes. What is filled beside it takes turns: one batch at a time of all rebuilds,
short enough that a commit of a live projection waits little, and between two of them as much time as the batch took,
if anybody has use for it. When a live projection falls behind, rebuilds stand back further.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Protocol

BATCH_SECONDS = 0.025
"""How long a batch of a rebuild should take: what a live commit waits for at most, about."""

LAG_SECONDS = 0.25
"""A live projection that is further behind than this makes rebuilds stand back."""

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


class FullPace:
    """As fast as it comes."""

    def __init__(self, events_max: int) -> None:
        self.events_max = events_max
        self._turn = nullcontext()

    def turn(self, events: int) -> AbstractAsyncContextManager[None]:
        """Costs nothing."""
        return self._turn


class Share:
    """What all rebuilds of a projector share."""

    def __init__(self, live_lag: Callable[[], float], live_busy: Callable[[], bool]) -> None:
        self.turns = asyncio.Lock()
        """Held by the rebuild whose turn it is."""
        self.live_lag = live_lag
        """By how many seconds the live projection that is worst off is behind."""
        self.live_busy = live_busy
        """Whether anything live was folded just now."""


class SharedPace:
    """A rebuild's pace."""

    def __init__(self, share: Share, events_max: int) -> None:
        self.events_max = min(_FIRST_EVENTS, events_max)
        self.hurried = False
        """Whether it leaves nothing to others: something live waits for it."""
        self._share = share
        self._most = events_max
        self._full: FullPace | None = None

    def turn(self, events: int) -> AbstractAsyncContextManager[None]:
        """Waits for its turn, and leaves time to others after it."""
        return self._shared(events) if self._full is None else self._full.turn(events)

    def release(self) -> None:
        """Goes as fast as it comes from now on."""
        self._full, self.events_max, self.hurried = FullPace(self._most), self._most, True

    @asynccontextmanager
    async def _shared(self, events: int) -> AsyncIterator[None]:
        async with self._share.turns:
            started = time.perf_counter()
            yield
            seconds = time.perf_counter() - started
            if events:
                self._adapt(events, seconds)
            await self._give_way(seconds)

    def _adapt(self, events: int, seconds: float) -> None:
        """Comes nearer to the size that takes the right time, a step at a time, as one batch may be unlike others."""
        if self._full is not None:
            return
        fitting = events * BATCH_SECONDS / max(seconds, 1e-6)
        bounded = min(max(fitting, self.events_max / 2), self.events_max * 2)
        self.events_max = min(max(int(bounded), _LEAST_EVENTS), self._most)

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
