"""The domain's QueryService: every rpc of it, bound to what answers it.

Rows pass through as the bytes that they are stored as; only a combined query parses them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from google.protobuf.message import Message

from diptych.contract.reasons import InvalidRequest, Overloaded, ReadModelBehind, RowNotFound
from diptych.contract.validation import parse
from diptych.contract.wire import delimited, varint
from diptych.domain.loading import LoadedDomain
from diptych.domain.methods import QueryMethod
from diptych.domain.projection import CombinedQuery, FindQuery, GetQuery, View
from diptych.domain.query import Find, repeated_field
from diptych.domain.refusal import FailedPrecondition, Refusal
from diptych.server.request_context import RequestContext
from diptych.server.router import Router, UnaryHandler
from query_server.cache.cache import Cache, ListRead, ViewCache
from query_server.freshness.tracker import Freshness, Read, Tracker
from query_server.queries.consistency import Requirement, of_metadata, refuse, requirement
from query_server.queries.order_by import order_of
from query_server.queries.page_token import KeysetTokens
from query_server.rows.row_reader import RowRead, RowReader

PAGE_SIZE_UNSET = 50
PAGE_SIZE_MAX = 1000
RETRY_SECONDS = 0.1
"""How soon a row that is missing may be there, where the read model is behind."""

_MOMENT = timedelta(microseconds=1)
_KNOWN_MAX = 4096
"""Requests of a `Get` whose keys are remembered by their bytes, and how long each may be."""
_KNOWN_BYTES_MAX = 256
_TAKE_OVER_SECONDS = 1.0


class Reading(NamedTuple):
    """What queries are answered from."""

    reader: RowReader
    freshness: Freshness
    cache: Cache
    wait_seconds: float
    combined_rows_max: int


def bind(router: Router, loaded: LoadedDomain, reading: Reading) -> None:
    """Binds every rpc of the domain's QueryService."""
    for method in loaded.queries.values():
        router.bind_unary(loaded.query_service, method.name, handler(method, loaded.query_service, reading))


def handler(method: QueryMethod, service: str, reading: Reading) -> UnaryHandler:
    """What answers one rpc."""
    match method.query:
        case GetQuery() as query:
            return _get(query, reading)
        case FindQuery() as query:
            return _find(query, f"{service}/{method.name}", reading)
        case CombinedQuery() as query:
            return _combined(query, f"{service}/{method.name}", reading)


def _wanted(asked: Requirement | None, tracker: Tracker, freshness: Freshness) -> tuple[int | None, str]:
    """The position that must be included, and the token presented; None: it takes a question to say."""
    if asked is None:
        # Not before what was told to be applied: after REACHED a plain read shows it, though the feed be late.
        return tracker.position, ""
    if asked.staleness is None:
        return freshness.wanted(asked.tokens, tracker), max(asked.tokens)
    return freshness.head.since(freshness.now - asked.staleness), ""


async def _fresh(
    asked: Requirement,
    wanted: int | None,
    presented: str,
    tracker: Tracker,
    context: RequestContext,
    reading: Reading,
    read: Callable[[], Awaitable[Read]],
    kept: Callable[[int], tuple[Read, int] | None],
) -> tuple[Read, int]:
    """Reads as freshly as asked; gives the read and the position that it is answered at."""
    freshness, own = reading.freshness, asked.staleness is None

    def applied(wanted: int) -> tuple[Read, int] | None:
        # What is kept says nothing about an event that the feed has not told of, or that may be left out.
        return kept(wanted) if not own or tracker.feed_applied(wanted) else None

    until = freshness.now + context.wait_seconds(reading.wait_seconds)
    if wanted is None:
        if asked.staleness is None:
            wanted, _ = await freshness.position_of(asked.tokens, (tracker,), until)
        else:
            wanted = await freshness.position_within(tracker, asked.staleness, until)
        if (found := applied(wanted)) is not None:
            return found
    try:
        return await freshness.read_fresh(tracker, wanted, until, read, applied, own=own)
    except Refusal as refusal:
        raise refuse(refusal, context, freshness, tracker, presented) from None


async def _plain_read(
    told: int, tracker: Tracker, freshness: Freshness, read: Callable[[], Awaitable[Read]]
) -> tuple[Read, int]:
    """Reads what there is, but nothing older than what was told to be applied; gives the position, too."""
    got = await read()
    position = tracker.includes(got.generation, got.position)
    if position < told:
        # Another projector's generation has just taken over, and comes up to there in a moment.
        with suppress(ReadModelBehind, FailedPrecondition):
            return await freshness.read_fresh(tracker, told, freshness.now + _TAKE_OVER_SECONDS, read)
    return got, position


def _applied(wanted: int | None, presented: str, tracker: Tracker) -> bool:
    """Whether the feed has told that a presented token's own event was applied; without a token there is none."""
    return not presented or (wanted is not None and tracker.feed_applied(wanted))


