"""Folds of a view: one for each event type, bound by `on`, `on_each` or `on_parts`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, overload

from google.protobuf.message import Message

from diptych.domain.places import named
from diptych.domain.recorded import Recorded, RowRef, ViewIdentity
from diptych.domain.signatures import takes_place

R = TypeVar("R", bound=Message)
E = TypeVar("E", bound=Message)
X = TypeVar("X")

Fold = Callable[[R | None, E, Recorded], R | None]
PartFold = Callable[[R | None, X, Recorded], R | None]


class Handler(NamedTuple):
    """The fold of one event type into one view."""

    view: FoldedView[Any]
    event: type[Message]
    keys: Callable[..., Iterable[str]]
    reads: Callable[[Any], Iterable[RowRef]] | None
    fold: Callable[[Any, Any, Recorded], Any]
    key: Callable[..., Any]
    """The author's `key`, `keys` or `parts`, of which `keys` is made."""
    placed: bool
    """True if `keys` takes the event's place too: `(event, at)`."""
    in_parts: bool = False
    """True if `keys` returns a mapping: each fold gets its key's part in place of the event."""


class FoldedView(ViewIdentity[R]):
    """A view with its folds.

    Attributes:
        handlers: The folds by the full name of the event's type.
    """

    def __init__(self, projection: str, name: str, row: type[R], index: int) -> None:
        super().__init__(projection, name, row, index)
        self.handlers: dict[str, Handler] = {}

    @overload
    def on(
        self, event: type[E], *, key: Callable[[E], str], reads: Callable[[E], Iterable[RowRef]] | None = None
    ) -> Callable[[Fold[R, E]], Fold[R, E]]: ...
    @overload
    def on(
        self, event: type[E], *, key: Callable[[E, Recorded], str], reads: Callable[[E], Iterable[RowRef]] | None = None
    ) -> Callable[[Fold[R, E]], Fold[R, E]]: ...
    def on(
        self, event: type[E], *, key: Callable[..., str], reads: Callable[[E], Iterable[RowRef]] | None = None
    ) -> Callable[[Fold[R, E]], Fold[R, E]]:
        """Bind the decorated fold to an event type; it folds one row.

        A row for each event has the event's place as its key::

            @entries.on(MoneyDeposited, key=lambda e, at: f"{at.aggregate.id}.{at.version:010}")

        Args:
            event: The event type.
            key: Returns the row's key, `(event) -> key` or `(event, at) -> key`.
            reads: As in `on_each`.

        Raises:
            ValueError: The view folds this event already.
        """
        if takes_place(key):
            return self._bind(event, key, lambda message, at: (key(message, at),), reads, placed=True)
        return self._bind(event, key, lambda message: (key(message),), reads)

    @overload
    def on_each(
        self,
        event: type[E],
        *,
        keys: Callable[[E], Iterable[str]],
        reads: Callable[[E], Iterable[RowRef]] | None = None,
    ) -> Callable[[Fold[R, E]], Fold[R, E]]: ...
    @overload
    def on_each(
        self,
        event: type[E],
        *,
        keys: Callable[[E, Recorded], Iterable[str]],
        reads: Callable[[E], Iterable[RowRef]] | None = None,
    ) -> Callable[[Fold[R, E]], Fold[R, E]]: ...
    def on_each(
        self,
        event: type[E],
        *,
        keys: Callable[..., Iterable[str]],
        reads: Callable[[E], Iterable[RowRef]] | None = None,
    ) -> Callable[[Fold[R, E]], Fold[R, E]]:
        """Bind the decorated fold to an event type; it folds each of several rows once, the one with key `at.key`.

        Args:
            event: The event type.
            keys: Returns the keys of the rows, `(event) -> keys` or `(event, at) -> keys`.
            reads: Returns the rows of earlier views of this projection that the fold looks up by `at.row`.

        Raises:
            ValueError: The view folds this event already.
        """
        return self._bind(event, keys, keys, reads, placed=takes_place(keys))

    @overload
    def on_parts(
        self,
        event: type[E],
        *,
        parts: Callable[[E], Mapping[str, X]],
        reads: Callable[[E], Iterable[RowRef]] | None = None,
    ) -> Callable[[PartFold[R, X]], PartFold[R, X]]: ...
    @overload
    def on_parts(
        self,
        event: type[E],
        *,
        parts: Callable[[E, Recorded], Mapping[str, X]],
        reads: Callable[[E], Iterable[RowRef]] | None = None,
    ) -> Callable[[PartFold[R, X]], PartFold[R, X]]: ...
    def on_parts(
        self,
        event: type[E],
        *,
        parts: Callable[..., Mapping[str, X]],
        reads: Callable[[E], Iterable[RowRef]] | None = None,
    ) -> Callable[[PartFold[R, X]], PartFold[R, X]]:
        """Bind the decorated fold to an event type. It folds one part of the event into each of several rows.

        For events with many items: `parts` traverses the event once, and not once for every row::

            @stock.on_parts(GoodsReceived, parts=lambda e: {item.product_id: item.quantity for item in e.items})
            def received(row: Stock | None, quantity: int, at: Recorded) -> Stock: ...

        Args:
            event: The event type.
            parts: Returns the part for each key, `(event) -> parts` or `(event, at) -> parts`.
            reads: As in `on_each`.

        Raises:
            ValueError: The view folds this event already.
        """
        return self._bind(event, parts, parts, reads, placed=takes_place(parts), in_parts=True)

    def _bind(
        self,
        event: type[E],
        key: Callable[..., Any],
        keys: Callable[..., Iterable[str]],
        reads: Callable[[E], Iterable[RowRef]] | None,
        *,
        placed: bool = False,
        in_parts: bool = False,
    ) -> Callable[[Callable[[R | None, X, Recorded], R | None]], Callable[[R | None, X, Recorded], R | None]]:
        name = event.DESCRIPTOR.full_name
        if name in self.handlers:
            before = self.handlers[name].fold
            raise ValueError(f"View {self.name} folds {name} twice: {named(before)} folds it already.")

        def bind(fold: Callable[[R | None, X, Recorded], R | None]) -> Callable[[R | None, X, Recorded], R | None]:
            self.handlers[name] = Handler(self, event, keys, reads, fold, key, placed, in_parts)
            return fold

        return bind
