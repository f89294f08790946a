"""The keyed fold: how events become rows. The projector, `diptych.testing` and `verify` share it.

Pure: `prepare` says which rows a batch of events needs, whoever calls loads them, and `fold` folds the batch over
them. Between two folds a row is bytes and nothing else, so every fold gets a message of its own, and what a batch
gives does not depend on how the events were cut into batches: each changed row remembers the last event that
changed it, and a row that was made and deleted within one batch leaves the same tombstone as over two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from diptych.domain.aggregate import AggregateRef, upcasted
from diptych.domain.projection import Column, Handler, Projection, Recorded, RowRef, View
from diptych.domain.values import stored
from diptych.v1.events_pb2 import RecordedEvent

R = TypeVar("R", bound=Message)

Contents = Mapping[str, bytes | None]
"""Rows of a view by key, as their bytes. A key that is missing, or has None, has no row."""

ChangedRow = tuple[Any, ...]
"""A row that changed: key, position, bytes (None: deleted), then the values of its columns (None of a deleted row)."""

RowName = tuple[int, str]
"""A row: its view's place in the order of declaration, and its key."""

_INT64 = range(-(1 << 63), 1 << 63)
_NONE_NAMED: frozenset[RowRef] = frozenset()


class FoldFailure(Exception):
    """An event that could not be folded; `__cause__` is what was raised."""

    def __init__(self, event: RecordedEvent, view: str, key: str, cause: Exception) -> None:
        self.event = event
        self.position: int = event.position
        self.view = view
        """The view whose fold failed; empty if the event itself could not be read."""
        self.key = key
        """The row that was being folded; empty if it failed before."""
        where = f"view {view}" if view else "no view"
        if key:
            where += f", row {key}"
        super().__init__(
            f"Event {event.position} ({_type_name(event)} of {event.aggregate.type}/{event.aggregate.id}) failed in "
            f"{where}: {type(cause).__name__}: {cause}"
        )
        self.__cause__ = cause


class Prepared:
    """A batch of events, parsed, with the rows it needs."""

    __slots__ = ("failure", "steps", "wanted")

    def __init__(self, views: int) -> None:
        self.steps: list[_Step] = []
        self.wanted: list[dict[str, None]] = [{} for _ in range(views)]
        """For each view, in order of declaration, the keys of the rows to load."""
        self.failure: FoldFailure | None = None
        """Why the event after the last step cannot be folded; those after it are left out."""

    def rows(self) -> Iterator[tuple[RecordedEvent, set[RowName], set[RowName]]]:
        """For each event the rows that it folds, and those that it looks up."""
        for event, _, work in self.steps:
            yield (
                event,
                {(binding.place, key) for binding, keys, _ in work for key in keys},
                {(read.index, key) for _, _, named in work for read, key in named},
            )


class Folded:
    """What a batch of events came to."""

    __slots__ = ("changed", "changed_position", "failure", "last")

    def __init__(self, changed: list[dict[str, ChangedRow]]) -> None:
        self.changed = changed
        """For each view, in order of declaration, the rows that changed."""
        self.changed_position = 0
        """The position of the last event that changed a row; 0: none did."""
        self.last: RecordedEvent | None = None
        """The last event that was folded, whether it changed a row or not."""
        self.failure: FoldFailure | None = None
        """Why the event after `last` could not be folded. It changed nothing; later ones were not tried."""


class _Binding(NamedTuple):
    """A handler with all that its folds need at hand."""

    view: View[Any]
    place: int
    keys: Callable[[Any], Iterable[str]]
    reads: Callable[[Any], Iterable[RowRef]] | None
    fold: Callable[[Any, Any, Recorded], Any]
    row: type[Message]
    parse: Callable[[bytes], Message]
    columns: tuple[Column[Any], ...]
    deleted: tuple[None, ...]
    in_parts: bool
    """Whether `keys` gives a mapping: under each key the part of the event that is folded into that row."""


_Work = tuple[_Binding, Iterable[str], frozenset[RowRef]]
_Step = tuple[RecordedEvent, Any, list[_Work]]


