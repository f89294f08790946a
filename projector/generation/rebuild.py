"""A build: a generation that is being filled, to answer when it has caught up, and how fast that goes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import NamedTuple

from diptych.domain.refusal import Refusal
from diptych.v1 import projections_pb2 as states
from projector.generation.follower import Follower
from projector.generation.throttle import RebuildThrottle
from projector.log_head import Head

_RATE_SECONDS = 5.0
"""The rate is that of so long ago until now."""


class Progress(NamedTuple):
    """How far a build is."""

    generation: int
    position: int
    head_position: int
    events_per_second: float
    """Positions of the log that it passes; 0: not known yet."""

    @property
    def remaining_seconds(self) -> float | None:
        """How long it will take at that rate; None: not known."""
        left = max(0, self.head_position - self.position)
        if not left:
            return 0.0
        return left / self.events_per_second if self.events_per_second else None


class Build:
    """A generation that is being filled."""

    def __init__(self, follower: Follower, pace: RebuildThrottle, head: Head) -> None:
        self.follower = follower
        self.pace = pace
        self.generation = follower.generation
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it answers; fails with the refusal that says why it never will."""
        self._head = head
        self._passed: deque[tuple[float, int]] = deque()

    @property
    def failure(self) -> str:
        """Why it stands still; empty: it does not."""
        follower = self.follower
        return follower.reason if follower.state == states.PROJECTION_STATE_STALLED else ""

    def fail(self, refusal: Refusal) -> None:
        """Tells those who wait that it will not answer."""
        if not self.ended.done():
            self.ended.set_exception(refusal)
            self.ended.exception()  # Perhaps nobody waits.

    def note(self) -> None:
        """Takes note of how far it is, for the rate. To be called now and then."""
        now = time.monotonic()
        self._passed.append((now, self.follower.applied_position))
        while now - self._passed[0][0] > _RATE_SECONDS:
            self._passed.popleft()

    def progress(self) -> Progress:
        """How far it is."""
        position = self.follower.applied_position
        rate = 0.0
        if self._passed:
            since, before = self._passed[0]
            seconds = time.monotonic() - since
            rate = (position - before) / seconds if seconds > 0 else 0.0
        return Progress(self.generation, position, max(self._head.position, position), rate)
