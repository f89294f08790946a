"""Frames: recorded events as the bytes that are stored and streamed.

A frame is a `diptych.v1.RecordedEvent` as one element of field 1 of a list: tag, length, message. It is written by
hand, because nested protobuf messages would cost more than the rest of a commit. A test compares it with protobuf's
own bytes.
"""

from __future__ import annotations

from diptych.contract.wire import delimited, integer, varint
from diptych.v1.events_pb2 import EventBatch, RecordedEvent

_TYPE_URL_PREFIX = "type.googleapis.com/"


class EventTemplate:
    """The fields that are the same in every event of one type by one aggregate type."""

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
        """Return the bytes of a `RecordedEvent` without its position.

        Args:
            aggregate_id: Id of the aggregate.
            version: Version of the aggregate after the event, from 1.
            event_id: Id of the event.
            record_time: The whole field 5.
            event: Bytes of the event's message.
            metadata: The whole field 7; empty without metadata.
        """
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
    """Return the frame of a recorded event: its position, and its body from `EventTemplate.body`."""
    prefix = b"\x08" + varint(position)
    return b"\x0a" + varint(len(prefix) + len(body)) + prefix + body


def recorded(one: bytes) -> RecordedEvent:
    """Return the event in a frame."""
    return EventBatch.FromString(one).events[0]
