"""Checks of the results of an author's handlers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from diptych.domain.outputs import After, Call, Send
from diptych.domain.places import named


def checked_events(what: str, decide: Callable[..., Any], events: Any) -> Sequence[Message]:
    """Return the events of a decider, if they are a sequence of messages.

    Args:
        what: Subject of the error, as "The decider of library.v1.BorrowCopyRequest".
        decide: The decider.
        events: Its result.

    Raises:
        TypeError: The result is something else. The error names the decider and its place.
    """
    for event in _sequence(what, decide, events, "events"):
        if not isinstance(event, Message):
            raise TypeError(
                f"{what}, {named(decide)}, returned a sequence with {_described(event)}; return a list of event "
                "messages."
            )
    checked: Sequence[Message] = events
    return checked


def checked_step(what: str, handle: Callable[..., Any], step: Any) -> Sequence[Any]:
    """Return the step of a process's handler, if it is a sequence of messages and outputs.

    Args:
        what: Subject of the error, as "Process reservation on library.v1.CopyReturned".
        handle: The handler.
        step: Its result.

    Raises:
        TypeError: The result is something else. The error names the handler and its place.
    """
    for item in _sequence(what, handle, step, "events and outputs"):
        if not isinstance(item, Message | Send | Call | After):
            raise TypeError(
                f"{what}, {named(handle)}, returned a sequence with {_described(item)}; return a list of events, "
                "send(...), call(...) and after(...)."
            )
    checked: Sequence[Any] = step
    return checked


def _sequence(what: str, handle: Callable[..., Any], result: Any, items: str) -> Sequence[Any]:
    if isinstance(result, list | tuple) or (isinstance(result, Sequence) and not isinstance(result, str | bytes)):
        return result
    raise TypeError(
        f"{what}, {named(handle)}, returned {_described(result)}; return a list of {items}, [] if there is nothing to "
        "do."
    )


def _described(value: Any) -> str:
    """Return a description of a value of a wrong type."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Message):
        return f"the message {value.DESCRIPTOR.full_name}"
    return with_article(type(value).__name__)


def wrong_state(aggregate: str, event: Message, evolve: Callable[..., Any], kind: type[Any], state: Any) -> TypeError:
    """Return the error for an evolver that returned no state of its aggregate.

    Args:
        aggregate: The aggregate's type.
        event: The event.
        evolve: The evolver.
        kind: The type of the state.
        state: The result of the evolver.
    """
    return TypeError(
        f"The evolver of {event.DESCRIPTOR.full_name}, {named(evolve)}, returned {_described(state)}; return the next "
        f"state of {aggregate}, of type {kind.__name__}."
    )


def wrong_row(view: str, event: Message, fold: Callable[..., Any], kind: type[Message], row: Any) -> TypeError:
    """Return the error for a fold that returned no row of its view.

    Args:
        view: The name of the view.
        event: The event.
        fold: The fold.
        kind: The type of the view's rows.
        row: The result of the fold.
    """
    return TypeError(
        f"The fold of view {view} on {event.DESCRIPTOR.full_name}, {named(fold)}, returned {_described(row)}; return a "
        f"{kind.DESCRIPTOR.full_name}, or None to delete the row."
    )


def no_text(key: Any) -> str:
    """Return the rest of a sentence about a key that is no text: the fact and the remedy."""
    if key is None:
        return "returned None; return a text."
    return f"returned {key!r}, {_described(key)}; return a text, as str(...)."


def with_article(name: str) -> str:
    """Return the name of a type after its article."""
    return f"{'an' if name[:1].lower() in ('a', 'e', 'i', 'o', 'u') else 'a'} {name}"
