"""Keyset tokens: which values a list's page token holds. `diptych.contract.page_token` defines the format."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from diptych.contract.page_token import PageTokens
from diptych.domain.projection import View
from diptych.domain.query import Find
from diptych.domain.values import stored


class KeysetTokens:
    """Page tokens of one list query. A token holds the values that order the page's last row, and its key."""

    def __init__(self, method: str, view: View[Any], request: Any, find: Find) -> None:
        """Create the tokens of a query.

        Args:
            method: Name of the rpc, `package.Service/Method`.
            view: The view that is listed.
            request: The request.
            find: The rows to find and their order.
        """
        self._view = view
        self._request = request
        self._order = find.order
        order = repr([(one.column.name, one.descending) for one in find.order])
        self._tokens = PageTokens(method, request, order=order)

    def encode(self, row: bytes, key: str) -> str:
        """Return the token of the page after a row."""
        message = self._view.row.FromString(row)
        return self._tokens.encode([*(stored(one.column.value(message)) for one in self._order), key])

    def decode(self) -> list[Any]:
        """Return the ordering values and the key of the row before the requested page. Raise `PageTokenInvalid`."""
        kinds = [_stored_kind(one.column.kind) for one in self._order]
        return self._tokens.decode(self._request.page_token, [*kinds, str])


def _stored_kind(kind: type) -> type:
    return int if kind is datetime else kind
