"""Statuses: a refusal becomes a `google.rpc.Status` that is short enough for every client.

gRPC clients discard an answer whose trailers exceed 8 KiB, and report nothing of it. `to_status` therefore shortens
long values and messages, and drops the last violations of a long list. `ErrorInfo` and the message still give the
number of violations.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.any_pb2 import Any as PackedMessage
from google.rpc import error_details_pb2, status_pb2

from diptych.contract.token import TOKEN_KEY
from diptych.domain.refusal import Refusal
from diptych.server.request_context import Trailers

_DETAILS_KEY = "grpc-status-details-bin"
_MESSAGE_BYTES_MAX = 1000
_VALUE_BYTES_MAX = 300
_DETAILS_BYTES_MAX = 4000
"""Bytes of one status, its message included. The statuses of 1,000 outcomes then fit into a message of 4 MiB."""
_OVERHEAD_BYTES_MAX = 100
_VIOLATION_OVERHEAD_BYTES = 4
_ESCAPED_BYTES_MAX = 12
"""Bytes that gRPC writes for one character at most: three for each of its four bytes in UTF-8."""


def to_status(refusal: Refusal, domain: str) -> status_pb2.Status:
    """Return the status of a refusal, shortened to the size that clients accept.

    Args:
        refusal: The refusal.
        domain: `ErrorInfo.domain` of refusals that are not the engine's own.
    """
    return shorten(refusal.to_status(domain))


def trailers_of(token: str, status: status_pb2.Status | None = None) -> Trailers:
    """Return the trailers of an answer, or of a refusal if a status is given."""
    trailers = ((TOKEN_KEY, token),) if token else ()
    return trailers if status is None else ((_DETAILS_KEY, status.SerializeToString()), *trailers)


def retry_delay(trailers: Iterable[tuple[str, str | bytes]] | None) -> float:
    """Return the seconds that the trailers of a refusal name for a retry; 0 without them."""
    delay = 0.0
    for key, value in trailers or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            info = error_details_pb2.RetryInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    delay = max(delay, info.retry_delay.ToNanoseconds() / 1e9)
    return delay


def shorten(status: status_pb2.Status) -> status_pb2.Status:
    """Shorten a status in place to the size that clients accept, and return it."""
    status.message = _shorten_text(status.message, _MESSAGE_BYTES_MAX)
    if status.ByteSize() <= _DETAILS_BYTES_MAX:
        return status
    for detail in status.details:
        _shorten_metadata(detail)
    for detail in status.details:
        # Violations take the room that the other details leave, so they come last.
        _drop_violations(detail, _DETAILS_BYTES_MAX - status.ByteSize() + detail.ByteSize() - _OVERHEAD_BYTES_MAX)
    return status


def _shorten_metadata(detail: PackedMessage) -> None:
    """Shorten every value of a packed `ErrorInfo`."""
    info = error_details_pb2.ErrorInfo()
    if detail.Unpack(info):
        for key, value in info.metadata.items():
            info.metadata[key] = _shorten_text(value, _VALUE_BYTES_MAX)
        detail.Pack(info)


def _drop_violations(detail: PackedMessage, bytes_max: int) -> None:
    """Keep the first violations of a packed `BadRequest` that fit into `bytes_max`."""
    bad = error_details_pb2.BadRequest()
    if not detail.Unpack(bad):
        return
    violations = list(bad.field_violations)
    bad.ClearField("field_violations")
    for violation in violations:
        violation.field = _shorten_text(violation.field, _VALUE_BYTES_MAX)
        violation.description = _shorten_text(violation.description, _VALUE_BYTES_MAX)
        bytes_max -= violation.ByteSize() + _VIOLATION_OVERHEAD_BYTES
        if bytes_max < 0:
            break
        bad.field_violations.append(violation)
    detail.Pack(bad)


def _shorten_text(text: str, bytes_max: int) -> str:
    """Return the text, cut so that gRPC writes at most `bytes_max` bytes for it.

    gRPC escapes each byte that is not visible ASCII with three bytes.
    """
    if len(text) * _ESCAPED_BYTES_MAX <= bytes_max:
        return text
    size = 0
    for index, character in enumerate(text):
        size += 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if size > bytes_max:
            return text[: max(0, index - 3)] + "..."
    return text
