"""The state cache: states of recently decided aggregates, so that their events are not read again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

_ENTRY_BYTES = 512
"""Memory of a state without content."""
_MEMORY_FACTOR = 6
"""Memory of the objects of a state, in comparison with its bytes in a snapshot."""


class CachedState(NamedTuple):
    """A state with its version and its size, measured or estimated."""

    state: Any
    version: int
    """-1: not cached."""
    encoded_bytes: int
    """Size of the state as a snapshot, when it was last measured."""
    event_bytes: int
    """Size of the events since then."""

    @property
    def memory(self) -> int:
        """Estimated bytes in memory."""
        return _ENTRY_BYTES + _MEMORY_FACTOR * (self.encoded_bytes + self.event_bytes)


NOT_CACHED = CachedState(None, -1, 0, 0)


class StateCache:
    """States of the most recently used aggregates, by stream name, each with its version.

    A cached state is used only if the store confirms its version.

    Args:
        entries_max: greatest number of states; 0 caches nothing.
        bytes_max: greatest estimated size of the states together. A state of more than a quarter is not cached.
    """

    def __init__(self, entries_max: int, bytes_max: int = 64 << 20) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._entries: OrderedDict[str, CachedState] = OrderedDict()
        self.bytes = 0
        """Estimated size of the states."""

    def get(self, stream: str) -> CachedState:
        """Return the cached state of a stream, or `NOT_CACHED`."""
        entry = self._entries.get(stream)
        if entry is None:
            return NOT_CACHED
        self._entries.move_to_end(stream)
        return entry

    def put(self, stream: str, entry: CachedState) -> None:
        """Store a state, and drop the least recently used ones beyond the limits."""
        entries = self._entries
        before = entries.pop(stream, None)
        if before is not None:
            self.bytes -= before.memory
        memory = entry.memory
        if memory > self._bytes_max // 4:
            return
        entries[stream] = entry
        self.bytes += memory
        while len(entries) > self._entries_max or self.bytes > self._bytes_max:
            _, dropped = entries.popitem(last=False)
            self.bytes -= dropped.memory
