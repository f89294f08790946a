"""Rebuild: a generation that is being filled to replace the active one, and its rate of progress."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import NamedTuple

from diptych.contract.projection_state import STALLED
from diptych.domain.refusal import Refusal
from projector.generation.follower import Follower
from projector.generation.throttle import RebuildThrottle
from projector.log_head import LogHead

_RATE_SECONDS = 5.0
"""Seconds over which the rate is measured."""


class RebuildProgress(NamedTuple):
    """Progress of a rebuild at one moment."""

    generation: int
    position: int
    head_position: int
    events_per_second: float
    """Positions of the log passed per second; 0 while not measured."""

    @property
    def remaining_seconds(self) -> float | None:
        """Seconds to the head at this rate; None while there is no rate."""
        remaining = max(0, self.head_position - self.position)
        if not remaining:
            return 0.0
        return remaining / self.events_per_second if self.events_per_second else None


class Rebuild:
    """Generation that is being filled."""

    def __init__(self, follower: Follower, throttle: RebuildThrottle, head: LogHead) -> None:
        self.follower = follower
        self.throttle = throttle
        self.generation = follower.generation
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the generation is active; fails with a refusal if it will not become active."""
        self._head = head
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def failure(self) -> str:
        """Reason for which the follower is stalled; empty if it is not."""
        machine = self.follower.machine
        return machine.reason if machine.state == STALLED else ""

    def fail(self, refusal: Refusal) -> None:
        """End the rebuild for its callers with a refusal, unless it has ended."""
        if not self.ended.done():
            self.ended.set_exception(refusal)
            self.ended.exception()  # Marks it as retrieved: there may be no caller.

    def sample_rate(self) -> None:
        """Record the position for the rate. Call it several times a second."""
        now = time.monotonic()
        self._samples.append((now, self.follower.progress.applied_position))
        while now - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()

    def progress(self) -> RebuildProgress:
        """Return the progress at this moment."""
        position = self.follower.progress.applied_position
        rate = 0.0
        if self._samples:
            sampled_at, before = self._samples[0]
            seconds = time.monotonic() - sampled_at
            rate = (position - before) / seconds if seconds > 0 else 0.0
        return RebuildProgress(self.generation, position, max(self._head.position, position), rate)
