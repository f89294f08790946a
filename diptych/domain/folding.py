"""The keyed fold: events to rows. The projector, `diptych.testing` and `diptych verify` share it.

The fold of a batch has three steps and does no I/O:

1. `Folding.prepare` parses the events and returns the keys of the rows that they need.
2. The caller loads those rows.
3. `Folding.fold` folds the events over the rows and returns the changed rows.

Between two folds a row is bytes, so every fold gets a message of its own. The result does not depend on the division of
events into batches: each changed row has the position of the last event that changed it, and a row that was made and
deleted in one batch leaves the same tombstone as over two batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import starmap
from typing import Any, NamedTuple

from google.protobuf.message import Message

from diptych.domain.aggregate import AggregateRef
from diptych.domain.errors import text_of
from diptych.domain.folds import Handler
from diptych.domain.places import place_of
from diptych.domain.projection import Projection, View
from diptych.domain.query import Column
from diptych.domain.recorded import Recorded, RowRef, RowSource, ViewIdentity
from diptych.domain.results import with_article, wrong_row
from diptych.domain.upcasting import upcasted
from diptych.domain.values import stored
from diptych.v1.events_pb2 import RecordedEvent

Contents = Mapping[str, bytes | None]
"""Rows of a view by key, as bytes. A key that is missing or has None has no row."""

ChangedRow = tuple[Any, ...]
"""A changed row: key, position, bytes, values of the columns. Bytes and values of a deleted row are None."""

RowName = tuple[int, str]
"""A row by the index of its view and its key."""

_INT64 = range(-(1 << 63), 1 << 63)
_NO_ROWS: frozenset[RowRef] = frozenset()


class FoldFailure(Exception):
    """Failure of one event; `__cause__` is the exception that a handler or the parser raised."""

    def __init__(
        self, event: RecordedEvent, view: str, key: str, cause: Exception, function: Callable[..., Any] | None = None
    ) -> None:
        self.event = event
        self.position: int = event.position
        self.view = view
        """The view whose handler failed; empty if parsing the event failed."""
        self.key = key
        """The key of the row whose fold failed; empty if the event failed before a fold."""
        self.location = place_of(function) if function is not None else ""
        """File and line of the author's function that failed; empty if parsing the event failed."""
        where = f"view {view}" if view else "no view"
        if key:
            where += f", row {key}"
        handler = f" (in {self.location})" if self.location else ""
        super().__init__(
            f"Event {event.position} ({_type_name(event)} of {event.aggregate.type}/{event.aggregate.id}) failed in "
            f"{where}: {text_of(cause)}{handler}"
        )
        self.__cause__ = cause


class Prepared:
    """A batch of parsed events and the keys of the rows that it needs."""

    __slots__ = ("failure", "keys_to_load", "steps")

    def __init__(self, views: int) -> None:
        self.steps: list[_Step] = []
        self.keys_to_load: list[dict[str, None]] = [{} for _ in range(views)]
        """For each view, by its index, the keys of the rows to load."""
        self.failure: FoldFailure | None = None
        """The failure of the event after the last step. Later events are not prepared."""

    def rows(self) -> Iterator[tuple[RecordedEvent, set[RowName], set[RowName]]]:
        """Yield each event with the rows that it folds and the rows that it looks up."""
        for event, _, work in self.steps:
            yield (
                event,
                {(binding.view_index, key) for binding, keys, _ in work for key in keys},
                {(read.index, key) for _, _, reads in work for read, key in reads},
            )


class Folded:
    """The result of folding a batch of events."""

    __slots__ = ("changed", "changed_position", "failure", "last")

    def __init__(self, changed: list[dict[str, ChangedRow]]) -> None:
        self.changed = changed
        """For each view, by its index, the changed rows by key."""
        self.changed_position = 0
        """The position of the last event that changed a row; 0 if none did."""
        self.last: RecordedEvent | None = None
        """The last folded event, also if it changed no row."""
        self.failure: FoldFailure | None = None
        """The failure of the event after `last`. It changed nothing; later events were not folded."""


class _Binding(NamedTuple):
    """A handler, flattened for the fold loop."""

    view: View[Any]
    view_index: int
    keys: Callable[..., Iterable[str]]
    reads: Callable[[Any], Iterable[RowRef]] | None
    fold: Callable[[Any, Any, Recorded], Any]
    row: type[Message]
    parse: Callable[[bytes], Message]
    columns: tuple[Column[Any], ...]
    deleted: tuple[None, ...]
    in_parts: bool
    """True if `keys` returns a mapping from each key to the part of the event for that row."""
    key: Callable[..., Any]
    """The author's function of which `keys` is made."""
    placed: bool
    """True if `keys` takes the event's place too."""


_Work = tuple[_Binding, Iterable[str], frozenset[RowRef]]
"""The fold of one event into one view: keys of the rows, and the rows that it may look up."""
_Step = tuple[RecordedEvent, Any, list[_Work]]


