"""Columns, conditions and orders: the description of the rows that a query returns.

Nothing here reads a store. The read store compiles a `Find` to a statement; `diptych.testing` evaluates it in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from google.protobuf import descriptor

from diptych.domain.recorded import ViewIdentity

T = TypeVar("T", str, int, float, bool, datetime)

_NUMBERS = (int, float, bool)

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "contains", "prefix"]


class Condition(NamedTuple):
    """One comparison of a column. All conditions of one `Find` must hold."""

    column: Column[Any]
    operator: Operator
    value: Any


class Order(NamedTuple):
    """One column of an order."""

    column: Column[Any]
    descending: bool = False


class Column(Generic[T]):
    """A value of a row to filter and order by; made by `View.column` and `View.text`."""

    __slots__ = ("indexed", "kind", "name", "searchable", "value", "view")

    def __init__(
        self,
        view: ViewIdentity[Any],
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
        """Returns the value of a row."""
        self.kind: type[T] = kind
        """The type of its values."""
        self.indexed = indexed
        self.searchable = searchable

    def __repr__(self) -> str:
        return f"Column({self.view.name}.{self.name})"

    def eq(self, value: T) -> Condition:
        """Return the condition that the column is equal to a value."""
        return Condition(self, "=", value)

    def ne(self, value: T) -> Condition:
        """Return the condition that the column is not equal to a value."""
        return Condition(self, "!=", value)

    def lt(self, value: T) -> Condition:
        """Return the condition that the column is less than a value."""
        return Condition(self, "<", value)

    def le(self, value: T) -> Condition:
        """Return the condition that the column is at most a value."""
        return Condition(self, "<=", value)

    def gt(self, value: T) -> Condition:
        """Return the condition that the column is greater than a value."""
        return Condition(self, ">", value)

    def ge(self, value: T) -> Condition:
        """Return the condition that the column is at least a value."""
        return Condition(self, ">=", value)

    def among(self, values: Iterable[T]) -> Condition:
        """Return the condition that the column is equal to one of the values."""
        return Condition(self, "in", tuple(values))

    def contains(self, text: str) -> Condition:
        """Return the condition that the column contains a text, compared without case.

        Raises:
            TypeError: The column was not made by `View.text`.
        """
        if not self.searchable:
            raise TypeError(f"Column {self.name} of view {self.view.name} is not searchable: make it by View.text.")
        return Condition(self, "contains", text.casefold())

    def starts_with(self, text: str) -> Condition:
        """Return the condition that the column begins with a text."""
        return Condition(self, "prefix", text)

    def descending(self) -> Order:
        """Return the order by this column, greatest value first."""
        return Order(self, descending=True)


class Find:
    """The rows of a view that meet all conditions, in an order.

    A condition of None is left out, so that an optional filter is one expression::

        Find(due.lt(now), borrower.eq(query.member_id) if query.member_id else None, order=due)

    Args:
        *conditions: The conditions.
        order: A column, an `Order` or several of them. Rows that are equal in the order come by key; without an
            order all rows come by key.
    """

    __slots__ = ("conditions", "order")

    def __init__(
        self,
        *conditions: Condition | None,
        order: Column[Any] | Order | Sequence[Column[Any] | Order] = (),
    ) -> None:
        self.conditions = tuple(condition for condition in conditions if condition is not None)
        items: Sequence[Any] = [order] if isinstance(order, Order) or not isinstance(order, Sequence) else order
        self.order = tuple(item if isinstance(item, Order) else Order(item) for item in items)


class ColumnError(TypeError):
    """A condition or an order that a view cannot serve. The message names column, view and remedy."""


def check_find(what: str, view: ViewIdentity[Any], find: Any) -> None:
    """Check that conditions and order use columns of the view, and values of the columns' types.

    Args:
        what: Subject of the error, as "Query ListLoans".
        view: The view whose rows are found.
        find: The result of the query's function.

    Raises:
        ColumnError: They do not, or `find` is no `Find`.
    """
    if not isinstance(find, Find):
        raise ColumnError(f"{what} returned {type(find).__name__}; return Find(...).")
    for condition in find.conditions:
        if not isinstance(condition, Condition):
            raise ColumnError(
                f"{what} has the condition {condition!r}, a {type(condition).__name__}; make it of a column, as "
                "column.eq(value)."
            )
        _check_column(f"{what} has a condition on", condition.column, view)
        _check_value(what, condition)
    for order in find.order:
        if not isinstance(order.column, Column):
            raise ColumnError(f"{what} orders by {order.column!r}; order by a column or column.descending().")
        _check_column(f"{what} orders by", order.column, view)


def _check_column(use: str, column: Column[Any], view: ViewIdentity[Any]) -> None:
    if column.view is not view:
        raise ColumnError(
            f"{use} column {column.name} of view {column.view.name}, and it finds rows of view {view.name}; use a "
            f"column of {view.name}, or declare one there."
        )


def _check_value(what: str, condition: Condition) -> None:
    kind = condition.column.kind
    for value in condition.value if condition.operator == "in" else (condition.value,):
        if not isinstance(value, kind) and not (kind in _NUMBERS and isinstance(value, _NUMBERS)):
            raise ColumnError(
                f"{what} compares column {condition.column.name} of view {condition.column.view.name}, whose values "
                f"are of type {kind.__name__}, with {value!r}. Leave a condition out by None in its place."
            )
        if isinstance(value, datetime) and value.tzinfo is None:
            raise ColumnError(
                f"{what} compares column {condition.column.name} of view {condition.column.view.name} with {value!r}, "
                "a datetime without a time zone; use ToDatetime(UTC)."
            )


def repeated_field(response: descriptor.Descriptor, row: descriptor.Descriptor) -> descriptor.FieldDescriptor | None:
    """Return the repeated field of a list response that takes the rows; None unless there is exactly one."""
    fields = [
        field
        for field in response.fields
        if field.is_repeated and field.message_type is not None and field.message_type.full_name == row.full_name
    ]
    return fields[0] if len(fields) == 1 else None
