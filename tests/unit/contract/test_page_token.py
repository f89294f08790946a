"""Page tokens: good for their query alone, and refused as PAGE_TOKEN_INVALID otherwise."""

from __future__ import annotations

import base64
import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.contract.page_token import PageTokens
from diptych.contract.reasons import PageTokenInvalid
from diptych.v1.projections_pb2 import ListParkedRequest

METHOD = "diptych.v1.ProjectionService/ListParked"
NOTES = ListParkedRequest(projection="notes")
VALUES = st.one_of(
    st.text(), st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(allow_nan=False, allow_infinity=False)
)


def tokens(request: ListParkedRequest = NOTES, method: str = METHOD, order: str = "") -> PageTokens:
    return PageTokens(method, request, order=order)


@given(st.lists(VALUES, max_size=4))
def test_values_survive(values: list[Any]) -> None:
    assert tokens().decode(tokens().encode(values), [type(value) for value in values]) == values


def test_paging_fields_are_no_part_of_the_query() -> None:
    token = tokens().encode([7])
    other = ListParkedRequest(projection="notes", page_size=3, page_token=token)
    assert tokens(other).decode(token, [int]) == [7]


@pytest.mark.parametrize(
    "other",
    [
        tokens(ListParkedRequest(projection="votes")),
        tokens(ListParkedRequest(projection="notes", include_discarded=True)),
        tokens(method="diptych.v1.EventService/ReadStream"),
        tokens(order="name"),
        tokens(method=METHOD[:-1], order=METHOD[-1]),
    ],
)
def test_token_of_another_query_is_refused(other: PageTokens) -> None:
    with pytest.raises(PageTokenInvalid):
        other.decode(tokens().encode([7]), [int])


@pytest.mark.parametrize("key", ["", "k", "ke"])
def test_every_changed_character_is_refused(key: str) -> None:
    token = tokens().encode([1234567, key])
    changes = [token[:index] + ("A" if one != "A" else "B") + token[index + 1 :] for index, one in enumerate(token)]
    changes += [token[:-1] + last for last in string.ascii_letters + string.digits + "-_" if last != token[-1]]
    for changed in changes:
        with pytest.raises(PageTokenInvalid):
            tokens().decode(changed, [int, str])


@pytest.mark.parametrize("text", ["é", "A", "AAAA", "no token", "=", "A" * 10_000, "\ud800", "[" * 100_000])
def test_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(PageTokenInvalid):
        tokens().decode(text, [int])


def test_truncated_and_extended_tokens_are_refused() -> None:
    token = tokens().encode([7])
    for changed in (token[:-3], token + "AAAA"):
        with pytest.raises(PageTokenInvalid):
            tokens().decode(changed, [int])


@pytest.mark.parametrize("kinds", [[], [str], [int, str], [bool]])
def test_values_of_other_types_are_refused(kinds: list[type]) -> None:
    with pytest.raises(PageTokenInvalid):
        tokens().decode(tokens().encode([7]), kinds)


@pytest.mark.parametrize(
    "body", ["[9223372036854775808]", '["\\ud800"]', "[NaN]", "[Infinity]", "[1e999]", "{}", "7", "", "[" * 50_000]
)
def test_forged_values_that_no_database_takes_are_refused(body: str) -> None:
    """A forged token with a good digest must not end as INTERNAL in the statement that reads the page."""
    codec = tokens()
    raw = codec._digest(body.encode()) + body.encode()
    token = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    for kind in (int, str, float):
        with pytest.raises(PageTokenInvalid):
            codec.decode(token, [kind])


def test_token_is_text_of_base64url() -> None:
    token = tokens().encode(["ü" * 50])
    assert token.isascii()
    assert json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[12:]) == ["ü" * 50]