def _get(query: GetQuery, reading: Reading) -> UnaryHandler:
    reader, freshness = reading.reader, reading.freshness
    view, key_of, request_type = query.view, query.key, query.request
    tracker, cache = freshness.trackers[view.projection.name], reading.cache.view(query.view)
    # Parsing and judging the same bytes again says the same, and takes longer than to answer.
    known: dict[bytes, str] = {}

    def parsed(data: bytes) -> tuple[Message, str]:
        request = parse(request_type, data)
        key = key_of(request)
        if len(data) <= _KNOWN_BYTES_MAX and not request.HasField("consistency"):
            if len(known) >= _KNOWN_MAX:
                known.clear()
            known[data] = key
        return request, key

    async def read(key: str) -> RowRead:
        life = cache.projection.life
        got: RowRead = await reader.get(view, key)
        cache.keep_row(key, life, got.row, got.generation, got.position)
        return got

    async def answer(data: bytes, context: RequestContext) -> bytes:
        try:
            if (key := known.get(data)) is None:
                request, key = parsed(data)
                asked = requirement(request, context)
            else:
                asked = of_metadata(context)
            wanted, presented = _wanted(asked, tracker, freshness)
            found = None if wanted is None or not _applied(wanted, presented, tracker) else cache.row(key, wanted)
            if found is not None:
                row, position = found
            elif asked is None:
                got, position = await _plain_read(wanted or 0, tracker, freshness, lambda: read(key))
                row = got.row
            else:

                def kept(wanted: int) -> tuple[RowRead, int] | None:
                    found = cache.row(key, wanted)
                    return None if found is None else (RowRead(found.content, 0, found.position), found.position)

                got, position = await _fresh(
                    asked, wanted, presented, tracker, context, reading, lambda: read(key), kept
                )
                row = got.row
            token = max(freshness.token(position), presented)
            context.token = token
            if row is None:
                row = _missing(query, request_type.FromString(data), key, position, freshness)
            return row
        except Refusal as refusal:
            raise refuse(refusal, context, freshness, tracker, "") from None

    return answer


def _missing(query: GetQuery, request: Message, key: str, position: int, freshness: Freshness) -> bytes:
    """The row of a key that has none; raises the refusal for it."""
    if query.missing is None:
        answer: Refusal | Message = RowNotFound(view=query.view.name, key=key)
    else:
        answer = query.missing(request)
    if not isinstance(answer, Refusal):
        return answer.SerializeToString(deterministic=True)
    head = max(freshness.head.position or 0, position)
    raise answer.with_details(
        applied_position=position,
        head_position=head,
        retry_seconds=RETRY_SECONDS if head > position else None,
    )


class _Fields(NamedTuple):
    """What a list's request and response have of the fields that the engine serves."""

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

        asked = query.request.DESCRIPTOR.fields_by_name
        paged = "page_token" in asked and number("next_page_token") > 0
        return cls(
            "page_size" in asked and paged,
            paged,
            "order_by" in asked,
            "include_total" in asked and number("total_size") > 0,
            rows.number,
            number("next_page_token"),
            number("total_size"),
        )


class _Lists:
    """Answers of one method that are made of many rows, kept as they are sent."""

    def __init__(self, method: str, tracker: Tracker, reading: Reading) -> None:
        self._method = method
        self._tracker = tracker
        self._reading = reading

    async def answer(
        self,
        cache: ViewCache,
        asked: Requirement | None,
        context: RequestContext,
        plain: bytes,
        find: Find,
        prepare: Callable[[], tuple[Find, Callable[[], Awaitable[ListRead]]]],
    ) -> bytes:
        """The response to a request whose bytes, but for its consistency, are `plain`.

        `prepare` is called if it is not kept, and refuses what cannot be read. It gives what would be found a moment
        later, as where that is something else nobody will ask for the same again, and what reads.
        """
        tracker, freshness = self._tracker, self._reading.freshness
        wanted, presented = _wanted(asked, tracker, freshness)
        key: Hashable = (self._method, plain, find.conditions, find.order)
        try:
            found = None
            if wanted is not None and _applied(wanted, presented, tracker):
                found = cache.response(key, wanted)
        except TypeError:  # A condition has a value that cannot be hashed.
            key = None
            found = None
        if found is not None and found.content is not None:
            response, position = found.content, found.position
        else:
            # What is being read was judged for whoever asked first.
            prepared = None if cache.reads(key) else prepare()
            once = key is None or (prepared is not None and prepared[0].conditions != find.conditions)

            def read() -> Awaitable[ListRead]:
                return (prepared or prepare())[1]()

            async def keep() -> ListRead:
                life = cache.projection.life
                got = await read()
                cache.keep_list(key, life, got, len(plain))
                return got

            def share() -> Awaitable[ListRead]:
                # One that is under way may have begun before what is parked was folded, of which the feed tells.
                return cache.shared(key, keep) if _applied(wanted, presented, tracker) else read()

            def kept(wanted: int) -> tuple[ListRead, int] | None:
                found = None if once else cache.response(key, wanted)
                return None if found is None else (ListRead(found.content or b"", 0, found.position), found.position)

            one = read if once else share
            if asked is None:
                got, position = await _plain_read(wanted or 0, tracker, freshness, one)
            else:
                got, position = await _fresh(asked, wanted, presented, tracker, context, self._reading, one, kept)
            response = got.response
        context.token = max(freshness.token(position), presented)
        return response


