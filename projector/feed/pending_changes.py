"""Pending changes: the row changes of one projection that one subscriber of the feed was not sent yet.

Changes are conflated to the last position of each key, and bounded. Beyond the bound the subscriber is sent a gap in
their place, and reads its rows from the store again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diptych.domain.folding import ChangedRow
from diptych.domain.projection import View
from diptych.internal.v1.feed_pb2 import ProjectionFeed, ViewChanges

KEYS_MAX = 5_000
"""Keys of one projection that are pending at most; more become a gap."""

Changes = Sequence[tuple[str, Sequence[str], Sequence[int]]]
"""Rows that one commit changed: for each view its name, the keys, and the position of each key."""


def changes_of(views: Iterable[View[Any]], changed: Iterable[Mapping[str, ChangedRow]]) -> Changes:
    """Return the rows changed by a fold as changes.

    Args:
        views: Views of the projection.
        changed: Changed rows by key, for each view.
    """
    return [
        (view.name, list(rows), [row[1] for row in rows.values()])
        for view, rows in zip(views, changed, strict=True)
        if rows
    ]


class PendingChanges:
    """Row changes of one projection for one subscriber. They begin with a gap, as the subscriber has no rows."""

    __slots__ = ("_after", "_generation", "_keys", "_views", "gap")

    def __init__(self, generation: int) -> None:
        self.gap = True
        """True if rows have changed whose keys are not pending."""
        self._after = 0
        self._generation = generation
        self._keys = 0
        self._views: dict[str, dict[str, int]] = {}

    def add(self, generation: int, changes: Changes) -> None:
        """Add the changes of one commit in a generation. Another generation than before is a gap."""
        if generation != self._generation:
            self._generation = generation
            self.add_gap()
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
                self.add_gap()
                return

    def add_gap(self) -> None:
        """Replace all pending changes by a gap: rows have changed, and their keys are not known."""
        self.gap = True
        self._views.clear()
        self._keys = 0

    def take(self, applied: int) -> bytes:
        """Return the pending changes as serialised fields of a `ProjectionFeed`, and begin with none.

        Args:
            applied: Applied position of the frame; the next changes come after it.
        """
        fields = ProjectionFeed(
            changes=[
                ViewChanges(view=view, keys=rows.keys(), positions=rows.values()) for view, rows in self._views.items()
            ],
            changes_after=self._after,
            gap=self.gap,
        ).SerializeToString()
        self.add_gap()
        self.gap = False
        self._after = applied
        return fields
