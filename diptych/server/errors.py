"""Errors of the server shell: a failed start, and an unexpected exception in a handler."""

from __future__ import annotations

import structlog

from diptych.contract.reasons import InternalError
from diptych.domain.ids import new_id
from diptych.domain.refusal import Refusal

_log = structlog.get_logger(__name__)


class StartError(Exception):
    """A server cannot start. The message gives the cause and what to do."""


def internal_error(error: BaseException, request_id: str, **fields: str) -> InternalError:
    """Log an unexpected exception with its trace, and return the refusal to send instead.

    Args:
        error: The exception.
        request_id: The caller's request id. Empty: the log line and the refusal share a new one.
        fields: Log fields that name the place, such as `method`.
    """
    request_id = request_id or new_id()
    _log.error("unexpected exception", request_id=request_id, exc_info=error, **fields)
    return InternalError(request_id=request_id)


def rendered(refusal: Refusal, request_id: str) -> tuple[Refusal, str, dict[str, str]]:
    """Return a refusal with its message and metadata. One that fails to render is logged, and becomes INTERNAL.

    Args:
        refusal: The refusal.
        request_id: The caller's request id; empty if unknown.
    """
    try:
        return refusal, str(refusal), refusal.metadata
    except Exception as error:
        internal = internal_error(error, request_id, refusal=type(refusal).__name__)
        return internal, str(internal), internal.metadata
