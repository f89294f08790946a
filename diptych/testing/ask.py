"""Answers to queries after events."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.message import Message

from diptych.contract.reasons import RowNotFound
from diptych.contract.validation import check
from diptych.domain.projection import CombinedQuery, FindQuery, GetQuery, Projection
from diptych.domain.query import Condition, Find, Order, repeated_field
from diptych.domain.refusal import Refusal
from diptych.testing.fold import folded, rows_of
from diptych.testing.log import NOW, log_of

R = TypeVar("R", bound=Message)

_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda value, values: value in values,
    "contains": operator.contains,
    "prefix": str.startswith,
}


def ask(projection: Projection, request: Message, *events: Message, now: datetime = NOW) -> Any:
    """Return the response to a query after these events. A list has all rows in one page.

    Args:
        projection: The projection that answers the query.
        request: The request.
        *events: Events, bare or made by `recorded`.
        now: The time of the query, aware.

    Raises:
        Refusal: The query is refused, or the request breaks rules of its contract.
        KeyError: The projection does not answer the query.
        FoldFailure: A fold raised an exception, which is its cause.
        AssertionError: The rows depend on the batches, as for `fold`.
    """
    query = projection.queries[request.DESCRIPTOR.full_name]
    check(request)
    rows = folded(projection, log_of(*events))
    match query:
        case GetQuery():
            key = query.key(request)
            row = rows.row(query.view, key)
            if row is not None:
                return row
            missing = query.missing(request) if query.missing else RowNotFound(view=query.view.name, key=key)
            if isinstance(missing, Refusal):
                raise missing
            return missing
        case FindQuery():
            return _list(query, request, rows_of(query.view, rows), now)
        case CombinedQuery():
            selection = query.select(request, now)
            return query.combine(request, _find(selection.find, rows_of(selection.view, rows)))


def _list(query: FindQuery, request: Any, rows: Mapping[str, Message], now: datetime) -> Message:
    find = query.find(request, now)
    if getattr(request, "order_by", ""):
        find = Find(*find.conditions, order=[_order(query, part) for part in request.order_by.split(",")])
    results = _find(find, rows)
    response: Any = query.response()
    field = repeated_field(response.DESCRIPTOR, query.view.row.DESCRIPTOR)
    assert field is not None
    getattr(response, field.name).extend(results)
    if getattr(request, "include_total", False):
        response.total_size = len(results)
    return query.response.FromString(response.SerializeToString())


def _order(query: FindQuery, text: str) -> Order:
    name, _, direction = text.strip().partition(" ")
    return Order(query.order_by[name], direction == "desc")


def _find(find: Find, rows: Mapping[str, R]) -> list[R]:
    """Return the rows that meet all conditions, in the order.

    Equal rows come by key, in the direction of the last column.
    """
    results = [(key, row) for key, row in rows.items() if all(_holds(each, row) for each in find.conditions)]
    results.sort(key=lambda item: item[0], reverse=bool(find.order) and find.order[-1].descending)
    for order in reversed(find.order):
        column = order.column
        results.sort(key=lambda item: column.value(item[1]), reverse=order.descending)
    return [row for _, row in results]


def _holds(condition: Condition, row: Message) -> bool:
    return bool(_COMPARISONS[condition.operator](condition.column.value(row), condition.value))
