"""Codec of aggregate states for snapshots, derived from the type of the state.

A state is a frozen dataclass of scalars (`str`, `int`, `float`, `bool`, `bytes`, None), aware datetimes, enums,
tuples, protobuf messages, and such dataclasses. Its *shape* is a digest of the names and types of all fields, nested
ones included. A snapshot of another shape is ignored, so that a changed state needs no migration.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import hashlib
import json
import types
import typing
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

S = TypeVar("S")

SCALARS = (str, int, float, bool, type(None))


class _Part(NamedTuple):
    """Codec of one type within a state; `shape` describes the type."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    shape: str


class StateCodec(Generic[S]):
    """Converts states of one type to bytes and back.

    Args:
        state: The type of the state.

    Raises:
        TypeError: A field has a type that a state cannot hold; the message names the field.
    """

    def __init__(self, state: type[S]) -> None:
        self._part = _part(state, state.__name__)
        self.shape = hashlib.sha256(self._part.shape.encode()).digest()[:8]

    def encode(self, state: S) -> bytes:
        """Return the bytes of a state."""
        return json.dumps(self._part.encode(state), separators=(",", ":")).encode()

    def decode(self, data: bytes) -> S:
        """Return the state of bytes that were encoded with the same shape."""
        state: S = self._part.decode(json.loads(data))
        return state


def _same(value: Any) -> Any:
    return value


def _part(kind: Any, path: str) -> _Part:
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if kind in SCALARS:
        return _Part(_same, _same, "None" if kind is type(None) else kind.__name__)
    if kind is bytes:
        return _Part(lambda value: base64.b64encode(value).decode(), base64.b64decode, "bytes")
    if kind is datetime:
        return _Part(lambda value: value.astimezone(UTC).isoformat(), datetime.fromisoformat, "datetime")
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, path)
    if origin is tuple:
        return _tuple(arguments, path)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        names = ",".join(f"{member.name}={member.value!r}" for member in kind)
        return _Part(lambda value: value.value, kind, f"{kind.__name__}({names})")
    if isinstance(kind, type) and issubclass(kind, Message):
        return _Part(
            lambda value: base64.b64encode(value.SerializeToString(deterministic=True)).decode(),
            lambda value: kind.FromString(base64.b64decode(value)),
            kind.DESCRIPTOR.full_name,
        )
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind, path)
    if getattr(kind, "__supertype__", None) is not None:
        return _part(kind.__supertype__, path)
    if isinstance(kind, EnumTypeWrapper):
        return _Part(int, int, kind.DESCRIPTOR.full_name)
    raise TypeError(
        f"{path} is a {kind!r}, which a state cannot hold: use scalars, datetimes, enums, tuples, messages and "
        "frozen dataclasses of them."
    )


def _union(arguments: tuple[Any, ...], path: str) -> _Part:
    others = [argument for argument in arguments if argument is not type(None)]
    if len(others) != 1:
        raise TypeError(f"{path} is a union of several types, which a state cannot hold.")
    part = _part(others[0], path)
    return _Part(
        lambda value: None if value is None else part.encode(value),
        lambda value: None if value is None else part.decode(value),
        f"{part.shape}?",
    )


def _tuple(arguments: tuple[Any, ...], path: str) -> _Part:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        item = _part(arguments[0], f"{path}[]")
        return _Part(
            lambda value: [item.encode(each) for each in value],
            lambda value: tuple(item.decode(each) for each in value),
            f"[{item.shape}]",
        )
    parts = [_part(argument, f"{path}[{index}]") for index, argument in enumerate(arguments)]
    return _Part(
        lambda value: [part.encode(each) for part, each in zip(parts, value, strict=True)],
        lambda value: tuple(part.decode(each) for part, each in zip(parts, value, strict=True)),
        f"({','.join(part.shape for part in parts)})",
    )


def _dataclass(kind: type[Any], path: str) -> _Part:
    if not kind.__dataclass_params__.frozen:
        raise TypeError(f"{path} is the dataclass {kind.__name__}, which is not frozen.")
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    parts = [_part(hints[name], f"{path}.{name}") for name in names]
    fields = list(zip(names, parts, strict=True))
    return _Part(
        lambda value: [part.encode(getattr(value, name)) for name, part in fields],
        lambda value: kind(**{name: part.decode(each) for (name, part), each in zip(fields, value, strict=True)}),
        f"{kind.__name__}({','.join(f'{name}:{part.shape}' for name, part in fields)})",
    )
