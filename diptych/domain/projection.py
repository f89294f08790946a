"""Projections: named, versioned units of read model, each of one or more views.

A view is a table of rows, each a protobuf message under a string key, that is a *keyed fold* of events:
`(row | None, event, at) -> row | None`. A fold gets a copy of the row that it may change and return; None deletes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from diptych.domain.aggregate import AggregateRef, Upcaster, becomes
from diptych.domain.query import CombinedQuery, Condition, Find, FindQuery, GetQuery, Order, Query, Selection
from diptych.domain.refusal import Refusal

R = TypeVar("R", bound=Message)
E = TypeVar("E", bound=Message)
Q = TypeVar("Q", bound=Message)
P = TypeVar("P", bound=Message)
X = TypeVar("X")
T = TypeVar("T", str, int, float, bool, datetime)


class RowRef(NamedTuple):
    """Names a row of a view."""

    view: View[Any]
    key: str


class RowSource(Protocol):
    """What answers a fold's look-ups."""

    def look_up(self, asking: View[Any], view: View[Any], key: str) -> Message | None:
        """The row as of the event being folded."""
        ...


class Recorded:
    """What a fold is told beside the row and the event."""

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
        """The aggregate that recorded it."""
        self.version = version
        """The aggregate's version that it made."""
        self.record_time = record_time
        """When it was recorded."""
        self.event_id = event_id
        self.key = ""
        """The key of the row being folded."""
        self._source = source
        self._view: View[Any] | None = None

    @property
    def time(self) -> datetime:
        """When it was recorded, aware, UTC."""
        return self.record_time.ToDatetime(UTC)

    def row(self, view: View[R], key: str) -> R | None:
        """A row of an earlier view of the same projection, as of this event. `reads` must have named it.

        The row is not yours to change.
        """
        assert self._view is not None
        row: R | None = self._source.look_up(self._view, view, key)  # type: ignore[assignment]
        return row

    def folding(self, view: View[Any], key: str) -> Recorded:
        """For the engine: turns to the next row."""
        self._view = view
        self.key = key
        return self


Fold = Callable[[R | None, E, Recorded], R | None]
PartFold = Callable[[R | None, X, Recorded], R | None]


class Handler(NamedTuple):
    """How one event type folds into one view."""

    view: View[Any]
    event: type[Message]
    keys: Callable[[Any], Iterable[str]]
    reads: Callable[[Any], Iterable[RowRef]] | None
    fold: Callable[[Any, Any, Recorded], Any]
    parts: Callable[[Any], Mapping[str, Any]] | None = None
    """What each key's fold gets in place of the event; None: the event itself."""


class Column(Generic[T]):
    """A value of a row that can be filtered and ordered by; made by `View.column`."""

    __slots__ = ("indexed", "kind", "name", "searchable", "value", "view")

    def __init__(
        self,
        view: View[Any],
        name: str,
        value: Callable[[Any], T],
        kind: type[T],
        *,
        indexed: bool,
        searchable: bool,
    ) -> None:
        self.view = view
        self.name = name
        self.value: Callable[[Any], T] = value
        self.kind: type[T] = kind
        self.indexed = indexed
        self.searchable = searchable

    def __repr__(self) -> str:
        return f"Column({self.view.name}.{self.name})"

    def eq(self, value: T) -> Condition:
        """Equal to."""
        return Condition(self, "=", value)

    def ne(self, value: T) -> Condition:
        """Not equal to."""
        return Condition(self, "!=", value)

    def lt(self, value: T) -> Condition:
        """Less than."""
        return Condition(self, "<", value)

    def le(self, value: T) -> Condition:
        """At most."""
        return Condition(self, "<=", value)

    def gt(self, value: T) -> Condition:
        """Greater than."""
        return Condition(self, ">", value)

    def ge(self, value: T) -> Condition:
        """At least."""
        return Condition(self, ">=", value)

    def among(self, values: Iterable[T]) -> Condition:
        """Equal to one of."""
        return Condition(self, "in", tuple(values))

    def contains(self, text: str) -> Condition:
        """Has the text anywhere, case-insensitively. For columns made by `View.text`."""
        if not self.searchable:
            raise TypeError(f"Column {self.name} of view {self.view.name} is not searchable: make it by View.text.")
        return Condition(self, "contains", text.casefold())

    def starts_with(self, text: str) -> Condition:
        """Begins with the text."""
        return Condition(self, "prefix", text)

    def descending(self) -> Order:
        """This column from its greatest value down."""
        return Order(self, descending=True)


