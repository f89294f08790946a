"""The state cache: states of recently decided aggregates, so that their events are not read again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class StateCache:
    """States of the most recently used aggregates, by stream name, each with its version.

    A cached state is used only if the store confirms its version.

    Args:
        entries_max: greatest number of states; 0 caches nothing.
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, stream: str) -> tuple[Any, int] | None:
        """Return the state and version of a stream; None if it is not cached."""
        entry = self._entries.get(stream)
        if entry is not None:
            self._entries.move_to_end(stream)
        return entry

    def put(self, stream: str, state: Any, version: int) -> None:
        """Store a state, and drop the least recently used one beyond the limit."""
        self._entries[stream] = (state, version)
        self._entries.move_to_end(stream)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
