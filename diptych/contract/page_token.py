"""Page tokens: the last row's values of a page, bound to the query that returned them.

A token is a digest and a JSON list of values, in base64url without padding. The digest covers the method, the request
without its paging fields, the order, and the values. A token of another query and a changed token are therefore
refused. A token holds only values that its receiver has read, so it is no secret and is not signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Never

from google.protobuf.message import Message

from diptych.contract.reasons import PageTokenInvalid

Value = str | int | float | bool

_PAGING_FIELDS = ("page_token", "page_size", "consistency")
"""Fields that may differ between the requests for two pages of one query."""
_DIGEST_BYTES = 12
_INT_MAX = (1 << 63) - 1
"""Largest integer that the databases store."""


class PageTokens:
    """Encodes and decodes the page tokens of one query."""

    def __init__(self, method: str, request: Message, *, order: str = "") -> None:
        """Create the codec of a query.

        Args:
            method: Name of the rpc, `package.Service/Method`.
            request: The request. Its paging fields and its consistency are no part of the query.
            order: The effective order of the rows, if the request alone does not determine it.
        """
        self._method = method
        self._request = request
        self._order = order
        self._query = b""

    def encode(self, values: Sequence[Value]) -> str:
        """Return the token of the page after the row with these values."""
        body = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
        return _text_of(self._digest(body) + body)

    def decode(self, token: str, kinds: Sequence[type]) -> list[Value]:
        """Return the values in a token.

        Args:
            token: The token that a caller sent.
            kinds: Types of the values to expect.

        Raises:
            PageTokenInvalid: The token is malformed or changed, or belongs to another query.
        """
        try:
            raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
            body = raw[_DIGEST_BYTES:]
            # Base64 ignores the last bits of some lengths, so that a changed token can decode to the same bytes.
            if raw[:_DIGEST_BYTES] != self._digest(body) or _text_of(raw) != token:
                raise PageTokenInvalid
            values = json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise PageTokenInvalid from None
        if not isinstance(values, list) or [type(value) for value in values] != list(kinds):
            raise PageTokenInvalid
        if not all(map(_is_storable, values)):
            raise PageTokenInvalid
        return values

    def _digest(self, body: bytes) -> bytes:
        if not self._query:
            self._query = self._serialize_query()
        return hashlib.blake2b(self._query + body, digest_size=_DIGEST_BYTES).digest()

    def _serialize_query(self) -> bytes:
        query = type(self._request)()
        query.CopyFrom(self._request)
        for name in _PAGING_FIELDS:
            if name in query.DESCRIPTOR.fields_by_name:
                query.ClearField(name)
        parts = (self._method.encode(), self._order.encode(), query.SerializeToString(deterministic=True))
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _refuse_constant(text: str) -> Never:
    """Refuse NaN and the infinities, which JSON does not have but Python reads."""
    raise ValueError(text)


def _is_storable(value: Value) -> bool:
    """Return whether a database takes the value as a parameter."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return -_INT_MAX - 1 <= value <= _INT_MAX
