"""The state cache: aggregates that were decided lately, so that their events need not be read again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class StateCache:
    """The states of the aggregates used last, by stream name, each with its version.

    Whatever is taken from here is confirmed by the store's read before it is used.
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, stream: str) -> tuple[Any, int] | None:
        """The state and version of a stream, if it is here."""
        found = self._entries.get(stream)
        if found is not None:
            self._entries.move_to_end(stream)
        return found

    def put(self, stream: str, state: Any, version: int) -> None:
        """Keeps a state, and forgets that used longest ago if there are too many."""
        self._entries[stream] = (state, version)
        self._entries.move_to_end(stream)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
