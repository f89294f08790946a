"""Parked pages: pages of parked streams for operators."""

from __future__ import annotations

from collections.abc import Sequence

from diptych.contract.page_token import PageTokens
from diptych.contract.reasons import PageTokenInvalid
from diptych.storage.read_store import ParkedStream
from diptych.v1 import projections_pb2
from diptych.v1.commands_pb2 import AggregateRef
from diptych.v1.events_pb2 import RecordedEvent

PAGE_SIZE_UNSET = 50
"""Streams on a page if the request has no page size."""

PAGE_SIZE_MAX = 1000
"""Streams on a page at most."""

_METHOD = "diptych.v1.ProjectionService/ListParked"


def page_of(request: projections_pb2.ListParkedRequest) -> tuple[int, int]:
    """Return the position after which the requested page begins, and its size.

    Raises:
        PageTokenInvalid: The page token is malformed, or belongs to another query.
    """
    after = _position(request) if request.page_token else 0
    return after, min(request.page_size or PAGE_SIZE_UNSET, PAGE_SIZE_MAX)


def response_of(
    request: projections_pb2.ListParkedRequest, page: Sequence[ParkedStream], *, more: bool
) -> projections_pb2.ListParkedResponse:
    """Return a page as the response to a request.

    Args:
        request: The request.
        page: The parked streams.
        more: True if the response needs a token for a next page.
    """
    return projections_pb2.ListParkedResponse(
        parked=[_message(request.projection, stream) for stream in page],
        next_page_token=PageTokens(_METHOD, request).encode((page[-1].first_position,)) if more else "",
    )


def _message(projection: str, stream: ParkedStream) -> projections_pb2.ParkedStream:
    message = projections_pb2.ParkedStream(
        projection=projection,
        aggregate=AggregateRef(type=stream.aggregate.type, id=stream.aggregate.id),
        first_position=stream.first_position,
        events=stream.events,
        error=stream.error,
        attempts=stream.attempts,
        event=RecordedEvent.FromString(stream.event),
        trace=stream.trace,
    )
    message.park_time.FromMicroseconds(stream.park_time)
    if stream.discard_time is not None:
        message.discard_time.FromMicroseconds(stream.discard_time)
    return message


def _position(request: projections_pb2.ListParkedRequest) -> int:
    (position,) = PageTokens(_METHOD, request).decode(request.page_token, (int,))
    assert isinstance(position, int)
    if position < 1:
        raise PageTokenInvalid
    return position
