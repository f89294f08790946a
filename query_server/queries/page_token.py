"""Page tokens: keysets, bound to the query that gave them.

A token holds the values by which the last row of its page is ordered, and its key, so that the next page begins
after that row whatever has changed since. It says nothing that its receiver has not read, and a forged one gives
its forger other rows of the same answer, so it is not signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from datetime import datetime
from typing import Any

from diptych.contract.reasons import PageTokenInvalid
from diptych.domain.projection import View
from diptych.domain.query import Find
from diptych.domain.values import stored

_NOT_THE_QUERY = ("page_token", "page_size", "consistency")
_DIGEST_LENGTH = 12


class PageTokens:
    """Writes and reads the page tokens of one query of a method."""

    def __init__(self, method: str, view: View[Any], request: Any, find: Find) -> None:
        self._method = method
        self._view = view
        self._request = request
        self._order = find.order
        self._digest = b""

    def write(self, row: bytes, key: str) -> str:
        """The token for the page after a row."""
        message = self._view.row.FromString(row)
        values = [stored(order.column.value(message)) for order in self._order]
        body = json.dumps([*values, key], ensure_ascii=False, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._query() + body).rstrip(b"=").decode()

    def read(self) -> list[Any]:
        """The values of the row before the page that the request asks for, and its key; raises `PageTokenInvalid`."""
        try:
            text: str = self._request.page_token
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            values = json.loads(raw[_DIGEST_LENGTH:])
        except (ValueError, binascii.Error, RecursionError):
            raise PageTokenInvalid from None
        if raw[:_DIGEST_LENGTH] != self._query() or not isinstance(values, list):
            raise PageTokenInvalid
        kinds = [*(_stored_kind(order.column.kind) for order in self._order), str]
        if [type(value) for value in values] != kinds:
            raise PageTokenInvalid
        return values

    def _query(self) -> bytes:
        """A digest of what is asked for, page by page."""
        if self._digest:
            return self._digest
        query = type(self._request)()
        query.CopyFrom(self._request)
        for name in _NOT_THE_QUERY:
            if name in query.DESCRIPTOR.fields_by_name:
                query.ClearField(name)
        digest = hashlib.blake2b(self._method.encode(), digest_size=_DIGEST_LENGTH)
        digest.update(b"\0")
        digest.update(repr([(order.column.name, order.descending) for order in self._order]).encode())
        digest.update(b"\0")
        digest.update(query.SerializeToString(deterministic=True))
        self._digest = digest.digest()
        return self._digest


def _stored_kind(kind: type) -> type:
    return int if kind is datetime else kind
