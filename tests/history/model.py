"""Truth to judge a history by: the log, and every view as the fold of the log at every position."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property

from diptych.contract.token import Token
from diptych.domain.domain import Domain
from diptych.domain.folding import ChangedRow
from diptych.domain.memory_rows import MemoryRows
from diptych.v1.events_pb2 import RecordedEvent

FOREVER = 1 << 62
Span = tuple[int, int]
"""Positions from the first to the last, both included."""


def stream_of(event: RecordedEvent) -> str:
    """Return an event's stream, as `type/id`."""
    return f"{event.aggregate.type}/{event.aggregate.id}"


def position_of(token: str) -> int:
    """Return a token's position; 0 for an empty token."""
    return Token.parse(token).position if token else 0


class Truth:
    """Rows of a domain's views at every position of a log."""

    def __init__(self, domain: Domain, log: Sequence[RecordedEvent]) -> None:
        self.domain = domain
        self.log = log
        self.head = len(log)
        self.projection_of = {name: view.projection.name for name, view in domain.views.items()}
        self._changes: dict[str, dict[str, list[ChangedRow]]] = {name: {} for name in domain.views}
        self.unfolded: list[str] = []
        """Events that could not be folded."""
        for projection in domain.projections.values():
            memory = MemoryRows(projection)
            for event in log:
                folded = memory.apply([event])
                if folded.failure is not None:
                    self.unfolded.append(str(folded.failure))
                for view, changes in zip(projection.views, folded.changed, strict=True):
                    for key, change in changes.items():
                        self._changes[view.name].setdefault(key, []).append(change)

    def keys(self, view: str) -> set[str]:
        """Return all keys that a view ever had."""
        return set(self._changes[view])

    def change(self, view: str, key: str, position: int) -> ChangedRow | None:
        """Return a row or tombstone at a position; None if the key did not exist yet."""
        changes = self._changes[view].get(key, [])
        index = bisect_right(changes, position, key=_changed_at)
        return changes[index - 1] if index else None

    def row(self, view: str, key: str, position: int) -> bytes | None:
        """Return a row's content at a position."""
        change = self.change(view, key, position)
        return None if change is None else change[2]

    def spans(self, view: str, key: str, content: bytes | None) -> list[Span]:
        """Yield the spans of positions at which a row has this content."""
        return list(self._spans(view, key, content))

    def _spans(self, view: str, key: str, content: bytes | None) -> Iterator[Span]:
        changes = self._changes[view].get(key, [])
        if content is None:
            yield 0, (_changed_at(changes[0]) - 1 if changes else FOREVER)
        for index, change in enumerate(changes):
            if change[2] == content:
                yield (
                    _changed_at(change),
                    (_changed_at(changes[index + 1]) - 1 if index + 1 < len(changes) else FOREVER),
                )

    @cached_property
    def by_request(self) -> dict[str, list[RecordedEvent]]:
        """Return events by the request id of their command."""
        found: dict[str, list[RecordedEvent]] = {}
        for event in self.log:
            if event.metadata.request_id:
                found.setdefault(event.metadata.request_id, []).append(event)
        return found

    @cached_property
    def by_stream(self) -> dict[str, list[RecordedEvent]]:
        """Return events by stream."""
        found: dict[str, list[RecordedEvent]] = {}
        for event in self.log:
            found.setdefault(stream_of(event), []).append(event)
        return found


def overlap(one: Sequence[Span], other: Sequence[Span]) -> list[Span]:
    """Return the positions that are in both."""
    common = []
    left, right = list(one), list(other)
    while left and right:
        first, last = max(left[0][0], right[0][0]), min(left[0][1], right[0][1])
        if first <= last:
            common.append((first, last))
        (left if left[0][1] < right[0][1] else right).pop(0)
    return common


def _changed_at(change: ChangedRow) -> int:
    position: int = change[1]
    return position
