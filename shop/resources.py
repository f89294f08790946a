"""What all rows have that stand for one aggregate."""

from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from diptych import Recorded


class Resource(Protocol):
    """A row with the version of its aggregate, and the time of its last change."""

    version: int

    @property
    def update_time(self) -> Timestamp:
        """When the aggregate last changed."""
        ...


def mark_changed(row: Resource, at: Recorded) -> None:
    """Puts the version and the time of the event into the row."""
    row.version = at.version
    row.update_time.CopyFrom(at.record_time)
