"""Fold progress: the positions that one follower has reached."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from diptych.domain.folding import ChangedRow
from diptych.storage.read_store_schema import Checkpoint
from projector.lag import LagClock
from projector.log_head import LogHead


class FoldProgress:
    """Positions that one follower has reached, its lag, and the rows changed since the last publication."""

    def __init__(self, stored: Checkpoint, head: LogHead) -> None:
        """Create the progress of a follower that starts at the stored checkpoint."""
        self.applied_position = stored.position
        """Position through which every event is applied. The store may have less."""
        self.checkpoint = stored
        """Last applied position whose event id is known; from here the log is followed again."""
        # The last change is not stored. No row has changed after the checkpoint, which suffices.
        self.changed_at = stored.position
        """Position of the last event that changed a row."""
        self.changed_rows: Sequence[Mapping[str, ChangedRow]] = []
        """Changed rows by view that the feed does not have yet."""
        self.folded_at = float("-inf")
        """Start of the last batch by the monotonic clock, in seconds."""
        self._head = head
        self._lag = LagClock(head)
        self._advanced = asyncio.Event()

    def advance(self, position: int, checkpoint: Checkpoint) -> None:
        """Record applied events. Neither position ever falls."""
        self.applied_position = max(self.applied_position, position)
        if checkpoint.position > self.checkpoint.position:
            self.checkpoint = checkpoint
        self._lag.record(self.applied_position)
        self._advanced.set()

    def observe_head(self) -> None:
        """Record that the head has changed."""
        self._lag.record(self.applied_position)

    @property
    def head_position(self) -> int:
        """Head of the log, as last reported."""
        return self._head.position

    @property
    def lag_events(self) -> int:
        """Events between the applied position and the known head."""
        return max(0, self._head.position - self.applied_position)

    @property
    def lag_seconds(self) -> float:
        """Seconds since the follower was at the head; 0 if it is there."""
        return self._lag.seconds(self.applied_position)

    @property
    def measured_lag(self) -> float | None:
        """Lag in seconds as the state machine takes it: None before the first report of the head."""
        return None if self._head.observed_at is None else self._lag.seconds(self.applied_position)

    async def wait_for(self, other: FoldProgress) -> None:
        """Wait until this progress includes another one's applied position and checkpoint."""
        while self.applied_position < other.applied_position or self.checkpoint.position < other.checkpoint.position:
            self._advanced.clear()
            await self._advanced.wait()
