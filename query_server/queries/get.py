"""Get queries: one row by its key, out of the cache or the store, as the bytes that it is stored as."""

from __future__ import annotations

from google.protobuf.message import Message

from diptych.contract.reasons import RowNotFound, RowTooLarge
from diptych.contract.validation import parse
from diptych.domain.projection import GetQuery
from diptych.domain.refusal import Refusal
from diptych.server.request_context import RequestContext
from diptych.server.router import UnaryHandler
from query_server.freshness.tracker import FreshnessTracker
from query_server.queries.consistency import refuse, requirement, requirement_of_metadata
from query_server.queries.fresh import Reading, may_be_cached, read_fresh, read_plain, required_position
from query_server.rows.row_source import RowRead

RETRY_SECONDS = 0.1
"""Retry delay for a missing row while the read model is behind."""

_PARSED_MAX = 4096
_PARSED_BYTES_MAX = 256
"""Requests whose keys are remembered by their bytes, and the greatest length of each."""


def get_handler(query: GetQuery, reading: Reading) -> UnaryHandler:
    """Return the handler of one get query."""
    source, tracker = reading.source, reading.tracker
    view, key_of, request_type = query.view, query.key, query.request
    tracked, cache = tracker.projections[view.projection.name], reading.cache.view(view)
    progress, message_max = tracked.progress, reading.message_bytes_max
    # Parsing and validating the same bytes again gives the same key, and takes longer than answering.
    parsed: dict[bytes, str] = {}

    def parse_request(data: bytes) -> tuple[Message, str]:
        request = parse(request_type, data)
        key = key_of(request)
        if len(data) <= _PARSED_BYTES_MAX and not request.HasField("consistency"):
            if len(parsed) >= _PARSED_MAX:
                parsed.clear()
            parsed[data] = key
        return request, key

    async def read(key: str) -> RowRead:
        cache_epoch = cache.changes.cache_epoch
        result: RowRead = await source.get(view, key)
        cache.store_row(key, cache_epoch, result.row, result.generation, result.position)
        return result

    async def answer(data: bytes, context: RequestContext) -> bytes:
        try:
            if (key := parsed.get(data)) is None:
                request, key = parse_request(data)
                required_by = requirement(request, context)
            else:
                required_by = requirement_of_metadata(context)
            required, presented = required_position(required_by, tracked, reading)
            hit = None
            if required is not None and may_be_cached(required, presented, tracked):
                hit = cache.row(key, required)
            if hit is not None:
                row, position = hit
            elif required_by is None:
                result, position = await read_plain(required or 0, tracked, reading, lambda: read(key))
                row = result.row
            else:

                def cached(position: int) -> tuple[RowRead, int] | None:
                    hit = cache.row(key, position)
                    return None if hit is None else (RowRead(hit.content, 0, hit.position), hit.position)

                result, position = await read_fresh(
                    required_by, required, presented, tracked, context, reading, lambda: read(key), cached
                )
                row = result.row
            if position > progress.plain_required:
                progress.acknowledge(position)
            context.token = max(tracker.head.token(position), presented)
            if row is None:
                row = _missing_row(query, request_type.FromString(data), key, position, tracker)
            if len(row) > message_max:
                raise RowTooLarge(view=view.name, key=key, limit=message_max)
            return row
        except Refusal as refusal:
            raise refuse(refusal, context, tracker, tracked, "") from None

    return answer


def _missing_row(query: GetQuery, request: Message, key: str, position: int, tracker: FreshnessTracker) -> bytes:
    """Return the domain's answer for a key without a row, or raise the refusal for it."""
    if query.missing is None:
        answer: Refusal | Message = RowNotFound(view=query.view.name, key=key)
    else:
        answer = query.missing(request)
    if not isinstance(answer, Refusal):
        return answer.SerializeToString(deterministic=True)
    head = max(tracker.head.known_position, position)
    raise answer.with_details(
        applied_position=position,
        head_position=head,
        retry_seconds=RETRY_SECONDS if head > position else None,
    )
