"""A call of a transport without a network, for tests of handlers and of the router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.rpc import error_details_pb2, status_pb2

from diptych.server.request_context import Trailers


class TransportCallStub:
    """A call that keeps its outcome.

    Args:
        metadata: Pairs of key and value.
        seconds: Seconds until the deadline; None: no deadline.
    """

    def __init__(self, *metadata: tuple[str, str | bytes], seconds: float | None = None) -> None:
        self._metadata = metadata
        self._seconds = seconds
        self.metadata_reads = 0
        self.code = 0
        self.details = ""
        self.trailers: dict[str, str | bytes] = {}
        self.callbacks: list[Callable[[Any], None]] = []

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        self.metadata_reads += 1
        return self._metadata

    def time_remaining(self) -> float | None:
        return self._seconds

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def set_trailing_metadata(self, trailing_metadata: Trailers) -> None:
        self.trailers = dict(trailing_metadata)

    def set_code(self, code: int) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    @property
    def reason(self) -> str:
        """Reason of the refusal in the trailers."""
        data = self.trailers["grpc-status-details-bin"]
        assert isinstance(data, bytes)
        info = error_details_pb2.ErrorInfo()
        assert status_pb2.Status.FromString(data).details[0].Unpack(info)
        return info.reason
