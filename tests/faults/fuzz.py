"""Random requests, made from descriptors: valid ones, ones with wrong fields, and bytes that are no message.

One `random.Random` draws everything, so the same seed makes the same requests.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_DEPTH_MAX = 5
_OVERSIZED_BYTES = 5 << 20

_WORDS = (
    "", "a", "ada", "tea", "order-1", "user", "product", "order", "review", "tea/ada", "a/b/c", "..", "A" * 64,
    "b" * 65, "x" * 300, "y" * 20_000, "ada@example.com", "@", "not an email", "GBP", "gbp", "EUR", "Ünïcödé ✓ 漢字 🙂",
    "\0", "a\0b", "\n\r\t", "'; DROP TABLE events; --", "%s%n{}", "email desc", "name", "-1", "1e309", "NaN", "users",
    "user_summaries", "products", "orders", "analytics", "role_statistics", "shop.v1.UserRegistered",
    "shop.v1.Nothing", "en-GB",
)  # fmt: skip

_INTEGERS = (0, 1, 2, 3, 5, 7, 50, 1000, 1001, 10_000, 1 << 31, (1 << 53) + 1, (1 << 63) - 1, -1, -2, -1000, -(1 << 63))
_FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"))
_PAGE_TOKENS = ("AAAA", "====", "bm90IGEgdG9rZW4", "%%%")

_PLAUSIBLE: dict[str, Sequence[str]] = {
    "id": ("ada", "tea", "order-1", "bob", "mug", "new-1", "new-2", "new-3", ""),
    "user_id": ("ada", "bob", "eve", ""),
    "product_id": ("tea", "mug", "pot"),
    "email": ("ada@example.com", "bob@example.com", "eve@example.com"),
    "username": ("ada", "bob", ""),
    "currency_code": ("GBP",),
    "type": ("user", "product", "order"),
    "types": ("shop.v1.UserRegistered", "shop.v1.StockAdjusted"),
    "view": ("users", "products", "orders", "user_summaries", ""),
    "projection": ("users", "products", "orders", "analytics"),
    "paths": ("email", "bio", "first_name", "name"),
    "by": ("email desc", "name", ""),
    "name": ("Ada", "Tea", ""),
    "address": ("1 High Street", ""),
    "country": ("France", ""),
    "uri": ("https://example.com/a.png",),
    "request_id": ("r-1", "r-2", "r-3", ""),
    "text": ("good", ""),
    "reason": ("because", ""),
    "token": (),
}
"""Plausible values of fields, by the field's name or its last word."""

METADATA_KEYS = (
    "diptych-token",
    "diptych-request-id",
    "traceparent",
    "grpc-accept-encoding",
    "x-anything",
    "x-data-bin",
)


