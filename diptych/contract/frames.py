"""Frames: recorded events as the bytes that are stored and streamed.

A frame is a `diptych.v1.RecordedEvent` as one element of field 1 of a list: tag, length, message. It is put
together by hand, since making the nested messages costs more than all else in a commit; a test compares it with
what protobuf makes.
"""

from __future__ import annotations

from diptych.contract.wire import delimited, integer, varint
from diptych.v1.events_pb2 import EventBatch, RecordedEvent

_TYPE_URL_PREFIX = "type.googleapis.com/"


class EventTemplate:
    """What is the same in every event of one type by one aggregate type."""

    __slots__ = ("_aggregate_type", "_type_url")

    def __init__(self, aggregate_type: str, event_type: str) -> None:
        self._aggregate_type = delimited(1, aggregate_type.encode())
        self._type_url = delimited(1, (_TYPE_URL_PREFIX + event_type).encode())

    def body(
        self,
        aggregate_id: str,
        version: int,
        event_id: str,
        record_time: bytes,
        event: bytes,
        metadata: bytes,
    ) -> bytes:
        """A `RecordedEvent` without its position. `record_time` and `metadata` are whole fields, 5 and 7."""
        reference = self._aggregate_type + delimited(2, aggregate_id.encode())
        payload = self._type_url + delimited(2, event) if event else self._type_url
        return b"".join(
            (
                delimited(2, reference),
                integer(3, version),
                delimited(4, event_id.encode()),
                record_time,
                delimited(6, payload),
                metadata,
            )
        )


def frame(position: int, body: bytes) -> bytes:
    """The frame of a recorded event."""
    prefix = b"\x08" + varint(position)
    return b"\x0a" + varint(len(prefix) + len(body)) + prefix + body


def recorded(one: bytes) -> RecordedEvent:
    """The event in a frame."""
    return EventBatch.FromString(one).events[0]
