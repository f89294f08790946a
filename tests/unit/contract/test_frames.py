"""Frames: events written by hand have the bytes of protobuf."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from diptych.contract.frames import EventTemplate, frame, recorded
from diptych.contract.wire import delimited
from diptych.domain.ids import new_id
from diptych.v1.commands_pb2 import AggregateRef
from diptych.v1.events_pb2 import EventBatch, EventMetadata, RecordedEvent
from shop.v1.user_events_pb2 import UserRegistered

_TEXTS = st.text(max_size=40)
_METADATA = st.builds(
    EventMetadata,
    request_id=_TEXTS,
    correlation_id=_TEXTS,
    causation_id=_TEXTS,
    actor=_TEXTS,
    traceparent=_TEXTS,
    issue_time=st.none() | st.builds(Timestamp, seconds=st.integers(0, 1 << 33), nanos=st.integers(0, 999_999_999)),
)


@given(
    position=st.integers(1, (1 << 63) - 1),
    version=st.integers(1, (1 << 63) - 1),
    id=st.text(min_size=1, max_size=200),
    name=_TEXTS,
    seconds=st.integers(0, 1 << 33),
    metadata=_METADATA,
)
def test_frame_has_the_bytes_of_protobuf(
    position: int, version: int, id: str, name: str, seconds: int, metadata: EventMetadata
) -> None:
    event = UserRegistered(first_name=name)
    event_id = new_id()
    stamp = Timestamp(seconds=seconds)
    expected = RecordedEvent(
        position=position,
        aggregate=AggregateRef(type="user", id=id),
        version=version,
        event_id=event_id,
        record_time=stamp,
        metadata=metadata,
    )
    expected.event.Pack(event, deterministic=True)
    data = metadata.SerializeToString()
    body = EventTemplate("user", UserRegistered.DESCRIPTOR.full_name).body(
        id, version, event_id, delimited(5, stamp.SerializeToString()), event.SerializeToString(), delimited(7, data)
    )
    made = frame(position, body)
    assert made == EventBatch(events=[expected]).SerializeToString(deterministic=True)
    assert recorded(made) == expected
