"""A freshness tracker without any server: the test sends feed frames, head reports and store polls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from diptych import Domain, Projection
from diptych.contract.token import Epoch, LogIdentity
from diptych.internal.v1 import feed_pb2
from diptych.v1.projections_pb2 import ProjectionState
from query_server.freshness.fresh_read import FreshReads
from query_server.freshness.log_head import HeadReport
from query_server.freshness.token_judge import TokenJudge
from query_server.freshness.tracked_projection import TrackedProjection
from query_server.freshness.tracker import FreshnessTracker
from query_server.rows.row_source import StoredGeneration

RUNNING = ProjectionState.PROJECTION_STATE_RUNNING
LOG = LogIdentity(bytes(range(8)), (Epoch(1, 1),))


class ScriptedHead:
    """A command server that answers requests for the head."""

    def __init__(self) -> None:
        self.head: HeadReport | None = None
        self.requests = 0
        self.gate: asyncio.Event | None = None
        """Holds answers back until it is set."""

    async def request_head(self) -> HeadReport | None:
        """Answer with the head as it was when the request came."""
        self.requests += 1
        head = self.head
        if self.gate is not None:
            await self.gate.wait()
        return head


class ReadAt(NamedTuple):
    """Result of a read."""

    generation: int
    position: int


class FreshnessStage:
    """A tracker of some projections with its token judge and fresh reads."""

    def __init__(
        self,
        *names: str,
        head: ScriptedHead | None = None,
        log: LogIdentity | None = LOG,
        waits_max: int = 100,
        shows_commits: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.head = head or ScriptedHead()
        projections = [Projection(name, version=1) for name in names or ("p",)]
        domain = Domain("d", aggregates=[], projections=projections)
        self.tracker = FreshnessTracker(domain, waits_max=waits_max, shows_commits=shows_commits, clock=clock)
        self.tokens = TokenJudge(self.tracker, self.head)
        self.fresh = FreshReads(self.tracker)
        if log is not None:
            self.tracker.on_head(0, log)

    @property
    def projections(self) -> list[TrackedProjection]:
        """All projections."""
        return list(self.tracker.projections.values())

    @property
    def projection(self) -> TrackedProjection:
        """The first projection."""
        return self.projections[0]

    def until(self, seconds: float = 10) -> float:
        """Return a time limit, in seconds from now."""
        return self.tracker.now + seconds

    def feed(self, applied: int, changed: int, name: str = "p", **more: Any) -> None:
        """Send a frame about one projection."""
        values = {"generation": 1, "version": 1, "state": RUNNING, **more}
        frame = feed_pb2.ProjectionFeed(name=name, applied_position=applied, changed_position=changed, **values)
        self.tracker.on_feed_frame(feed_pb2.FollowFeedResponse(projections=[frame]))

    def heartbeat(self) -> None:
        """Send a frame about no projection."""
        self.tracker.on_feed_frame(feed_pb2.FollowFeedResponse())

    def poll(self, position: int, *, generation: int = 1, version: int = 1, paused: bool = False) -> None:
        """Take a poll of the store."""
        self.tracker.on_store_poll([StoredGeneration("p", generation, version, position, LOG, paused)])


def scripted_reads(*reads: ReadAt) -> tuple[Callable[[], Awaitable[ReadAt]], list[ReadAt]]:
    """Return a function that reads the script's entries, the last one repeatedly, and the list of reads done."""
    left, done = list(reads), []

    async def read() -> ReadAt:
        result = left.pop(0) if len(left) > 1 else left[0]
        done.append(result)
        return result

    return read, done


async def turns(count: int = 5) -> None:
    """Let the event loop run everything that is ready."""
    for _ in range(count):
        await asyncio.sleep(0)
