"""Fields of the protobuf wire format, written by hand on hot paths, where bytes pass through unparsed.

Source: https://protobuf.dev/programming-guides/encoding/. The concatenated fields of a message are that message.
"""

from __future__ import annotations

_ONE_BYTE = [bytes((value,)) for value in range(128)]


def varint(value: int) -> bytes:
    """Return the varint of a non-negative value."""
    if value < 128:
        return _ONE_BYTE[value]
    if value < 16_384:
        return bytes((value & 127 | 128, value >> 7))
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(number: int, data: bytes) -> bytes:
    """Return a field that is a message, string or bytes."""
    size = len(data)
    if number < 16 and size < 128:
        return _ONE_BYTE[number << 3 | 2] + _ONE_BYTE[size] + data
    return varint(number << 3 | 2) + varint(size) + data


def integer(number: int, value: int) -> bytes:
    """Return a field that is a non-negative integer, enum or bool. Empty for 0, as in proto3."""
    return varint(number << 3) + varint(value) if value else b""
