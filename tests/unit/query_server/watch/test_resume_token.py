"""Resume tokens: their form, their checksum, and the digest of what is watched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.contract.reasons import (
    ResumeTokenMalformed,
)
from diptych.v1.read_model_pb2 import ResetReason
from query_server.watch.change_reader import Cursor, Page
from query_server.watch.resume_token import ResumeToken, Source, watched

GENERATION = ResetReason.RESET_REASON_GENERATION
OVERFLOW = ResetReason.RESET_REASON_OVERFLOW


# Resume tokens.

SOURCE = Source(3, 7, "00ff00ff00ff00ff")


@given(
    st.integers(0, (1 << 32) - 1),
    st.integers(1, 1 << 40),
    st.binary(min_size=8, max_size=8),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 63) - 1),
)
def test_a_resume_token_comes_back_as_it_was(
    version: int, generation: int, filling: bytes, epoch: int, position: int
) -> None:
    token = ResumeToken(Source(version, generation, filling.hex()), epoch, position)
    digest = watched("users", None)
    text = token.encode(digest).decode()
    assert ResumeToken.decode(text, digest) == token
    assert text.isascii()
    assert "=" not in text


@given(st.text(max_size=100))
def test_what_is_no_resume_token_is_refused(text: str) -> None:
    with pytest.raises(ResumeTokenMalformed):
        ResumeToken.decode(text or "x", watched("users", None))


def test_a_resume_token_is_good_for_its_own_watch_alone() -> None:
    text = ResumeToken(SOURCE, 1, 5).encode(watched("users", ["a", "b"])).decode()
    ResumeToken.decode(text, watched("users", ["b", "a", "b"]))
    for other in (watched("users", ["a"]), watched("users", None), watched("orders", ["a", "b"]), watched("users", [])):
        with pytest.raises(ResumeTokenMalformed):
            ResumeToken.decode(text, other)


@given(st.integers(0, 59), st.sampled_from("ABCxyz019-_"))
def test_a_resume_token_that_was_changed_is_refused(index: int, character: str) -> None:
    digest = watched("users", None)
    text = ResumeToken(SOURCE, 1, 5).encode(digest).decode()
    assert len(text) == 60
    changed = text[:index] + character + text[index + 1 :]
    if changed != text:
        with pytest.raises(ResumeTokenMalformed):
            ResumeToken.decode(changed, digest)


@given(st.sets(st.text(st.characters(codec="utf-8"))), st.sets(st.text(st.characters(codec="utf-8"))))
def test_other_keys_have_another_digest(one: set[str], other: set[str]) -> None:
    assert (watched("v", one) == watched("v", other)) == (one == other)


@pytest.mark.parametrize(
    ("floor", "cursor", "complete"),
    [
        (4, Cursor(5), True),
        (4, Cursor(5, "k"), True),
        (5, Cursor(5), True),
        (5, Cursor(5, "k"), False),
        (6, Cursor(5), False),
        (6, Cursor(5, "k"), False),
    ],
)
def test_a_page_at_the_floor_in_the_middle_of_a_position_does_not_reach_back(
    floor: int, cursor: Cursor, complete: bool
) -> None:
    page = Page(SOURCE, 9, floor, ("", ""))
    assert page.reaches_back_to(cursor) is complete, "tombstones at the floor, behind the key, may be gone"
