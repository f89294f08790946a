"""Errors of a domain."""

from __future__ import annotations


class DomainError(Exception):
    """A domain that cannot be served. The message names the part of the domain that is wrong."""


def text_of(error: BaseException) -> str:
    """Return type and message of an exception. An exception whose message fails to render has its type alone."""
    kind = type(error).__name__
    try:
        return f"{kind}: {error}"
    except Exception as failed:
        return f"{kind} (its message fails to render: {type(failed).__name__})"
