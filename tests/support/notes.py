"""A small projection for tests of the engine, with messages that are defined here.

`Noted` writes a note, `Erased` deletes it, `Tagged` counts under each of its tags and reads the note. A note with the
text "poison" fails in the second view, after the first view has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.timestamp_pb2 import Timestamp

from diptych.domain.projection import Projection, View
from diptych.domain.recorded import Recorded
from diptych.v1.commands_pb2 import AggregateRef
from diptych.v1.events_pb2 import RecordedEvent

_FIELD = descriptor_pb2.FieldDescriptorProto


def _messages() -> list[type[Any]]:
    file = descriptor_pb2.FileDescriptorProto(name="notes/v1/notes.proto", package="notes.v1", syntax="proto3")
    one, many = _FIELD.LABEL_OPTIONAL, _FIELD.LABEL_REPEATED
    text, number = _FIELD.TYPE_STRING, _FIELD.TYPE_INT64
    declared: dict[str, list[tuple[str, Any, Any]]] = {
        "Noted": [("key", text, one), ("text", text, one)],
        "Erased": [("key", text, one)],
        "Tagged": [("key", text, one), ("tags", text, many)],
        "Archived": [("key", text, one)],
        "Note": [("text", text, one), ("edits", number, one)],
        "Tag": [("count", number, one), ("last_text", text, one)],
    }
    for name, fields in declared.items():
        message = file.message_type.add(name=name)
        for place, (field, kind, label) in enumerate(fields, 1):
            message.field.add(name=field, number=place, type=kind, label=label)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"notes.v1.{name}")) for name in declared]


Noted, Erased, Tagged, Archived, Note, Tag = _messages()


class Notes:
    """The projection and its views."""

    def __init__(
        self,
        name: str = "notes",
        *,
        version: int = 1,
        poison: str = "poison",
        columns: bool = True,
        count_under: Callable[[Any], str] = lambda event: "all",
    ) -> None:
        self.poison = poison
        """Text at which folding fails. Another text repairs it."""
        self.projection = Projection(name, version=version)
        self.notes: View[Any] = self.projection.view(name, Note)
        self.tags: View[Any] = self.projection.view(f"{name}_tags", Tag)
        if columns:
            self.notes.column("edits", lambda row: row.edits)
            self.tags.column("last_text", lambda row: row.last_text)

        @self.notes.on(Noted, key=lambda e: e.key)
        def noted(row: Any, event: Any, at: Recorded) -> Any:
            row = row or Note()
            if row.text != event.text:
                row.text = event.text
                row.edits += 1
            return row

        @self.notes.on(Erased, key=lambda e: e.key)
        def erased(row: Any, event: Any, at: Recorded) -> Any:
            return None

        @self.tags.on(Noted, key=count_under)
        def counted(row: Any, event: Any, at: Recorded) -> Any:
            if event.text == self.poison:
                raise ValueError("no such text")
            row = row or Tag()
            row.count += 1
            return row

        @self.tags.on_each(Tagged, keys=lambda e: e.tags, reads=lambda e: [self.notes.at(e.key)])
        def tagged(row: Any, event: Any, at: Recorded) -> Any:
            note = at.row(self.notes, event.key)
            row = row or Tag()
            row.count += 1
            row.last_text = note.text if note is not None else ""
            return row if row.count % 3 else None


def recorded(position: int, event: Any, *, stream: str = "note/1", life: str = "a") -> RecordedEvent:
    """Return an event as the log has it. Another `life` gives another event at the same position."""
    kind, _, id = stream.partition("/")
    made = RecordedEvent(
        position=position,
        version=position,
        event_id=f"{life}-{position}",
        aggregate=AggregateRef(type=kind, id=id),
        record_time=Timestamp(seconds=1_700_000_000 + position),
    )
    made.event.Pack(event)
    return made


def log_of_streams(events: Iterable[Any]) -> list[RecordedEvent]:
    """Return events at the positions from 1, each in the stream of its key."""
    return [recorded(position, event, stream=f"note/{event.key}") for position, event in enumerate(events, 1)]


def log_of(events: Iterable[Any], *, life: str = "a") -> list[RecordedEvent]:
    """Return events at the positions from 1."""
    return [recorded(position, event, life=life) for position, event in enumerate(events, 1)]
