"""Context of one fold, and the references to rows of views that it takes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from diptych.domain.aggregate import AggregateRef

R = TypeVar("R", bound=Message)


class ViewIdentity(Generic[R]):
    """Name, row type and index of a view; the base of `View`, which adds the declarations."""

    def __init__(self, projection_name: str, name: str, row: type[R], index: int) -> None:
        self.projection_name = projection_name
        self.name = name
        self.row = row
        self.index = index
        """The index among the views of the projection, in the order of declaration."""

    def __repr__(self) -> str:
        return f"View({self.name!r})"


class RowRef(NamedTuple):
    """Reference to a row of a view; made by `View.at`."""

    view: ViewIdentity[Any]
    key: str


class RowSource(Protocol):
    """The rows that a fold can look up."""

    def look_up(self, asking: ViewIdentity[Any] | None, view: ViewIdentity[Any], key: str) -> Message | None:
        """Return a row of `view` as of the event that `asking` folds; None without one."""
        ...


class Recorded:
    """Place of an event in the log: the third argument of folds, and the second of key functions that take it.

    In a key function, `key` is empty and `row` raises `LookupError`.
    """

    __slots__ = ("_source", "_view", "aggregate", "event_id", "key", "position", "record_time", "version")

    def __init__(
        self,
        *,
        position: int,
        aggregate: AggregateRef,
        version: int,
        record_time: Timestamp,
        event_id: str = "",
        source: RowSource,
    ) -> None:
        self.position = position
        """The event's position in the log."""
        self.aggregate = aggregate
        """The aggregate that recorded the event."""
        self.version = version
        """The aggregate's version after the event."""
        self.record_time = record_time
        """The time of the commit."""
        self.event_id = event_id
        self.key = ""
        """The key of the row that is folded."""
        self._source = source
        self._view: ViewIdentity[Any] | None = None

    @property
    def time(self) -> datetime:
        """The time of the commit, aware, UTC."""
        return self.record_time.ToDatetime(UTC)

    def row(self, view: ViewIdentity[R], key: str) -> R | None:
        """Return a row of an earlier view of the same projection, as of this event. Do not change it.

        Args:
            view: The view, declared before the one that is folded.
            key: The row's key.

        Raises:
            LookupError: The handler's `reads` did not name the row.
        """
        row: R | None = self._source.look_up(self._view, view, key)  # type: ignore[assignment]
        return row

    def folding(self, view: ViewIdentity[Any], key: str) -> Recorded:
        """Set the row that is folded next, and return this context. For the engine only."""
        self._view = view
        self.key = key
        return self
