"""Cached list answers: responses made of many rows, stored as the bytes that are sent.

1. Look the response up under the request's bytes and the conditions that they lead to.
2. On a miss, prepare the read, which validates the request.
3. Read once for all calls that ask for the same response, unless the caller's token needs a read of its own.
4. Store the response, unless the same request leads to other conditions a moment later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from diptych.domain.query import Find
from diptych.server.request_context import RequestContext
from query_server.cache.view_cache import ListRead, ViewCache
from query_server.freshness.tracked_projection import TrackedProjection
from query_server.queries.consistency import Requirement
from query_server.queries.fresh import Reading, may_be_cached, read_fresh, read_plain, required_position
from query_server.rows.time_limit import TimeLimit

MOMENT = timedelta(microseconds=1)
"""Step in time after which a request whose conditions depend on the time leads to other conditions."""


class Prepared(NamedTuple):
    """A validated request: the find that it leads to a moment later, and the read of its response in time."""

    find_later: Find
    read: Callable[[TimeLimit], Awaitable[ListRead]]


class CachedLists:
    """Answers of one method that are made of many rows."""

    def __init__(self, method: str, tracked: TrackedProjection, reading: Reading) -> None:
        self._method = method
        self._tracked = tracked
        self._reading = reading

    async def answer(
        self,
        cache: ViewCache,
        requirement: Requirement | None,
        context: RequestContext,
        plain: bytes,
        find: Find,
        prepare: Callable[[], Prepared],
    ) -> bytes:
        """Return the response to a request. Cancelling it leaves a read that others share running.

        Args:
            cache: Cache of the view that is read.
            requirement: Required freshness.
            context: The call.
            plain: The request's bytes without its field `consistency`.
            find: The find that the request leads to now.
            prepare: Validates the request. Called on a miss.

        Raises:
            Refusal: The request is not valid, or cannot be answered freshly enough in time, or at all.
        """
        tracked, reading = self._tracked, self._reading
        required, presented = required_position(requirement, tracked, reading)
        key: Hashable = (self._method, plain, find.conditions, find.order)
        hit = None
        try:
            if required is not None and may_be_cached(required, presented, tracked):
                hit = cache.response(key, required)
        except TypeError:  # A condition has a value that cannot be hashed.
            key = None
        if hit is not None and hit.content is not None:
            response, position = hit.content, hit.position
        else:
            # A request whose read is under way was validated by its first caller.
            prepared = None if cache.is_reading(key) else prepare()
            uncacheable = key is None or (prepared is not None and prepared.find_later.conditions != find.conditions)

            def time_limit() -> TimeLimit:
                return TimeLimit(context.wait_seconds(reading.wait_seconds), reading.wait_seconds)

            def read(limit: TimeLimit | None = None) -> Awaitable[ListRead]:
                return (prepared or prepare()).read(limit or time_limit())

            async def read_and_store(limit: TimeLimit) -> ListRead:
                cache_epoch = cache.changes.cache_epoch
                result = await read(limit)
                cache.store_list(key, cache_epoch, result, len(plain))
                return result

            def read_shared() -> Awaitable[ListRead]:
                # A read under way may have begun before a parked event was folded, which the feed reports.
                if not may_be_cached(required, presented, tracked):
                    return read()
                limit = time_limit()
                return cache.read_once(key, lambda: read_and_store(limit), limit)

            def cached(position: int) -> tuple[ListRead, int] | None:
                hit = None if uncacheable else cache.response(key, position)
                return None if hit is None else (ListRead(hit.content or b"", 0, hit.position), hit.position)

            chosen = read if uncacheable else read_shared
            if requirement is None:
                result, position = await read_plain(required or 0, tracked, reading, chosen)
            else:
                result, position = await read_fresh(
                    requirement, required, presented, tracked, context, reading, chosen, cached
                )
            response = result.response
        tracked.progress.acknowledge(position)
        context.token = max(reading.tracker.head.token(position), presented)
        return response


def without_consistency(request: Any, data: bytes) -> bytes:
    """Return a request's bytes without its field `consistency`."""
    if not request.HasField("consistency"):
        return data
    plain = type(request)()
    plain.CopyFrom(request)
    plain.ClearField("consistency")
    serialised: bytes = plain.SerializeToString(deterministic=True)
    return serialised


def query_time() -> datetime:
    """Return the time that a domain's finders and selections are given."""
    return datetime.now(UTC)
