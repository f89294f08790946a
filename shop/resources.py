"""Fields of every row that describes one aggregate."""

from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from diptych import Recorded


class Resource(Protocol):
    """A row with the version of its aggregate and the time of its last change."""

    version: int

    @property
    def update_time(self) -> Timestamp:
        """Time of the aggregate's last change."""
        ...


def mark_changed(row: Resource, at: Recorded) -> None:
    """Set the version and the time of the event in the row."""
    row.version = at.version
    row.update_time.CopyFrom(at.record_time)
