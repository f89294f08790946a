"""The request field `order_by` (AIP-132): names separated by commas, each with ` desc` for the greatest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diptych.contract.reasons import InvalidRequest
from diptych.domain.query import Column, Order


def order_of(text: str, allowed: Mapping[str, Column[Any]]) -> list[Order]:
    """Return the order that a text names. Raise `InvalidRequest` on the field `order_by` if it is not valid."""
    order: list[Order] = []
    names: set[str] = set()
    for part in text.split(","):
        match part.split():
            case [name]:
                descending = False
            case [name, "desc"]:
                descending = True
            case _:
                raise _invalid(f"'{part.strip()}' is not a name, or a name and 'desc'")
        if name not in allowed:
            raise _invalid(f"'{name}' cannot be ordered by; use {', '.join(allowed) or 'nothing'}")
        if name in names:
            raise _invalid(f"'{name}' occurs twice")
        names.add(name)
        order.append(Order(allowed[name], descending))
    return order


def _invalid(sentence: str) -> InvalidRequest:
    return InvalidRequest.of(("order_by", sentence))
