"""Times: every `Timestamp` and `Duration` of a message is checked against the range of its type.

The wire format carries values that the types forbid (google/protobuf/timestamp.proto, duration.proto). protovalidate
normalises a value before it checks it, so a `Timestamp` with -1 nanos passes its rules and fails at its conversion.
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
    """Return the (field path, sentence) of every time in a message that is out of its type's range."""
    violations: list[tuple[str, str]] = []
    _check_fields(message, "", violations)
    return violations


def _check_fields(message: Message, path: str, violations: list[tuple[str, str]]) -> None:
    for name, type_name, repeated, is_time in _fields(message.DESCRIPTOR):
        if repeated:
            for index, item in enumerate(getattr(message, name)):
                item_path = f"{path}{name}[{index}]"
                if is_time:
                    _check_time(item, type_name, item_path, violations)
                else:
                    _check_fields(item, f"{item_path}.", violations)
        elif message.HasField(name):
            value = getattr(message, name)
            if is_time:
                _check_time(value, type_name, path + name, violations)
            else:
                _check_fields(value, f"{path}{name}.", violations)


def _check_time(value: Any, type_name: str, path: str, violations: list[tuple[str, str]]) -> None:
    seconds, nanos = value.seconds, value.nanos
    if type_name == _TIMES[0]:
        if not (_TIMESTAMP_SECONDS[0] <= seconds <= _TIMESTAMP_SECONDS[1] and 0 <= nanos < _NANOS):
            violations.append((path, "must be a time of the years 1 to 9999, with 0 to 999,999,999 nanos"))
    elif abs(seconds) > _DURATION_SECONDS_MAX or abs(nanos) >= _NANOS or seconds * nanos < 0:
        violations.append(
            (path, "must be a duration of at most 10,000 years, with nanos of the same sign below 1,000,000,000")
        )


@cache
def _fields(kind: Descriptor) -> tuple[_Field, ...]:
    """The fields of a type that are times, or messages that have times somepath_of_time."""
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
