"""Errors of calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from diptych.contract.token import TOKEN_KEY

_STATUS_DETAILS = "grpc-status-details-bin"
_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class Violation(NamedTuple):
    """A rule of the contract that a request breaks."""

    field: str
    """The full path of the field, such as `items[0].quantity`."""
    description: str
    """The rule, as a sentence."""


class CallRefused(Exception):
    """A call that ended with an error.

    Args:
        status: The status with its details.
        token: The token of the error's trailers; empty without one.
    """

    def __init__(self, status: status_pb2.Status, token: str = "") -> None:
        super().__init__(status.message)
        self.code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        """The gRPC status."""
        self.message: str = status.message
        """A sentence for people."""
        self.reason = ""
        """The reason, such as EMAIL_TAKEN; empty if gRPC itself made the error."""
        self.domain = ""
        """The owner of the reason: `diptych.v1` or the domain's package."""
        self.metadata: dict[str, str] = {}
        """The values that belong to the reason."""
        self.violations: list[Violation] = []
        """The rules of the contract that the request breaks."""
        self.retry_seconds: float | None = None
        """Seconds after which a retry makes sense; None if the server gave no delay."""
        self.token = token
        """The token of the log position at which the server decided; empty without one."""
        for detail in status.details:
            self._read(detail)

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> CallRefused:
        """Return the error of a call that gRPC reports."""
        status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
        trailers = error.trailing_metadata() or ()
        for key, value in trailers:
            if key == _STATUS_DETAILS and isinstance(value, bytes):
                status = status_pb2.Status.FromString(value)
        return cls(status, token_in(trailers))

    def _read(self, detail: Any) -> None:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            self.reason, self.domain, self.metadata = info.reason, info.domain, dict(info.metadata)
        elif detail.Unpack(bad):
            self.violations += [Violation(each.field, each.description) for each in bad.field_violations]
        elif detail.Unpack(retry):
            self.retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9

    def __str__(self) -> str:
        return f"{self.code.name}{f' {self.reason}' if self.reason else ''}: {self.message}"

    def __repr__(self) -> str:
        return f"CallRefused({self})"


def token_in(metadata: Any) -> str:
    """Return the greatest token in trailers; empty without one."""
    return max((value for key, value in metadata or () if key == TOKEN_KEY), default="")


def has_details(error: grpc.aio.AioRpcError) -> bool:
    """Return True if a server of ours made the error, and not gRPC itself."""
    return any(key == _STATUS_DETAILS for key, _ in error.trailing_metadata() or ())
