"""Which rows changed: what a subscriber of the feed has not been told of one projection yet.

Changes are conflated, the last position of each key, and bounded: beyond that a subscriber is told that there is a
gap, which costs nothing, and whoever keeps rows asks the store again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diptych.domain.folding import ChangedRow
from diptych.domain.projection import View
from diptych.internal.v1.feed_pb2 import ProjectionFeed, ViewChanges

KEYS_MAX = 5_000
"""Keys of one projection that a subscriber can be told at once; more are a gap."""

Changes = Sequence[tuple[str, Sequence[str], Sequence[int]]]
"""Rows that one commit changed: for each view its name, the keys, and for each key the position."""


def changes_of(views: Iterable[View[Any]], changed: Iterable[Mapping[str, ChangedRow]]) -> Changes:
    """The changes that a fold came to."""
    return [
        (view.name, list(rows), [row[1] for row in rows.values()])
        for view, rows in zip(views, changed, strict=True)
        if rows
    ]


class Untold:
    """What one subscriber has not been told of one projection. It knows nothing at first, which is a gap."""

    __slots__ = ("_after", "_generation", "_keys", "_views", "gap")

    def __init__(self, generation: int) -> None:
        self.gap = True
        self._after = 0
        self._generation = generation
        self._keys = 0
        self._views: dict[str, dict[str, int]] = {}

    def add(self, generation: int, changes: Changes) -> None:
        """Takes what changed in a generation since the last call."""
        if generation != self._generation:
            self._generation = generation
            self.lose()
        if self.gap:
            return
        for view, keys, positions in changes:
            rows = self._views.get(view)
            if rows is None:
                rows = self._views[view] = {}
            before = len(rows)
            rows.update(zip(keys, positions, strict=True))
            self._keys += len(rows) - before
            if self._keys > KEYS_MAX:
                self.lose()
                return

    def lose(self) -> None:
        """Takes note that something changed, and that it cannot be told what."""
        self.gap = True
        self._views.clear()
        self._keys = 0

    def take(self, applied: int) -> bytes:
        """The fields of a `ProjectionFeed` that tell all this, which is told by then, up to the applied position."""
        told = ProjectionFeed(
            changes=[
                ViewChanges(view=view, keys=rows.keys(), positions=rows.values()) for view, rows in self._views.items()
            ],
            changes_after=self._after,
            gap=self.gap,
        ).SerializeToString()
        self.lose()
        self.gap = False
        self._after = applied
        return told
