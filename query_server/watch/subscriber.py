"""Subscriber: one watch as its hub sees it, with a bounded buffer of changes that are not sent yet.

States, after etcd's synced and unsynced watchers::

                    join: everything before was read
        BEHIND ------------------------------------------> SYNCED
          ^  ^                                              |  |
          |  +---------------- leave -----------------------+  |
          |                                                    |
          |                  buffer full, or another generation|
          +-------- reset <-------------- LOST <---------------+

- BEHIND: the watch reads the store by itself, at its own speed: a snapshot, or changes since a resume token.
- SYNCED: the hub reads for it, and adds every change to its buffer.
- LOST: changes are missing from its buffer. The watch sends `reset` and begins again with a snapshot. One that still
  reads the store itself has lost nothing and may join again.
"""

from __future__ import annotations

import asyncio
import enum

from diptych.v1.read_model_pb2 import ResetReason
from query_server.watch.change_reader import Change
from query_server.watch.memory import BufferMemory


class SubscriberState(enum.Enum):
    """State of a subscriber; see the module."""

    BEHIND = "behind"
    SYNCED = "synced"
    LOST = "lost"


class Subscriber:
    """Rows that a watch covers, and their changes that it has not been sent."""

    __slots__ = (
        "_bytes_max",
        "_drained",
        "_memory",
        "_pending",
        "_rows_max",
        "_size",
        "covered_through",
        "has_uncut_rows",
        "keys",
        "last_frame_at",
        "progress_due",
        "reset_reason",
        "state",
        "token_position",
        "was_waited_for",
        "woken",
    )

    def __init__(
        self, keys: frozenset[str] | None, *, rows_max: int, bytes_max: int, memory: BufferMemory | None = None
    ) -> None:
        """Begin behind.

        Args:
            keys: Keys of the rows; None: all.
            rows_max: Greatest number of changes in the buffer.
            bytes_max: Greatest size of the buffer, in bytes.
            memory: Counts the bytes of all buffers.
        """
        self.keys = keys
        self.state = SubscriberState.BEHIND
        self.reset_reason: ResetReason | None = None
        """Reason of the loss while LOST."""
        self.covered_through = 0
        """Position up to which the watch has read everything itself. Changes at or below it are ignored."""
        self.token_position = 0
        """Position of the last resume token that it was sent."""
        self.last_frame_at = 0.0
        """Time of the last frame that it was sent."""
        self.progress_due = False
        """True if it must be sent its progress, if nothing else."""
        self.has_uncut_rows = False
        """True if it was sent rows without a resume token after them."""
        self.was_waited_for = False
        """True if the hub has waited for it, and its buffer was not emptied."""
        self.woken = asyncio.Event()
        self._memory = memory if memory is not None else BufferMemory()
        self._pending: dict[str, Change] = {}  # By key, in the order of positions.
        self._drained: list[Change] = []  # Changes that its client has not read.
        self._size = 0
        self._rows_max = rows_max
        self._bytes_max = bytes_max

    def add(self, change: Change) -> bool:
        """Add a change, later than all before, in place of an earlier one of its row; return False if it is full."""
        if change.position <= self.covered_through:
            return True
        pending = self._pending
        before = pending.pop(change.key, None)
        if before is not None:
            self._size -= before.size
            self._memory.drop(before)
        pending[change.key] = change
        self._memory.hold(change)
        self._size += change.size
        if len(pending) > 1 and (len(pending) > self._rows_max or self._size > self._bytes_max):
            return False
        self.woken.set()
        return True

    def drain(self) -> list[Change]:
        """Empty the buffer; return its changes by position. They count as held until `release_drained`."""
        changes = list(self._pending.values())
        self._drained += changes
        self._pending.clear()
        self._size = 0
        self.was_waited_for = False
        return changes

    def release_drained(self) -> None:
        """Note that its client has read the changes that were drained."""
        for change in self._drained:
            self._memory.drop(change)
        self._drained = []

    def release(self) -> None:
        """Empty the buffer, and drop its changes."""
        for change in self._pending.values():
            self._memory.drop(change)
        self._pending.clear()
        self._size = 0
        self.was_waited_for = False

    def cover(self, position: int) -> None:
        """Drop the changes up to a position: the watch has read them itself."""
        self.covered_through = position
        changes = list(self._pending.values())
        self.release()
        for change in changes:
            self.add(change)

    def synced(self, position: int) -> None:
        """Enter SYNCED: the hub adds every change after a position."""
        self.covered_through = self.token_position = position
        self.reset_reason = None
        self.state = SubscriberState.SYNCED

    def behind(self) -> None:
        """Enter BEHIND."""
        self.state = SubscriberState.BEHIND

    def lost(self, reason: ResetReason) -> None:
        """Enter LOST: empty the buffer, and wake the watch to begin again."""
        self.release()
        self.state = SubscriberState.LOST
        self.reset_reason = reason
        self.woken.set()

    @property
    def pending_bytes(self) -> int:
        """Bytes of the changes in the buffer."""
        return self._size

    @property
    def has_pending(self) -> bool:
        """True if there are changes to send."""
        return bool(self._pending)

    @property
    def is_nearly_full(self) -> bool:
        """True if another page may be more than the buffer takes."""
        return 2 * len(self._pending) > self._rows_max or 2 * self._size > self._bytes_max
