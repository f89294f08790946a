"""Element limits: bound the work of judging a message before any rule is evaluated.

protovalidate evaluates the rules of every element, also of a field that has too many elements. A message of 4 MiB holds
two million empty elements, which would take seconds and a GiB. Here every repeated field and map is counted first, by
`repeated.max_items` or `map.max_pairs` of the contract, or by `ELEMENTS_MAX` where the contract states no limit.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NamedTuple, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from diptych.buf.validate import validate_pb2

ELEMENTS_MAX = 10_000
"""Elements of one repeated field or map whose contract states no limit."""

TOTAL_MAX = 100_000
"""Elements of all repeated fields and maps of one message together, at any depth."""


class _Field(NamedTuple):
    name: str
    limit: int | None
    """Greatest number of elements; None for a singular field."""
    descend: bool
    """True if elements are messages that have repeated fields or maps somewhere."""
    map_of_messages: bool


def excess_elements(message: Message) -> list[tuple[str, str]]:
    """Return the (field path, sentence) of every field with more elements than its limit, and cut it to the limit.

    The message is to be refused if the result is not empty; cutting bounds the work of finding its other violations.
    A message with more than `TOTAL_MAX` elements gets one violation of the whole, and the rest is cut.
    """
    violations: list[tuple[str, str]] = []
    if _fields(message.DESCRIPTOR):
        left = _count(message, "", TOTAL_MAX, violations)
        if left < 0:
            violations.append(("", f"must have at most {TOTAL_MAX:,} elements in all its repeated fields and maps"))
    return violations


def _count(message: Message, path: str, left: int, violations: list[tuple[str, str]]) -> int:
    """Count and cut the elements below `message`; return how many of `left` remain, below zero if none do."""
    for name, limit, descend, map_of_messages in _fields(message.DESCRIPTOR):
        if limit is None:
            if message.HasField(name):
                left = _count(getattr(message, name), f"{path}{name}.", left, violations)
            continue
        elements = getattr(message, name)
        number = len(elements)
        if number > limit:
            violations.append((path + name, f"must have at most {limit:,} elements, and has {number:,}"))
        if number > min(limit, max(left, 0)):
            _cut(message, name, min(limit, max(left, 0)))
        left -= min(number, limit)
        if descend:
            if map_of_messages:
                for key, value in elements.items():
                    left = _count(value, f"{path}{name}[{json.dumps(key, ensure_ascii=False)}].", left, violations)
            else:
                for index, element in enumerate(elements):
                    left = _count(element, f"{path}{name}[{index}].", left, violations)
    return left


def _cut(message: Message, name: str, number: int) -> None:
    """Drop the elements of a field beyond the first `number`; a map has no order, so any of its pairs."""
    elements = getattr(message, name)
    if hasattr(elements, "keys"):
        for key in list(elements)[number:]:
            del elements[key]
    else:
        del elements[number:]


@cache
def _fields(kind: Descriptor) -> tuple[_Field, ...]:
    """Return the fields of a type that are repeated, maps, or messages with such fields somewhere."""
    fields = []
    for field in kind.fields:
        value = _value_type(field)
        descend = value is not None and _has_repeated(value, frozenset())
        if field.is_repeated:
            is_map_of_messages = field.message_type is not value and value is not None
            fields.append(_Field(field.name, _limit(field), descend, is_map_of_messages))
        elif descend:
            fields.append(_Field(field.name, None, True, False))
    return tuple(fields)


def _value_type(field: FieldDescriptor) -> Descriptor | None:
    """Return the message type of a field's elements, of a map's values; None if they are scalars."""
    kind: Descriptor | None = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        kind = kind.fields_by_name["value"].message_type
    return kind


def _has_repeated(kind: Descriptor, above: frozenset[str]) -> bool:
    if kind.full_name in above:
        return False
    inner = above | {kind.full_name}
    return any(
        field.is_repeated or ((value := _value_type(field)) is not None and _has_repeated(value, inner))
        for field in kind.fields
    )


def _limit(field: FieldDescriptor) -> int:
    """Return the limit that the contract states for a field, else `ELEMENTS_MAX`."""
    options, extension = field.GetOptions(), cast("Any", validate_pb2.field)
    if options.HasExtension(extension):
        rules: Any = options.Extensions[extension]
        if rules.repeated.HasField("max_items"):
            return int(rules.repeated.max_items)
        if rules.map.HasField("max_pairs"):
            return int(rules.map.max_pairs)
    return ELEMENTS_MAX