class Folding:
    """Folds events into the rows of one projection."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        # By the event's type: how it is parsed, and what folds it; None: what that is, the upcast event's type tells.
        self._plans: dict[str, tuple[Callable[[bytes], Message], tuple[_Binding, ...] | None]] = {}
        for name in projection.event_types:
            if name in projection.upcasters:
                self._plans[name] = (_upcast(name, projection), None)
                continue
            handlers = [view.handlers[name] for view in projection.views if name in view.handlers]
            self._plans[name] = (handlers[0].event.FromString, tuple(map(_bind, handlers)))

    def prepare(self, events: Iterable[RecordedEvent]) -> Prepared:
        """Parses events and names the rows that folding them needs. Types that no view folds are steps without work."""
        prepared = Prepared(len(self.projection.views))
        wanted, steps, plans = prepared.wanted, prepared.steps, self._plans
        event: RecordedEvent | None = None
        binding: _Binding | None = None
        try:
            for event in events:
                binding = None
                work: list[_Work] = []
                message = None
                payload = event.event
                plan = plans.get(payload.type_url.rpartition("/")[2])
                if plan is not None:
                    message, bindings = plan[0](payload.value), plan[1]
                    if bindings is None:
                        now = plans.get(message.DESCRIPTOR.full_name)
                        bindings = now[1] if now is not None else None
                    for binding in bindings or ():
                        keys = _distinct(binding.keys(message), binding.in_parts)
                        named: frozenset[RowRef] = _NONE_NAMED
                        if binding.reads is not None:
                            named = frozenset(binding.reads(message))
                            for read, key in named:
                                check_look_up(binding.view, read)
                                _check_key(key)
                        work.append((binding, keys, named))
                # Only now, so that an event which fails asks for nothing.
                for bound, keys, named in work:
                    rows = wanted[bound.place]
                    for key in keys:
                        rows[key] = None
                    for read, key in named:
                        wanted[read.index][key] = None
                steps.append((event, message, work))
        except Exception as error:
            assert event is not None
            prepared.failure = FoldFailure(event, binding.view.name if binding is not None else "", "", error)
        return prepared

    def fold(self, prepared: Prepared, rows: Sequence[Contents]) -> Folded:
        """Folds a batch over its rows, which hold what was `wanted`. Never raises for what a fold does."""
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
                    aggregate = event.aggregate
                    at = Recorded(
                        position=position,
                        aggregate=AggregateRef(aggregate.type, aggregate.id),
                        version=event.version,
                        record_time=event.record_time,
                        event_id=event.event_id,
                        source=overlay,
                    )
                    for binding, keys, named in work:
                        view, place, _, _, fold, kind, parse, columns, deleted, in_parts = binding
                        overlay.named = named
                        loaded, changes = rows[place], changed[place]
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
                                raise TypeError(
                                    f"The fold of view {view.name} on {message.DESCRIPTOR.full_name} returned a "
                                    f"{type(row).__name__}; its rows are {kind.DESCRIPTOR.full_name}."
                                )
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
            folded.failure = FoldFailure(event, binding.view.name, key, error)
        folded.last = last
        return folded


class MemoryRows:
    """The rows of one projection in memory, for tests of folds and for comparing."""

    def __init__(self, projection: Projection) -> None:
        self._folding = Folding(projection)
        self.rows: dict[str, dict[str, ChangedRow]] = {view.name: {} for view in projection.views}
        """For each view, every row that was ever there, tombstones too."""

    def apply(self, events: Iterable[RecordedEvent]) -> Folded:
        """Folds a batch. Of one that fails, the events before the failure are applied."""
        views = self._folding.projection.views
        prepared = self._folding.prepare(events)
        loaded = [
            {key: self.rows[view.name][key][2] for key in keys if key in self.rows[view.name]}
            for view, keys in zip(views, prepared.wanted, strict=True)
        ]
        folded = self._folding.fold(prepared, loaded)
        for view, changes in zip(views, folded.changed, strict=True):
            self.rows[view.name].update(changes)
        return folded

    def row(self, view: View[R], key: str) -> R | None:
        """A row, or None."""
        change = self.rows[view.name].get(key)
        return None if change is None or change[2] is None else view.row.FromString(change[2])


class _Overlay:
    """Answers look-ups: rows as they were loaded, with the changes so far over them."""

    __slots__ = ("_changed", "_rows", "named")

    def __init__(self, rows: Sequence[Contents], changed: Sequence[Mapping[str, ChangedRow]]) -> None:
        self._rows = rows
        self._changed = changed
        self.named: frozenset[RowRef] = _NONE_NAMED

    def look_up(self, asking: View[Any], view: View[Any], key: str) -> Message | None:
        """The row as of the event being folded, as a message of its own."""
        if (view, key) not in self.named:
            check_look_up(asking, view)
            raise LookupError(
                f"View {asking.name} looks up row {key!r} of view {view.name}, which its `reads` did not name."
            )
        change = self._changed[view.index].get(key)
        content = self._rows[view.index].get(key) if change is None else change[2]
        return None if content is None else view.row.FromString(content)


def check_look_up(asking: View[Any], read: View[Any]) -> None:
    """Refuses a look-up that is not of an earlier view of the same projection."""
    if read.projection is not asking.projection:
        raise LookupError(
            f"View {asking.name} looks up view {read.name} of projection {read.projection.name}; "
            "look-ups stay within one projection."
        )
    if read.index >= asking.index:
        raise LookupError(f"View {asking.name} looks up view {read.name}, which is not declared before it.")


def _upcast(name: str, projection: Projection) -> Callable[[bytes], Message]:
    """Parses an event that is no longer recorded, and tells it as one that is."""
    parse, upcasters = projection.upcasters[name].event.FromString, projection.upcasters
    return lambda data: upcasted(parse(data), upcasters)


def _bind(handler: Handler) -> _Binding:
    view = handler.view
    columns = tuple(view.columns.values())
    return _Binding(
        view=view,
        place=view.index,
        keys=handler.keys,
        reads=handler.reads,
        fold=handler.fold,
        row=view.row,
        parse=view.row.FromString,
        columns=columns,
        deleted=(None,) * len(columns),
        in_parts=handler.parts is not None,
    )


def _distinct(keys: Iterable[str], in_parts: bool) -> Iterable[str]:
    """The keys, each once, in the order in which they came."""
    if type(keys) is tuple and len(keys) == 1:
        key = keys[0]
        if type(key) is not str or not key.isascii() or "\0" in key:
            _check_key(key)
        return keys
    if isinstance(keys, str):
        raise TypeError(f"`keys` gave the text {keys!r}, not the keys themselves; use `on` for one key.")
    once = keys if in_parts else dict.fromkeys(keys)
    for key in once:
        _check_key(key)
    return once


def _check_key(key: Any) -> None:
    """Refuses a key that no store could find again; it would otherwise fail for the whole batch."""
    if not isinstance(key, str):
        raise TypeError(f"The key {key!r} is not a text.")
    if "\0" in key:
        raise ValueError(f"The key {key!r} has a NUL in it.")
    if not key.isascii():
        key.encode()


def _value(column: Column[Any], row: Message) -> Any:
    """A column's value as it is stored. Checked here, where its event is known: the store fails for a whole batch."""
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
