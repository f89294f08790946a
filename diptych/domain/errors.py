"""Errors of a domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.domain.places import place_of


class DomainError(Exception):
    """A domain that cannot be served. The message names the part of the domain that is wrong, after its place.

    Args:
        message: The sentence.
        location: The author's function that is wrong, or a file and line; the message begins with it.
    """

    def __init__(self, message: str, location: Callable[..., Any] | str = "") -> None:
        self.location = location if isinstance(location, str) else place_of(location)
        super().__init__(f"{self.location}: {message}" if self.location else message)


def one_line(text: str, characters_max: int) -> str:
    """Return a text on one line: each run of white space becomes a space, and a long text is cut."""
    return " ".join(text.split())[:characters_max]


def text_of(error: BaseException) -> str:
    """Return type and message of an exception. An exception whose message fails to render has its type alone."""
    kind = type(error).__name__
    try:
        return f"{kind}: {error}"
    except Exception as failed:
        return f"{kind} (its message fails to render: {type(failed).__name__})"
