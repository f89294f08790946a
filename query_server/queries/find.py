"""Find queries: lists of rows by conditions, with order, pages and totals."""

from __future__ import annotations

from typing import Any, NamedTuple

from diptych.contract.reasons import InvalidRequest, Overloaded, RowTooLarge
from diptych.contract.validation import parse
from diptych.contract.wire import delimited, varint
from diptych.domain.projection import FindQuery
from diptych.domain.query import Find, repeated_field
from diptych.domain.refusal import Refusal
from diptych.server.request_context import RequestContext
from diptych.server.router import UnaryHandler
from query_server.cache.view_cache import ListRead
from query_server.queries.cached_list import MOMENT, CachedLists, Prepared, query_time, without_consistency
from query_server.queries.consistency import refuse, requirement
from query_server.queries.fresh import Reading
from query_server.queries.keyset_tokens import KeysetTokens
from query_server.queries.order_by import order_of
from query_server.rows.row_source import PAGE_BYTES_MAX
from query_server.rows.time_limit import TimeLimit

PAGE_SIZE_UNSET = 50
"""Rows in a page when the request names no size."""

PAGE_SIZE_MAX = 1000
"""Greatest number of rows in a page, and in an answer without pages."""


class _Fields(NamedTuple):
    """Fields of a list's request and response that the engine serves; numbers are 0 where a field is missing."""

    page_size: bool
    page_token: bool
    order_by: bool
    include_total: bool
    rows: int
    next_page_token: int
    total_size: int

    @classmethod
    def of(cls, query: FindQuery) -> _Fields:
        response: Any = query.response.DESCRIPTOR
        rows = repeated_field(response, query.view.row.DESCRIPTOR)
        assert rows is not None, "checked when the domain was loaded"

        def number(name: str) -> int:
            field = response.fields_by_name.get(name)
            return 0 if field is None else field.number

        request = query.request.DESCRIPTOR.fields_by_name
        paged = "page_token" in request and number("next_page_token") > 0
        return cls(
            "page_size" in request and paged,
            paged,
            "order_by" in request,
            "include_total" in request and number("total_size") > 0,
            rows.number,
            number("next_page_token"),
            number("total_size"),
        )


def find_handler(query: FindQuery, method: str, reading: Reading) -> UnaryHandler:
    """Return the handler of one find query."""
    source, tracker, message_max = reading.source, reading.tracker, reading.message_bytes_max
    view, fields = query.view, _Fields.of(query)
    tracked, cache = tracker.projections[view.projection.name], reading.cache.view(view)
    rows_tag = varint(fields.rows << 3 | 2)
    lists = CachedLists(method, tracked, reading)

    async def answer(data: bytes, context: RequestContext) -> bytes:
        try:
            request: Any = parse(query.request, data)
            required_by = requirement(request, context)
            now = query_time()
            found = query.find(request, now)

            def prepare() -> Prepared:
                size = _page_size(request) if fields.page_size else PAGE_SIZE_MAX
                find = found
                if fields.order_by and request.order_by:
                    find = Find(*find.conditions, order=order_of(request.order_by, query.order_by))
                tokens = KeysetTokens(method, view, request, find)
                after = tokens.decode() if fields.page_token and request.page_token else None
                total = fields.include_total and bool(request.include_total)

                async def read(time_limit: TimeLimit) -> ListRead:
                    bytes_max = min(PAGE_BYTES_MAX, message_max) if fields.page_token else message_max
                    page = await source.find(
                        view,
                        find,
                        limit=size + 1,
                        after=after,
                        total=total,
                        bytes_max=bytes_max,
                        time_limit=time_limit,
                    )
                    if page.rows and len(page.rows[0]) > message_max:
                        raise RowTooLarge(view=view.name, key=page.keys[0], limit=message_max)
                    more = page.cut or len(page.rows) > size
                    if more and not fields.page_token:
                        if page.cut:
                            raise Overloaded(what="bytes in an answer without pages", limit=message_max)
                        raise Overloaded(what="rows in an answer without pages", limit=PAGE_SIZE_MAX)
                    rows = page.rows[:size]
                    next_page = tokens.encode(rows[-1], page.keys[len(rows) - 1]) if more else ""
                    response = _list_response(fields, rows_tag, rows, next_page, page.total)
                    return ListRead(response, page.generation, page.position)

                return Prepared(query.find(request, now + MOMENT), read)

            plain = without_consistency(request, data)
            return await lists.answer(cache, required_by, context, plain, found, prepare)
        except Refusal as refusal:
            raise refuse(refusal, context, tracker, tracked, "") from None

    return answer


def _list_response(fields: _Fields, rows_tag: bytes, rows: list[bytes], next_page: str, total: int | None) -> bytes:
    """Return a list's response, put together from the rows' bytes."""
    parts: list[bytes] = []
    for row in rows:
        parts += (rows_tag, varint(len(row)), row)
    if next_page:
        parts.append(delimited(fields.next_page_token, next_page.encode()))
    if total is not None:  # Written even if it is 0: presence may show that it was requested.
        parts += (varint(fields.total_size << 3), varint(min(total, (1 << 31) - 1)))
    return b"".join(parts)


def _page_size(request: Any) -> int:
    size: int = request.page_size
    if size < 0:
        raise InvalidRequest.of(("page_size", "must not be negative"))
    return min(size or PAGE_SIZE_UNSET, PAGE_SIZE_MAX)
