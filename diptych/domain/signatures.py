"""Parameters of an author's functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def takes_place(function: Callable[..., Any]) -> bool:
    """Return True for a key function of two parameters: the event and its place."""
    return _required(function) == 2


def signature_fault(function: Callable[..., Any], *parameters: str) -> str:
    """Return the fault of a handler that the engine calls with these arguments; empty if there is none.

    Args:
        function: The handler.
        *parameters: Names of the arguments, for the sentence.
    """
    function = inspect.unwrap(function)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "is a coroutine function; handlers are pure functions, declared by `def`"
    if inspect.isgeneratorfunction(function):
        return "is a generator function, as it has a `yield`; return a list"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Python does not know the parameters.
        return ""
    try:
        signature.bind(*parameters)
    except TypeError:
        return f"takes {signature.replace(return_annotation=signature.empty)}; declare it as ({', '.join(parameters)})"
    return ""


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
