"""Well-formedness of times: what the protobuf wire takes and the types' definitions forbid.

protovalidate normalises before it judges, so that a `Timestamp` with -1 nanos passes its rules, and later fails
whoever converts it. Here every `Timestamp` and `Duration` of a message is held against its definition
(google/protobuf/timestamp.proto, duration.proto).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

_TIMES = ("google.protobuf.Timestamp", "google.protobuf.Duration")
_TIMESTAMP_SECONDS = (-62_135_596_800, 253_402_300_799)
_DURATION_SECONDS_MAX = 315_576_000_000
_NANOS = 1_000_000_000


class _Field(NamedTuple):
    name: str
    type: str
    repeated: bool
    time: bool


def malformed_times(message: Message) -> list[tuple[str, str]]:
    """The (field path, sentence) of every time in a message that is out of its type's range."""
    found: list[tuple[str, str]] = []
    _look(message, "", found)
    return found


def _look(message: Message, path: str, found: list[tuple[str, str]]) -> None:
    for name, type_name, repeated, is_time in _fields(message.DESCRIPTOR):
        if repeated:
            for index, item in enumerate(getattr(message, name)):
                where = f"{path}{name}[{index}]"
                if is_time:
                    _judge(item, type_name, where, found)
                else:
                    _look(item, f"{where}.", found)
        elif message.HasField(name):
            value = getattr(message, name)
            if is_time:
                _judge(value, type_name, path + name, found)
            else:
                _look(value, f"{path}{name}.", found)


def _judge(value: Any, type_name: str, where: str, found: list[tuple[str, str]]) -> None:
    seconds, nanos = value.seconds, value.nanos
    if type_name == _TIMES[0]:
        if not (_TIMESTAMP_SECONDS[0] <= seconds <= _TIMESTAMP_SECONDS[1] and 0 <= nanos < _NANOS):
            found.append((where, "must be a time of the years 1 to 9999, with 0 to 999,999,999 nanos"))
    elif abs(seconds) > _DURATION_SECONDS_MAX or abs(nanos) >= _NANOS or seconds * nanos < 0:
        found.append(
            (where, "must be a duration of at most 10,000 years, with nanos of the same sign below 1,000,000,000")
        )


@cache
def _fields(kind: Descriptor) -> tuple[_Field, ...]:
    """The fields of a type that are times, or messages that have times somewhere."""
    return tuple(
        _Field(
            field.name,
            field.message_type.full_name,
            field.is_repeated,
            field.message_type.full_name in _TIMES,
        )
        for field in kind.fields
        if field.message_type is not None
        and not field.message_type.GetOptions().map_entry
        and _has_times(field.message_type, frozenset())
    )


def _has_times(kind: Descriptor, above: frozenset[str]) -> bool:
    if kind.full_name in _TIMES:
        return True
    if kind.full_name in above:
        return False
    inner = above | {kind.full_name}
    return any(_has_times(field.message_type, inner) for field in kind.fields if field.message_type is not None)
