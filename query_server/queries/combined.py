"""Combined queries: one response that the domain computes from many rows."""

from __future__ import annotations

from typing import Any

from diptych.contract.reasons import Overloaded
from diptych.contract.validation import parse
from diptych.domain.projection import CombinedQuery, View
from diptych.domain.refusal import Refusal
from diptych.server.request_context import RequestContext
from diptych.server.router import UnaryHandler
from query_server.cache.view_cache import ListRead
from query_server.queries.cached_list import MOMENT, CachedLists, Prepared, query_time, without_consistency
from query_server.queries.consistency import refuse, requirement
from query_server.queries.fresh import Reading
from query_server.rows.time_limit import TimeLimit


def combined_handler(query: CombinedQuery, method: str, reading: Reading) -> UnaryHandler:
    """Return the handler of one combined query."""
    source, tracker = reading.source, reading.tracker
    tracked = tracker.projections[query.projection.name]
    rows_max, bytes_max = reading.combined_rows_max, reading.combined_bytes_max
    lists = CachedLists(method, tracked, reading)

    async def answer(data: bytes, context: RequestContext) -> bytes:
        try:
            request = parse(query.request, data)
            required_by = requirement(request, context)
            now = query_time()
            selection = query.select(request, now)
            view: View[Any] = selection.view

            async def read(time_limit: TimeLimit) -> ListRead:
                page = await source.find(
                    view, selection.find, limit=rows_max + 1, bytes_max=bytes_max, time_limit=time_limit
                )
                if page.cut:
                    raise Overloaded(what="bytes of rows in a combined query", limit=bytes_max)
                if len(page.rows) > rows_max:
                    raise Overloaded(what="rows in a combined query", limit=rows_max)

                def combine() -> bytes:
                    rows = [view.row.FromString(row) for row in page.rows]
                    return query.combine(request, rows).SerializeToString(deterministic=True)

                response = await source.run(combine)  # Many rows would block the event loop.
                return ListRead(response, page.generation, page.position)

            def prepare() -> Prepared:
                return Prepared(query.select(request, now + MOMENT).find, read)

            cache, plain = reading.cache.view(view), without_consistency(request, data)
            return await lists.answer(cache, required_by, context, plain, selection.find, prepare)
        except Refusal as refusal:
            raise refuse(refusal, context, tracker, tracked, "") from None

    return answer