class Folding:
    """Folds events into the rows of one projection."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        # By the event's type: its parser and its bindings. None: the type of the upcast event selects the bindings.
        self._plans: dict[str, tuple[Callable[[bytes], Message], tuple[_Binding, ...] | None]] = {}
        for name in projection.event_types:
            if name in projection.upcasters:
                self._plans[name] = (_upcasting_parser(name, projection), None)
                continue
            handlers = [(view, view.handlers[name]) for view in projection.views if name in view.handlers]
            event = handlers[0][1].event
            self._plans[name] = (event.FromString, tuple(starmap(_bind, handlers)))

    def prepare(self, events: Iterable[RecordedEvent]) -> Prepared:
        """Parse events and collect the keys of the rows that folding them needs.

        An event that no view folds is a step without work. An event that fails ends the batch: see `failure`.
        """
        prepared = Prepared(len(self.projection.views))
        keys_to_load, steps, plans = prepared.keys_to_load, prepared.steps, self._plans
        event: RecordedEvent | None = None
        binding: _Binding | None = None
        function: Callable[..., Any] | None = None
        try:
            for event in events:
                binding = function = None
                work: list[_Work] = []
                message = at = None
                payload = event.event
                plan = plans.get(payload.type_url.rpartition("/")[2])
                if plan is not None:
                    message, bindings = plan[0](payload.value), plan[1]
                    if bindings is None:
                        upcast_plan = plans.get(message.DESCRIPTOR.full_name)
                        bindings = upcast_plan[1] if upcast_plan is not None else None
                    for binding in bindings or ():
                        function = binding.key
                        if binding.placed:
                            at = at or _recorded(event, NO_LOOK_UPS)
                            keys = _distinct(binding.keys(message, at), binding.in_parts)
                        else:
                            keys = _distinct(binding.keys(message), binding.in_parts)
                        reads: frozenset[RowRef] = _NO_ROWS
                        if binding.reads is not None:
                            function = binding.reads
                            reads = frozenset(binding.reads(message))
                            for read, key in reads:
                                check_look_up(binding.view, read)
                                _check_key(key)
                        work.append((binding, keys, reads))
                # Not earlier, so that an event which fails loads no rows.
                for bound, keys, reads in work:
                    rows = keys_to_load[bound.view_index]
                    for key in keys:
                        rows[key] = None
                    for read, key in reads:
                        keys_to_load[read.index][key] = None
                steps.append((event, message, work))
        except Exception as error:
            assert event is not None
            view = binding.view.name if binding is not None else ""
            prepared.failure = FoldFailure(event, view, "", error, function)
        return prepared

    def fold(self, prepared: Prepared, rows: Sequence[Contents]) -> Folded:
        """Fold a batch over its rows. An exception of a fold ends the batch: see `Folded.failure`.

        Args:
            prepared: The batch.
            rows: For each view, by its index, the rows with `prepared.keys_to_load`.
        """
        changed: list[dict[str, ChangedRow]] = [{} for _ in rows]
        overlay = _Overlay(rows, changed)
        folded = Folded(changed)
        undo: list[tuple[dict[str, ChangedRow], str, ChangedRow | None]] = []
        event: RecordedEvent | None = None
        last: RecordedEvent | None = None
        binding: _Binding | None = None
        key = ""
        try:
            for event, message, work in prepared.steps:
                if work:
                    undo.clear()
                    position = event.position
                    at = _recorded(event, overlay)
                    for binding, keys, reads in work:
                        view, index, _, _, fold, kind, parse, columns, deleted, in_parts, _, _ = binding
                        overlay.reads = reads
                        loaded, changes = rows[index], changed[index]
                        for key in keys:
                            before = changes.get(key)
                            content = loaded.get(key) if before is None else before[2]
                            part = keys[key] if in_parts else message  # type: ignore[index]
                            row = fold(None if content is None else parse(content), part, at.folding(view, key))
                            if row is None:
                                if content is None:
                                    continue
                                change: ChangedRow = (key, position, None, *deleted)
                            elif isinstance(row, kind):
                                result = row.SerializeToString(deterministic=True)
                                if result == content:
                                    continue
                                if columns:
                                    values = [_value(column, row) for column in columns]
                                    change = (key, position, result, *values)
                                else:
                                    change = (key, position, result)
                            else:
                                raise wrong_row(view.name, message, fold, kind, row)
                            undo.append((changes, key, before))
                            changes[key] = change
                    if undo:
                        folded.changed_position = position
                last = event
            folded.failure = prepared.failure
        except Exception as error:
            assert event is not None
            assert binding is not None
            for changes, undone, before in reversed(undo):
                if before is None:
                    del changes[undone]
                else:
                    changes[undone] = before
            folded.failure = FoldFailure(event, binding.view.name, key, error, binding.fold)
        folded.last = last
        return folded


def _recorded(event: RecordedEvent, source: RowSource) -> Recorded:
    aggregate = event.aggregate
    return Recorded(
        position=event.position,
        aggregate=AggregateRef._make((aggregate.type, aggregate.id)),  # Checked when it was recorded.
        version=event.version,
        record_time=event.record_time,
        event_id=event.event_id,
        source=source,
    )


class _NoLookUps:
    """Rows for key functions, which look up none."""

    def look_up(self, asking: ViewIdentity[Any] | None, view: ViewIdentity[Any], key: str) -> Message | None:
        """Raise `LookupError`."""
        raise LookupError("A key function cannot look up rows; make the key of the event and its place.")


NO_LOOK_UPS = _NoLookUps()


class _Overlay:
    """Rows for look-ups: the loaded ones, replaced by the changes so far."""

    __slots__ = ("_changed", "_rows", "reads")

    def __init__(self, rows: Sequence[Contents], changed: Sequence[Mapping[str, ChangedRow]]) -> None:
        self._rows = rows
        self._changed = changed
        self.reads: frozenset[RowRef] = _NO_ROWS

    def look_up(self, asking: ViewIdentity[Any] | None, view: ViewIdentity[Any], key: str) -> Message | None:
        """Return the row as of the event that is folded, as a message of its own."""
        assert asking is not None
        if (view, key) not in self.reads:
            check_look_up(asking, view)
            raise LookupError(
                f"View {asking.name} looks up row {key!r} of view {view.name}, which its `reads` did not name."
            )
        change = self._changed[view.index].get(key)
        content = self._rows[view.index].get(key) if change is None else change[2]
        return None if content is None else view.row.FromString(content)


def check_look_up(asking: ViewIdentity[Any], read: ViewIdentity[Any]) -> None:
    """Raise `LookupError` unless `read` is an earlier view of the projection of `asking`."""
    if read.projection_name != asking.projection_name:
        raise LookupError(
            f"View {asking.name} looks up view {read.name} of projection {read.projection_name}; "
            "look-ups stay within one projection."
        )
    if read.index >= asking.index:
        raise LookupError(f"View {asking.name} looks up view {read.name}, which is not declared before it.")


def _upcasting_parser(name: str, projection: Projection) -> Callable[[bytes], Message]:
    """Return a function that parses an event of an old type and upcasts it."""
    parse, upcasters = projection.upcasters[name].event.FromString, projection.upcasters
    return lambda data: upcasted(parse(data), upcasters)


def _bind(view: View[Any], handler: Handler) -> _Binding:
    columns = tuple(view.columns.values())
    return _Binding(
        view=view,
        view_index=view.index,
        keys=handler.keys,
        reads=handler.reads,
        fold=handler.fold,
        row=view.row,
        parse=view.row.FromString,
        columns=columns,
        deleted=(None,) * len(columns),
        in_parts=handler.in_parts,
        key=handler.key,
        placed=handler.placed,
    )


def _distinct(keys: Iterable[str], in_parts: bool) -> Iterable[str]:
    """Return the keys without repetitions, in their order; a mapping as it is. Raise for a key that is no text."""
    if type(keys) is tuple and len(keys) == 1:
        key = keys[0]
        if type(key) is not str or not key.isascii() or "\0" in key:
            _check_key(key)
        return keys
    if isinstance(keys, str):
        raise TypeError(f"`keys` gave the text {keys!r}, not the keys themselves; use `on` for one key.")
    if in_parts and not isinstance(keys, Mapping):
        raise TypeError(f"`parts` gave a {type(keys).__name__}; return a mapping from each key to its part.")
    if keys is None:
        raise TypeError("`keys` gave None; return the keys, [] if the event is for no row.")
    once = keys if in_parts else dict.fromkeys(keys)
    for key in once:
        _check_key(key)
    return once


def _check_key(key: Any) -> None:
    """Raise for a key that no store can hold. Found here, it fails one event and not the whole batch."""
    if key is None:
        raise TypeError("The key is None; return a text, or use `on_each` with keys=[] if the event is for no row.")
    if not isinstance(key, str):
        raise TypeError(f"The key {key!r} is not a text but {with_article(type(key).__name__)}; return str(...).")
    if "\0" in key:
        raise ValueError(f"The key {key!r} has a NUL in it.")
    if not key.isascii():
        key.encode()


def _value(column: Column[Any], row: Message) -> Any:
    """Return the stored value of a column. Raise for a wrong one: the store would fail the whole batch for it."""
    value = column.value(row)
    kind = column.kind
    if not isinstance(value, kind):
        if kind is not float or not isinstance(value, int):
            raise TypeError(
                f"Column {column.name} of view {column.view.name} gave a {type(value).__name__}, and it is declared "
                f"by its first value as a {kind.__name__}."
            )
        return float(value)
    if kind is int and value not in _INT64:
        raise ValueError(f"Column {column.name} of view {column.view.name} gave {value}, beyond 64 bits.")
    if kind is str and not value.isascii():
        value.encode()
    return stored(value) if kind is datetime else value


def _type_name(event: RecordedEvent) -> str:
    return event.event.type_url.rpartition("/")[2]
