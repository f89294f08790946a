"""Pages of parked streams, as operators are shown them."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Sequence

from diptych.contract.reasons import PageTokenInvalid
from diptych.v1 import projections_pb2
from diptych.v1.commands_pb2 import AggregateRef
from diptych.v1.events_pb2 import RecordedEvent
from projector.store.parked_streams import ParkedStream

PAGE_SIZE_UNSET = 50
PAGE_SIZE_MAX = 1000

_TOKEN = struct.Struct(">8sq")


def asked(request: projections_pb2.ListParkedRequest) -> tuple[int, int]:
    """The position after which a page begins, and how many streams it may have; raises `PageTokenInvalid`."""
    after = _read_page_token(request.page_token, _query(request)) if request.page_token else 0
    return after, min(request.page_size or PAGE_SIZE_UNSET, PAGE_SIZE_MAX)


def told(
    request: projections_pb2.ListParkedRequest, page: Sequence[ParkedStream], *, more: bool
) -> projections_pb2.ListParkedResponse:
    """A page as the answer to the request."""
    return projections_pb2.ListParkedResponse(
        parked=[_message(request.projection, stream) for stream in page],
        next_page_token=_page_token(_query(request), page[-1].first_position) if more else "",
    )


def _query(request: projections_pb2.ListParkedRequest) -> bytes:
    """A digest of what is listed, whatever the page."""
    query = f"{request.projection}\n{request.include_discarded}".encode()
    return hashlib.blake2b(query, digest_size=8, person=b"ListParked").digest()


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


def _page_token(query: bytes, position: int) -> str:
    return base64.urlsafe_b64encode(_TOKEN.pack(query, position)).decode()


def _read_page_token(token: str, query: bytes) -> int:
    try:
        of, position = _TOKEN.unpack(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
    except (ValueError, struct.error):
        raise PageTokenInvalid from None
    if of != query or position < 1:
        raise PageTokenInvalid
    return int(position)
