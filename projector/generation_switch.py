"""Generation switch: makes a filled generation active in place of the previous one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from diptych.contract.projection_state import PAUSED, RUNNING
from diptych.storage.errors import StoreError
from projector.followers import Followers
from projector.generation.operation_queue import OperationQueue
from projector.generation.rebuild import Rebuild
from projector.shared import Shared

NEAR_EVENTS = 1000
"""Events that a filled generation may be behind the live one when a switch is attempted."""

_POLL_SECONDS = 0.05
_CATCH_UP_SECONDS = 1.0
"""Longest time that the live follower stands still for one attempt."""
_RETRY_SECONDS = (0.2, 5.0)

_log = structlog.get_logger(__name__)


class GenerationSwitch:
    """Switches a projection to its filled generation, so that the applied position never falls.

    1. Wait until the new generation is near the live one, and has reached the head that was reported first. No
       earlier process reported an applied position beyond that head.
    2. Stop the live follower between two steps. Its applied position stands still.
    3. Let the new follower apply as much, within a second.
    4. In one transaction make the new generation active and write both checkpoints.
    5. Let the new follower represent the projection, and end the old one.

    If step 3 or 4 fails, the live follower goes on, and the switch is attempted again later.
    """

    def __init__(
        self, shared: Shared, followers: Followers, operations: OperationQueue, on_switch: Callable[[], None]
    ) -> None:
        """Create the switch of a projection.

        Args:
            shared: Parts of the projector.
            followers: Followers of the projection.
            operations: Queue in which each attempt runs.
            on_switch: Function to call after a switch, which leaves generations to drop.
        """
        self._store = shared.store
        self._head = shared.head
        self._followers = followers
        self._operations = operations
        self._on_switch = on_switch

    async def watch(self, rebuild: Rebuild) -> None:
        """Switch to a rebuild's generation when it is ready; return when the rebuild has ended."""
        first_head: int | None = None
        backoff = _RETRY_SECONDS[0]
        while self._followers.rebuild is rebuild:
            rebuild.sample_rate()
            if first_head is None and self._head.observed_at is not None:
                first_head = self._head.position
            ready = first_head is not None and self.is_ready(rebuild, first_head)
            if ready and not await self._operations.run(lambda: self._attempt(rebuild)):
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, _RETRY_SECONDS[1])
            await asyncio.sleep(_POLL_SECONDS)

    def is_ready(self, rebuild: Rebuild, first_head: int) -> bool:
        """Return True if a switch may succeed now.

        Args:
            rebuild: The rebuild.
            first_head: Head of the log that was reported first in this process.
        """
        new, live = rebuild.follower, self._followers.live
        if rebuild.failure or new.machine.state == PAUSED or not new.machine.stream_open:
            return False
        if new.progress.applied_position < first_head:
            return False
        if live is None or live.machine.diverged:
            return new.machine.state == RUNNING
        if live.machine.state == PAUSED:
            return False
        return live.progress.applied_position - new.progress.applied_position <= NEAR_EVENTS

    async def _attempt(self, rebuild: Rebuild) -> bool:
        """Attempt steps 2 to 5; return True if the rebuild has ended."""
        followers, new = self._followers, rebuild.follower
        if followers.rebuild is not rebuild:
            return True
        live = followers.live
        if live is not None and live.machine.state == PAUSED:
            return False
        running = live is not None and await live.task.stop()
        rebuild.throttle.hurried = True
        try:
            if live is not None and not live.machine.diverged:
                async with asyncio.timeout(_CATCH_UP_SECONDS):
                    await new.progress.wait_for(live.progress)
            async with new.task.step:
                await self._store.switch(None if live is None else live.handover, new.handover)
                await self._promote(rebuild)
            return True
        except (OSError, StoreError) as error:  # TimeoutError is an OSError.
            _log.warning(
                "switch failed, retrying",
                projection=new.projection.name,
                generation=rebuild.generation,
                cause=str(error) or "the new generation did not catch up in time",
            )
        finally:
            rebuild.throttle.hurried = followers.rebuild is not rebuild
            if followers.live is live and live is not None and running:
                live.task.start()
        return False

    async def _promote(self, rebuild: Rebuild) -> None:
        new = rebuild.follower
        self._followers.promote(rebuild)
        rebuild.ended.set_result(None)
        self._on_switch()
        _log.info(
            "generation switched",
            projection=new.projection.name,
            generation=rebuild.generation,
            applied_position=new.progress.applied_position,
        )
        await new.promote()
