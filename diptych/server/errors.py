"""Errors of the server shell: a failed start, and an unexpected exception in a handler."""

from __future__ import annotations

import structlog

from diptych.contract.reasons import InternalError

_log = structlog.get_logger(__name__)


class StartError(Exception):
    """A server cannot start. The message gives the cause and what to do."""


def internal_error(error: BaseException, request_id: str, **fields: str) -> InternalError:
    """Log an unexpected exception with its trace, and return the refusal to send instead.

    Args:
        error: The exception.
        request_id: The caller's request id; empty if unknown.
        fields: Log fields that name the place, such as `method`.
    """
    _log.error("unexpected exception", request_id=request_id, exc_info=error, **fields)
    return InternalError(request_id=request_id)