def _plain(request: Any, data: bytes) -> bytes:
    """A request without what it says about consistency."""
    if not request.HasField("consistency"):
        return data
    plain = type(request)()
    plain.CopyFrom(request)
    plain.ClearField("consistency")
    serialised: bytes = plain.SerializeToString(deterministic=True)
    return serialised


def _find(query: FindQuery, method: str, reading: Reading) -> UnaryHandler:
    reader, freshness = reading.reader, reading.freshness
    view, fields = query.view, _Fields.of(query)
    tracker, cache = freshness.trackers[view.projection.name], reading.cache.view(view)
    rows_tag = varint(fields.rows << 3 | 2)
    lists = _Lists(method, tracker, reading)

    async def answer(data: bytes, context: RequestContext) -> bytes:
        try:
            request: Any = parse(query.request, data)
            asked = requirement(request, context)
            now = datetime.now(UTC)
            found = query.find(request, now)

            def prepare() -> tuple[Find, Callable[[], Awaitable[ListRead]]]:
                size = _page_size(request) if fields.page_size else PAGE_SIZE_MAX
                find = found
                if fields.order_by and request.order_by:
                    find = _ordered(find, order_of(request.order_by, query.order_by))
                tokens = KeysetTokens(method, view, request, find)
                after = tokens.decode() if fields.page_token and request.page_token else None
                total = fields.include_total and bool(request.include_total)

                async def read() -> ListRead:
                    got = await reader.find(view, find, limit=size + 1, after=after, total=total)
                    more = len(got.rows) > size
                    if more and not fields.page_token:
                        raise Overloaded(what="rows in an answer without pages", limit=PAGE_SIZE_MAX)
                    next_page = tokens.encode(got.rows[size - 1], got.keys[size - 1]) if more else ""
                    response = _list_response(fields, rows_tag, got.rows[:size], next_page, got.total)
                    return ListRead(response, got.generation, got.position)

                return query.find(request, now + _MOMENT), read

            return await lists.answer(cache, asked, context, _plain(request, data), found, prepare)
        except Refusal as refusal:
            raise refuse(refusal, context, freshness, tracker, "") from None

    return answer


def _list_response(fields: _Fields, rows_tag: bytes, rows: list[bytes], next_page: str, total: int | None) -> bytes:
    """A list's response, put together from rows as they are."""
    parts: list[bytes] = []
    for row in rows:
        parts += (rows_tag, varint(len(row)), row)
    if next_page:
        parts.append(delimited(fields.next_page_token, next_page.encode()))
    if total is not None:  # Told even if it is 0, as the field may tell apart whether it was asked for.
        parts += (varint(fields.total_size << 3), varint(min(total, (1 << 31) - 1)))
    return b"".join(parts)


def _page_size(request: Any) -> int:
    size: int = request.page_size
    if size < 0:
        raise InvalidRequest.of(("page_size", "must not be negative"))
    return min(size or PAGE_SIZE_UNSET, PAGE_SIZE_MAX)


def _ordered(find: Find, order: list[Any]) -> Find:
    return Find(*find.conditions, order=order)


def _combined(query: CombinedQuery, method: str, reading: Reading) -> UnaryHandler:
    reader, freshness = reading.reader, reading.freshness
    tracker = freshness.trackers[query.projection.name]
    limit = reading.combined_rows_max
    lists = _Lists(method, tracker, reading)

    async def answer(data: bytes, context: RequestContext) -> bytes:
        try:
            request = parse(query.request, data)
            asked = requirement(request, context)
            now = datetime.now(UTC)
            selection = query.select(request, now)
            view: View[Any] = selection.view

            async def read() -> ListRead:
                got = await reader.find(view, selection.find, limit=limit + 1)
                if len(got.rows) > limit:
                    raise Overloaded(what="rows in a combined query", limit=limit)

                def combine() -> bytes:
                    rows = [view.row.FromString(row) for row in got.rows]
                    return query.combine(request, rows).SerializeToString(deterministic=True)

                response = await reader.run(combine)  # Many rows would hold up the loop.
                return ListRead(response, got.generation, got.position)

            def prepare() -> tuple[Find, Callable[[], Awaitable[ListRead]]]:
                return query.select(request, now + _MOMENT).find, read

            cache, plain = reading.cache.view(view), _plain(request, data)
            return await lists.answer(cache, asked, context, plain, selection.find, prepare)
        except Refusal as refusal:
            raise refuse(refusal, context, freshness, tracker, "") from None

    return answer
