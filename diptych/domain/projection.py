"""Projections: named, versioned units of the read model, each with one view or more.

A view is a table of rows. A row is a protobuf message under a string key. Rows are a *keyed fold* of events:
`(row | None, event, at) -> row | None`. A fold gets a copy of the row that it may change and return; None deletes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from diptych.domain.folds import FoldedView
from diptych.domain.places import calling_place, named
from diptych.domain.query import Column, ColumnError, Condition, Find, Order, check_find
from diptych.domain.recorded import RowRef
from diptych.domain.refusal import Refusal
from diptych.domain.results import no_text
from diptych.domain.upcasting import Upcaster, becomes

R = TypeVar("R", bound=Message)
R_co = TypeVar("R_co", bound=Message, covariant=True)
E = TypeVar("E", bound=Message)
Q = TypeVar("Q", bound=Message)
P = TypeVar("P", bound=Message)
X = TypeVar("X")
T = TypeVar("T", str, int, float, bool, datetime)

_RESERVED_COLUMNS = ("key", "position", "row")


class Selection(Generic[R_co]):
    """Rows of a view for a combined query; made by `View.where`."""

    __slots__ = ("find", "view")

    def __init__(self, view: View[Any], find: Find) -> None:
        self.view = view
        self.find = find


class GetQuery(NamedTuple):
    """A query for one row by its key. The response is the row."""

    view: View[Any]
    request: type[Message]
    key: Callable[[Any], str]
    missing: Callable[[Any], Refusal | Message] | None


class FindQuery(NamedTuple):
    """A query for rows of one view in pages. The response's only repeated field takes them."""

    view: View[Any]
    request: type[Message]
    response: type[Message]
    find: Callable[[Any, datetime], Find]
    order_by: Mapping[str, Column[Any]]


class CombinedQuery(NamedTuple):
    """A query whose response a pure function makes of rows of one view."""

    projection: Projection
    request: type[Message]
    response: type[Message]
    select: Callable[[Any, datetime], Selection[Any]]
    combine: Callable[[Any, Sequence[Any]], Message]


Query = GetQuery | FindQuery | CombinedQuery


class View(FoldedView[R]):
    """A table of rows; made by `Projection.view`."""

    def __init__(self, projection: Projection, name: str, row: type[R], index: int) -> None:
        super().__init__(projection.name, name, row, index)
        self.location = calling_place()
        """File and line of the declaration."""
        self.projection = projection
        self.columns: dict[str, Column[Any]] = {}
        """By name, in the order of declaration."""
        self.indexes: list[tuple[Column[Any], ...]] = []

    def column(self, name: str, value: Callable[[R], T], *, indexed: bool = True) -> Column[T]:
        """Declare a value to filter and order by.

        Args:
            name: The name, unique in the view.
            value: A pure function of the row that returns a str, int, float, bool or aware datetime, never None.
                The type for an empty row is the column's type.
            indexed: True if the read store gets an index on the column.

        Raises:
            ValueError: The view has a column of that name, or `value` fails on an empty row.
            TypeError: The value of an empty row has another type.
        """
        return self._add(name, value, indexed=indexed, searchable=False)

    def text(self, name: str, value: Callable[[R], str], *, indexed: bool = False) -> Column[str]:
        """Declare a text to search in by `Column.contains`. The column has the text case-folded.

        Args:
            name: The name, unique in the view.
            value: A pure function of the row that returns the text.
            indexed: True if queries also compare the column or order by it.

        Raises:
            ValueError: As for `column`.
            TypeError: As for `column`.
        """
        return self._add(name, lambda row: value(row).casefold(), indexed=indexed, searchable=True)

    def _add(self, name: str, value: Callable[[R], T], *, indexed: bool, searchable: bool) -> Column[T]:
        if name in self.columns or name in _RESERVED_COLUMNS:
            raise ValueError(f"View {self.name} has a column {name} already.")
        try:
            sample = value(self.row())
        except Exception as error:
            raise ValueError(
                f"Column {name} of view {self.name} fails on an empty row: {error}. The fields of "
                f"{self.row.DESCRIPTOR.full_name}: {', '.join(self.row.DESCRIPTOR.fields_by_name) or 'none'}."
            ) from error
        kind = type(sample)
        if sample is None:
            raise TypeError(
                f"Column {name} of view {self.name} gives None for an empty row; return a value of the column's type, "
                "as '' or 0."
            )
        if kind not in (str, int, float, bool, datetime):
            raise TypeError(f"Column {name} of view {self.name} gives a {kind.__name__}, which cannot be compared.")
        column: Column[T] = Column(self, name, value, kind, indexed=indexed, searchable=searchable)
        self.columns[name] = column
        return column

    def index_on(self, *columns: Column[Any]) -> None:
        """Declare an index on several columns, for queries that filter by the first and order by the last."""
        self.indexes.append(columns)

    def at(self, key: str) -> RowRef:
        """Return the reference to a row, for `reads`."""
        return RowRef(self, key)

    def get(
        self,
        request: type[Q],
        *,
        key: Callable[[Q], str],
        missing: Callable[[Q], Refusal | R] | None = None,
    ) -> None:
        """Declare a query that returns one row.

        Args:
            request: The request type; its rpc returns the row's type.
            key: Returns the row's key.
            missing: Returns the refusal, or the row, for a key without a row. Without it the refusal is ROW_NOT_FOUND.

        Raises:
            ValueError: The projection has a query with this request.
        """

        @functools.wraps(key)
        def checked_key(query: Q) -> str:
            result = key(query)
            if not isinstance(result, str):
                raise TypeError(f"The key of query {request.DESCRIPTOR.full_name}, {named(key)}, {no_text(result)}")
            return result

        self.projection.add_query(GetQuery(self, request, checked_key, missing))

    def find(
        self,
        request: type[Q],
        response: type[Message],
        *,
        order_by: Mapping[str, Column[Any]] | None = None,
    ) -> Callable[[Callable[[Q, datetime], Find]], Callable[[Q, datetime], Find]]:
        """Declare a query that returns rows in pages, described by the decorated function: `(query, now) -> Find`.

        The response's only repeated field takes the rows. The engine serves these fields by name, as far as they
        exist: `page_size`, `page_token`, `order_by` and `include_total` of the request, `next_page_token` and
        `total_size` of the response.

        Args:
            request: The request type.
            response: The response type.
            order_by: The columns that a client may order by, by the names in `order_by` of the request.

        Raises:
            ValueError: The projection has a query with this request.
        """

        def bind(find: Callable[[Q, datetime], Find]) -> Callable[[Q, datetime], Find]:
            what = f"Query {request.DESCRIPTOR.full_name}, {named(find)},"

            @functools.wraps(find)
            def checked(query: Q, now: datetime) -> Find:
                result = find(query, now)
                check_find(what, self, result)
                return result

            self.projection.add_query(FindQuery(self, request, response, checked, order_by or {}))
            return find

        return bind

    def where(self, *conditions: Condition | None, order: Column[Any] | Order | Sequence[Any] = ()) -> Selection[R]:
        """Return the selection of rows of this view for `Projection.combines`; arguments as for `Find`.

        Raises:
            ColumnError: A column is of another view, or a value of another type than its column.
        """
        find = Find(*conditions, order=order)
        check_find(f"{self.name}.where", self, find)
        return Selection(self, find)


