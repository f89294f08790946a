"""Rows of a projection in memory, for tests and for comparisons."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from diptych.domain.folding import ChangedRow, Folded, Folding
from diptych.domain.projection import Projection, View
from diptych.v1.events_pb2 import RecordedEvent

R = TypeVar("R", bound=Message)


class MemoryRows:
    """The rows of one projection in memory."""

    def __init__(self, projection: Projection) -> None:
        self._folding = Folding(projection)
        self.rows: dict[str, dict[str, ChangedRow]] = {view.name: {} for view in projection.views}
        """By view, every row that was ever there, as its last change: a deleted row is a tombstone."""

    def apply(self, events: Iterable[RecordedEvent]) -> Folded:
        """Fold a batch of events. If one of them fails, the events before it are applied."""
        views = self._folding.projection.views
        prepared = self._folding.prepare(events)
        loaded = [
            {key: self.rows[view.name][key][2] for key in keys if key in self.rows[view.name]}
            for view, keys in zip(views, prepared.keys_to_load, strict=True)
        ]
        folded = self._folding.fold(prepared, loaded)
        for view, changes in zip(views, folded.changed, strict=True):
            self.rows[view.name].update(changes)
        return folded

    def row(self, view: View[R], key: str) -> R | None:
        """Return a row; None without one."""
        change = self.rows[view.name].get(key)
        return None if change is None or change[2] is None else view.row.FromString(change[2])
