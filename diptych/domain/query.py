"""Queries: what a projection answers, as data that the query server runs.

Nothing here touches a store. `Find` says which rows of a view are wanted and in which order; the read store
compiles it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from google.protobuf.message import Message

from diptych.domain.refusal import Refusal

if TYPE_CHECKING:
    from diptych.domain.projection import Column, Projection, View

R_co = TypeVar("R_co", bound=Message, covariant=True)

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "contains", "prefix"]


class Condition(NamedTuple):
    """One comparison of a column; conditions of one `Find` all hold."""

    column: Column[Any]
    operator: Operator
    value: Any


class Order(NamedTuple):
    """One column of an order."""

    column: Column[Any]
    descending: bool = False


class Find:
    """Which rows of a view: all that meet every condition, in an order.

    A condition of None is left out, so that a filter which was not asked for is one expression::

        Find(due.lt(now), borrower.eq(query.member_id) if query.member_id else None, order=due)

    Rows that are equal in the order come by key. Unset, the order is by key.
    """

    __slots__ = ("conditions", "order")

    def __init__(
        self,
        *conditions: Condition | None,
        order: Column[Any] | Order | Sequence[Column[Any] | Order] = (),
    ) -> None:
        self.conditions = tuple(condition for condition in conditions if condition is not None)
        many: Sequence[Any] = [order] if isinstance(order, Order) or not isinstance(order, Sequence) else order
        self.order = tuple(item if isinstance(item, Order) else Order(item) for item in many)


class Selection(Generic[R_co]):
    """Rows of a named view, for a combined query."""

    __slots__ = ("find", "view")

    def __init__(self, view: View[Any], find: Find) -> None:
        self.view = view
        self.find = find


class GetQuery(NamedTuple):
    """One row by its key; the response is the row."""

    view: View[Any]
    request: type[Message]
    key: Callable[[Any], str]
    missing: Callable[[Any], Refusal | Message] | None


class FindQuery(NamedTuple):
    """Rows of one view in pages; the response has them in its one repeated field."""

    view: View[Any]
    request: type[Message]
    response: type[Message]
    find: Callable[[Any, datetime], Find]
    order_by: Mapping[str, Column[Any]]


class CombinedQuery(NamedTuple):
    """Rows of a view, made into a response by a pure function."""

    projection: Projection
    request: type[Message]
    response: type[Message]
    select: Callable[[Any, datetime], Selection[Any]]
    combine: Callable[[Any, Sequence[Any]], Message]


Query = GetQuery | FindQuery | CombinedQuery