class View(Generic[R]):
    """A view; made by `Projection.view`."""

    def __init__(self, projection: Projection, name: str, row: type[R], index: int) -> None:
        self.projection = projection
        self.name = name
        self.row = row
        self.index = index
        self.columns: dict[str, Column[Any]] = {}
        self.indexes: list[tuple[Column[Any], ...]] = []
        self.handlers: dict[str, Handler] = {}

    def __repr__(self) -> str:
        return f"View({self.name!r})"

    def column(self, name: str, value: Callable[[R], T], *, indexed: bool = True) -> Column[T]:
        """Declares a value to filter and order by: a function of the row that gives a str, int, float, bool or
        aware datetime, never None. Its type is that which it gives for an empty row.
        """
        return self._add(name, value, indexed=indexed, searchable=False)

    def text(self, name: str, value: Callable[[R], str], *, indexed: bool = False) -> Column[str]:
        """Declares a text to search in. It is kept case-folded. Indexed, it serves to look up and to order by, too."""
        return self._add(name, lambda row: value(row).casefold(), indexed=indexed, searchable=True)

    def _add(self, name: str, value: Callable[[R], T], *, indexed: bool, searchable: bool) -> Column[T]:
        if name in self.columns or name in ("key", "position", "row"):
            raise ValueError(f"View {self.name} has a column {name} already.")
        try:
            sample = value(self.row())
        except Exception as error:
            raise ValueError(f"Column {name} of view {self.name} fails on an empty row: {error}") from error
        kind = type(sample)
        if kind not in (str, int, float, bool, datetime):
            raise TypeError(f"Column {name} of view {self.name} gives a {kind.__name__}, which cannot be compared.")
        column: Column[T] = Column(self, name, value, kind, indexed=indexed, searchable=searchable)
        self.columns[name] = column
        return column

    def index_on(self, *columns: Column[Any]) -> None:
        """Declares an index over several columns, for queries that filter by the first and order by the last."""
        self.indexes.append(columns)

    def at(self, key: str) -> RowRef:
        """Names a row, for `reads`."""
        return RowRef(self, key)

    def on(
        self,
        event: type[E],
        *,
        key: Callable[[E], str],
        reads: Callable[[E], Iterable[RowRef]] | None = None,
    ) -> Callable[[Fold[R, E]], Fold[R, E]]:
        """Folds an event into the one row that it names."""
        return self.on_each(event, keys=lambda message: (key(message),), reads=reads)

    def on_each(
        self,
        event: type[E],
        *,
        keys: Callable[[E], Iterable[str]],
        reads: Callable[[E], Iterable[RowRef]] | None = None,
    ) -> Callable[[Fold[R, E]], Fold[R, E]]:
        """Folds an event into each row that it names, once each; `at.key` says which.

        `reads` names rows of earlier views of this projection that the fold looks up.
        """
        name = event.DESCRIPTOR.full_name
        if name in self.handlers:
            raise ValueError(f"View {self.name} folds {name} twice.")

        def bind(fold: Fold[R, E]) -> Fold[R, E]:
            self.handlers[name] = Handler(self, event, keys, reads, fold)
            return fold

        return bind

    def on_parts(
        self,
        event: type[E],
        *,
        parts: Callable[[E], Mapping[str, X]],
        reads: Callable[[E], Iterable[RowRef]] | None = None,
    ) -> Callable[[PartFold[R, X]], PartFold[R, X]]:
        """Folds an event into many rows, each with its own part of it: `parts` gives the part under each key.

        For events with many items: the event is gone through once, not once for every row::

            @stock.on_parts(GoodsReceived, parts=lambda e: {item.product_id: item.quantity for item in e.items})
            def received(row: Stock | None, quantity: int, at: Recorded) -> Stock: ...
        """
        name = event.DESCRIPTOR.full_name
        if name in self.handlers:
            raise ValueError(f"View {self.name} folds {name} twice.")

        def bind(fold: PartFold[R, X]) -> PartFold[R, X]:
            self.handlers[name] = Handler(self, event, parts, reads, fold, parts)
            return fold

        return bind

    def get(
        self,
        request: type[Q],
        *,
        key: Callable[[Q], str],
        missing: Callable[[Q], Refusal | R] | None = None,
    ) -> None:
        """Answers a query with one row. `missing` gives the refusal, or the row, for a key that has none."""
        self.projection.add_query(GetQuery(self, request, key, missing))

    def find(
        self,
        request: type[Q],
        response: type[Message],
        *,
        order_by: Mapping[str, Column[Any]] | None = None,
    ) -> Callable[[Callable[[Q, datetime], Find]], Callable[[Q, datetime], Find]]:
        """Answers a query with rows, in pages: `(query, now) -> Find`.

        The response's one repeated field takes the rows. By their names, the engine serves the request's
        `page_size`, `page_token`, `order_by` and `include_total` and the response's `next_page_token` and
        `total_size`, as far as they exist. `order_by` maps the names that a client may order by.
        """

        def bind(find: Callable[[Q, datetime], Find]) -> Callable[[Q, datetime], Find]:
            self.projection.add_query(FindQuery(self, request, response, find, order_by or {}))
            return find

        return bind

    def where(self, *conditions: Condition | None, order: Column[Any] | Order | Sequence[Any] = ()) -> Selection[R]:
        """Rows of this view, for `Projection.combines`."""
        return Selection(self, Find(*conditions, order=order))