class Maker:
    """Makes messages of one set of descriptors."""

    def __init__(self, packed: Sequence[Descriptor], tokens: Sequence[str]) -> None:
        self._packed = packed
        """Message types for fields of type `Any`."""
        self._words = (*_WORDS, *tokens, *(token[:-1] for token in tokens), *_PAGE_TOKENS)
        self._tokens = tokens
        self._plausible = {**_PLAUSIBLE, "token": tokens, "at_least_as_fresh": tokens}
        self._careful = 0.0
        """Share of the current request's fields with plausible values."""

    def request(self, rng: random.Random, kind: Descriptor) -> bytes:
        """Return a request of a type, valid or invalid with equal chance."""
        self._careful = rng.choice((0.0, 0.7, 1.0, 1.0))
        data = self.message(rng, kind).SerializeToString()
        wrong: Callable[[random.Random, bytes], bytes] | None = rng.choices(
            (None, mutated, truncated, garbage, self._oversized), (60, 25, 7, 7, 0.2)
        )[0]
        return data if wrong is None else wrong(rng, data)

    def metadata(self, rng: random.Random) -> list[tuple[str, Any]]:
        """Return metadata of a request, mostly empty."""
        found: list[tuple[str, Any]] = []
        while rng.random() < 0.3:
            key = rng.choice(METADATA_KEYS)
            if key.endswith("-bin"):
                found.append((key, rng.randbytes(rng.randrange(40))))
            elif key == "diptych-token" and rng.random() < 0.6:
                found.append((key, rng.choice(self._tokens)))
            else:
                found.append(
                    (key, "".join(rng.choices(string.printable[:94], k=rng.choice((0, 1, 32, 128, 129, 900)))))
                )
        return found

    def message(self, rng: random.Random, kind: Descriptor, depth: int = 0) -> Any:
        """Return a message with any values that its field types allow."""
        made: Any = kind_of(kind)()
        if kind.full_name == "google.protobuf.Any":
            self._pack(rng, made, depth)
            return made
        if kind.full_name == "google.protobuf.Timestamp" and rng.random() < self._careful:
            made.seconds = rng.randrange(1_600_000_000, 1_800_000_000)
            return made
        filled = rng.choice((0.2, 0.7, 1.0, 1.0))
        for field in kind.fields:
            if rng.random() < filled and depth < _DEPTH_MAX:
                self._fill(rng, made, field, depth)
        return made

    def _fill(self, rng: random.Random, made: Any, field: FieldDescriptor, depth: int) -> None:
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            return  # Nothing of ours has maps in a request.
        if field.is_repeated:
            values = getattr(made, field.name)
            count = rng.choice((0, 1, 2, 3, 30) if depth < 2 else (0, 1, 2))
            for _ in range(count):
                if entry is not None:
                    values.add().CopyFrom(self.message(rng, entry, depth + 1))
                else:
                    values.append(self._scalar(rng, field))
        elif entry is not None:
            getattr(made, field.name).CopyFrom(self.message(rng, entry, depth + 1))
        else:
            setattr(made, field.name, self._scalar(rng, field))

    def _scalar(self, rng: random.Random, field: FieldDescriptor) -> Any:
        if rng.random() < self._careful:
            found = self._plausible.get(field.name) or self._plausible.get(field.name.rpartition("_")[2])
            if found and field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
                return rng.choice(found)
            if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64):
                return rng.randrange(1, 6)
            if field.enum_type is not None:
                return rng.choice([value.number for value in field.enum_type.values])
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                word = rng.choice(self._words)
                return word if field.type == FieldDescriptor.TYPE_STRING else rng.randbytes(rng.randrange(20))
            case FieldDescriptor.CPPTYPE_BOOL:
                return rng.random() < 0.5
            case FieldDescriptor.CPPTYPE_DOUBLE:
                return rng.choice(_FLOATS)
            case FieldDescriptor.CPPTYPE_FLOAT:
                return rng.choice((0.0, 1.0, -1.0, float("nan")))
            case FieldDescriptor.CPPTYPE_ENUM:
                assert field.enum_type is not None
                return rng.choice((*(value.number for value in field.enum_type.values), 99, -1))
        bits = 32 if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
        unsigned = field.cpp_type in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
        least, most = (0, (1 << bits) - 1) if unsigned else (-(1 << bits - 1), (1 << bits - 1) - 1)
        return min(max(rng.choice(_INTEGERS), least), most)

    def _pack(self, rng: random.Random, made: Any, depth: int) -> None:
        kind = rng.choice(self._packed)
        made.type_url = f"type.googleapis.com/{kind.full_name}"
        made.value = self.message(rng, kind, depth + 1).SerializeToString()
        if rng.random() < 0.1:
            made.value = mutated(rng, made.value)
        if rng.random() < 0.1:
            made.type_url = rng.choice(("", "/", "shop.v1.Nothing", "type.googleapis.com/google.protobuf.Any"))

    def _oversized(self, rng: random.Random, _: bytes) -> bytes:
        return b"\x0a\x80\x80\xc0\x02" + bytes(_OVERSIZED_BYTES)


def kind_of(kind: Descriptor) -> type[Message]:
    """Return the message class of a descriptor."""
    found: type[Message] = GetMessageClass(kind)
    return found


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return the bytes with a few of them changed."""
    changed = bytearray(data or b"\x0a\x01a")
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(changed):
                del changed[at : at + rng.randrange(1, 4)]
            case 2:
                changed[at:at] = rng.randbytes(rng.randrange(1, 4))
            case _:
                changed[at:at] = changed[: rng.randrange(20)]  # The same again: fields come twice.
    return bytes(changed)


def truncated(rng: random.Random, data: bytes) -> bytes:
    """Return the beginning of the bytes."""
    return data[: rng.randrange(len(data) + 1)]


def garbage(rng: random.Random, _: bytes) -> bytes:
    """Return random bytes."""
    return rng.randbytes(rng.choice((0, 1, 2, 10, 100, 5000)))


def method_path(method: MethodDescriptor) -> str:
    """Return a method's path as gRPC names it."""
    return f"/{method.containing_service.full_name}/{method.name}"
