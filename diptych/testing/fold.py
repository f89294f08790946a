"""Rows of views after events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

from google.protobuf.message import Message

from diptych.domain.memory_rows import MemoryRows
from diptych.domain.projection import Projection, View
from diptych.testing.log import log_of
from diptych.v1.events_pb2 import RecordedEvent

R = TypeVar("R", bound=Message)

_BATCH_SIZES = (1, 2, 3)


@overload
def fold(target: View[R], *events: Message) -> dict[str, R]: ...
@overload
def fold(target: Projection, *events: Message) -> dict[str, dict[str, Message]]: ...
def fold(target: View[Any] | Projection, *events: Message) -> dict[str, Any]:
    """Return the rows of a view after these events, by key; of a projection the rows of each view, by its name.

    The events are folded in one batch, and again in batches of one, two and three events. The rows must be the same,
    to the byte and to the position of the last change.

    Args:
        target: The view or projection.
        *events: Events, bare or made by `recorded`.

    Raises:
        FoldFailure: A fold raised an exception, which is its cause.
        AssertionError: The rows depend on the batches.
    """
    projection = target.projection if isinstance(target, View) else target
    rows = folded(projection, log_of(*events))
    if isinstance(target, View):
        return rows_of(target, rows)
    return {view.name: rows_of(view, rows) for view in projection.views}


def folded(projection: Projection, log: Sequence[RecordedEvent]) -> MemoryRows:
    """Return all rows of a projection after a log; raises as `fold` does."""
    rows = _in_batches(projection, log, len(log) or 1)
    for size in _BATCH_SIZES:
        other = _in_batches(projection, log, size)
        for view in projection.views:
            assert other.rows[view.name] == rows.rows[view.name], (
                f"The rows of view {view.name} depend on how events are batched: {rows.rows[view.name]} "
                f"all at once, {other.rows[view.name]} in batches of {size}."
            )
    return rows


def rows_of(view: View[R], rows: MemoryRows) -> dict[str, R]:
    """Return the rows of one view by key, in the order of their keys, without deleted ones."""
    by_key = {key: rows.row(view, key) for key in sorted(rows.rows[view.name])}
    return {key: row for key, row in by_key.items() if row is not None}


def _in_batches(projection: Projection, log: Sequence[RecordedEvent], size: int) -> MemoryRows:
    rows = MemoryRows(projection)
    for start in range(0, len(log), size):
        failure = rows.apply(log[start : start + size]).failure
        if failure is not None:
            raise failure
    return rows