class Projection:
    """A named, versioned unit of read model: one checkpoint, rebuilt as one.

    Raise `version` with every change of a fold, a view or a column: the new version is built beside the old one.
    """

    def __init__(self, name: str, *, version: int) -> None:
        self.name = name
        self.version = version
        self.views: list[View[Any]] = []
        self.queries: dict[str, Query] = {}
        self.upcasters: Mapping[str, Upcaster] = {}
        """Those of the domain's aggregates; the domain puts them here."""

    def __repr__(self) -> str:
        return f"Projection({self.name!r})"

    def view(self, name: str, row: type[R]) -> View[R]:
        """Declares a view of rows of a message type."""
        view = View(self, name, row, len(self.views))
        self.views.append(view)
        return view

    def combines(
        self,
        request: type[Q],
        response: type[P],
        *,
        rows: Callable[[Q, datetime], Selection[R]],
    ) -> Callable[[Callable[[Q, Sequence[R]], P]], Callable[[Q, Sequence[R]], P]]:
        """Answers a query by combining rows: `rows` says which, the decorated pure function makes the response."""

        def bind(combine: Callable[[Q, Sequence[R]], P]) -> Callable[[Q, Sequence[R]], P]:
            self.add_query(CombinedQuery(self, request, response, rows, combine))
            return combine

        return bind

    def add_query(self, query: Query) -> None:
        """Binds a query to its request type."""
        name = query.request.DESCRIPTOR.full_name
        if name in self.queries:
            raise ValueError(f"{name} is answered twice.")
        self.queries[name] = query

    @property
    def event_types(self) -> frozenset[str]:
        """The full names of the event types that any view folds, and of those that are upcast to them."""
        folded = frozenset(name for view in self.views for name in view.handlers)
        return folded.union(name for name in self.upcasters if becomes(name, self.upcasters) & folded)
