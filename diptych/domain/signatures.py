"""Parameters of an author's functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def takes_place(function: Callable[..., Any]) -> bool:
    """Return True for a key function of two parameters: the event and its place."""
    return _required(function) == 2


def _required(function: Callable[..., Any]) -> int:
    """Return the number of positional parameters without a default; -1 if Python does not know them."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return -1
    return sum(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in parameters
    )