class Projection:
    """A named, versioned unit of the read model, with one checkpoint, rebuilt as a whole.

    Args:
        name: The name, unique in the domain.
        version: A number to raise with every change of a fold, a view or a column. The engine fills a generation of
            the new version while that of the old version answers.
    """

    def __init__(self, name: str, *, version: int) -> None:
        self.name = name
        self.version = version
        self.location = calling_place()
        """File and line of the declaration."""
        self.views: list[View[Any]] = []
        self.queries: dict[str, Query] = {}
        self.upcasters: Mapping[str, Upcaster] = {}
        """The upcasters of the domain's aggregates, set by `Domain`."""

    def __repr__(self) -> str:
        return f"Projection({self.name!r})"

    def view(self, name: str, row: type[R]) -> View[R]:
        """Declare a view.

        Args:
            name: The name, unique in the domain.
            row: The message type of its rows.
        """
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
        """Declare a query whose response the decorated pure function makes of rows: `(query, rows) -> response`.

        Args:
            request: The request type.
            response: The response type.
            rows: Returns the selection of rows, `(query, now) -> Selection`.

        Raises:
            ValueError: The projection has a query with this request.
        """

        what = f"Query {request.DESCRIPTOR.full_name}, {named(rows)},"

        @functools.wraps(rows)
        def checked(query: Q, now: datetime) -> Selection[R]:
            selection = rows(query, now)
            if not isinstance(selection, Selection):
                raise ColumnError(f"{what} returned {type(selection).__name__}; return view.where(...).")
            if selection.view.projection is not self:
                raise ColumnError(
                    f"{what} selects rows of view {selection.view.name}, which projection {self.name} does not have; "
                    "combine rows of one projection."
                )
            return selection

        def bind(combine: Callable[[Q, Sequence[R]], P]) -> Callable[[Q, Sequence[R]], P]:
            self.add_query(CombinedQuery(self, request, response, checked, combine))
            return combine

        return bind

    def add_query(self, query: Query) -> None:
        """Add a query under its request type.

        Raises:
            ValueError: The projection has a query with this request.
        """
        name = query.request.DESCRIPTOR.full_name
        if name in self.queries:
            raise ValueError(f"{name} is answered twice.")
        self.queries[name] = query

    @property
    def event_types(self) -> frozenset[str]:
        """The full names of the event types that a view folds, and of the old types that are upcast to them."""
        folded = frozenset(name for view in self.views for name in view.handlers)
        return folded.union(name for name in self.upcasters if becomes(name, self.upcasters) & folded)
