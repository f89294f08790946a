"""Clock and log of a test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message

from diptych.domain.aggregate import AggregateRef
from diptych.v1.events_pb2 import RecordedEvent

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
"""The default time of a decision or a query."""

LOG_START = datetime(2026, 1, 1, tzinfo=UTC)
"""The start of the log: the event at position N was recorded N seconds later."""


def recorded(
    event: Message, *, aggregate: AggregateRef | None = None, version: int = 0, time: datetime | None = None
) -> RecordedEvent:
    """Return an event as it stands in the log, for a test that needs more than the event itself.

    Args:
        event: The event.
        aggregate: The aggregate that recorded it. None: type and id come from the event's first field, as
            `copy_id`.
        version: The aggregate's version after the event. 0: the number of its events so far, this one included.
        time: The time of the commit. None: by the position, see `LOG_START`.
    """
    record = RecordedEvent(version=version)
    if aggregate is not None:
        record.aggregate.type, record.aggregate.id = aggregate
    if time is not None:
        record.record_time.FromDatetime(time)
    record.event.Pack(event, deterministic=True)
    return record


def log_of(*events: Message) -> list[RecordedEvent]:
    """Return a log of these events, from position 1.

    Args:
        *events: Events, bare or made by `recorded`.
    """
    log: list[RecordedEvent] = []
    versions: dict[tuple[str, str], int] = {}
    for position, event in enumerate(events, 1):
        record = RecordedEvent()
        if isinstance(event, RecordedEvent):
            record.CopyFrom(event)
        else:
            record.CopyFrom(recorded(event))
            field = event.DESCRIPTOR.fields[0].name
            record.aggregate.type, record.aggregate.id = field.removesuffix("_id"), str(getattr(event, field))
        stream = (record.aggregate.type, record.aggregate.id)
        record.version = versions[stream] = record.version or versions.get(stream, 0) + 1
        record.position = position
        record.event_id = f"event-{position}"
        if not record.HasField("record_time"):
            record.record_time.FromDatetime(LOG_START + timedelta(seconds=position))
        log.append(record)
    return log
