"""Tokens: strings whose order is the order of the log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.contract.reasons import TokenMalformed, TokenOfAnotherLog, TokenOfOlderEpoch
from diptych.contract.token import TOKEN_LENGTH, Epoch, LogIdentity, Token

LOG = b"\x00\x01\xfe\xffLOGS"
positions = st.integers(0, (1 << 63) - 1)
epochs = st.integers(0, (1 << 32) - 1)
log_ids = st.binary(min_size=8, max_size=8)

restored_twice = LogIdentity(LOG, [Epoch(1, 1), Epoch(2, 100), Epoch(5, 50)])
"""A log whose epoch 2 began at 100, and which was then restored to before 50."""


@given(log_ids, epochs, positions)
def test_token_survives_its_text(log_id: bytes, epoch: int, position: int) -> None:
    token = Token(log_id, epoch, position)
    assert Token.parse(str(token)) == token
    assert len(str(token)) == TOKEN_LENGTH
    assert str(token).isalnum()
    assert str(token) == str(token).upper()


@given(st.tuples(epochs, positions), st.tuples(epochs, positions))
def test_strings_have_the_order_of_epoch_and_position(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (str(Token(LOG, *one)) < str(Token(LOG, *other))) == (one < other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 31,
        "0" * 33,
        "0" * 31 + "=",
        "0" * 31 + "W",
        "0" * 31 + "a",
        "0" * 31 + "é",
        "0" * 31 + " ",
        "0" * 31 + "\n",
        "ß" * 32,
        "٣" * 32,
        "V" * 32,
        "hello",
        "x" * 10_000,
    ],
)
def test_malformed_token_is_refused(text: str) -> None:
    with pytest.raises(TokenMalformed) as refusal:
        Token.parse(text)
    assert refusal.value == TokenMalformed(token=text[:64])
    assert refusal.value.metadata["token"] == text[:64]


@given(st.text(max_size=40))
def test_every_text_is_a_token_or_refused(text: str) -> None:
    try:
        token = Token.parse(text)
    except TokenMalformed:
        return
    assert str(token) == text


def test_token_has_the_epoch_in_which_its_position_was_written() -> None:
    log = LogIdentity(LOG, [Epoch(1, 1), Epoch(4, 10)])
    assert [Token.parse(log.token(position)).epoch for position in (0, 1, 9, 10, 11)] == [1, 1, 1, 4, 4]
    assert log.epoch == 4


@given(st.lists(st.integers(1, 1_000), max_size=5), positions, positions)
def test_tokens_of_a_log_have_the_order_of_its_positions(steps: list[int], one: int, other: int) -> None:
    firsts = [1]
    for step in steps:
        firsts.append(firsts[-1] + step)
    log = LogIdentity(LOG, [Epoch(number, first) for number, first in enumerate(firsts, 1)])
    assert (log.token(one) < log.token(other)) == (one < other)


@given(positions)
def test_identity_accepts_its_own_tokens(position: int) -> None:
    log = LogIdentity(LOG, [Epoch(1, 1), Epoch(2, 100), Epoch(3, 5_000)])
    assert log.judge(Token.parse(log.token(position))) == position


def test_position_zero_has_a_token() -> None:
    assert restored_twice.judge(Token.parse(restored_twice.token(0))) == 0


def test_token_of_another_log_is_refused() -> None:
    with pytest.raises(TokenOfAnotherLog) as refusal:
        restored_twice.judge(Token(b"ANOTHER.", 1, 1))
    assert refusal.value == TokenOfAnotherLog(token_log_id=b"ANOTHER.".hex(), log_id=LOG.hex())


@pytest.mark.parametrize(("epoch", "position"), [(1, 49), (2, 49), (1, 1), (5, 50), (5, 10**9), (1, 0)])
def test_token_of_an_older_epoch_is_accepted_before_the_next_epochs_first_position(epoch: int, position: int) -> None:
    assert restored_twice.judge(Token(LOG, epoch, position)) == position


@pytest.mark.parametrize(("epoch", "position"), [(1, 50), (2, 50), (2, 120), (1, 100), (4, 60)])
def test_token_of_lost_events_is_refused(epoch: int, position: int) -> None:
    with pytest.raises(TokenOfOlderEpoch) as refusal:
        restored_twice.judge(Token(LOG, epoch, position))
    assert (refusal.value.token_epoch, refusal.value.token_position) == (epoch, position)
    assert refusal.value.first_position in (50, 100)


def test_token_of_a_newer_epoch_keeps_its_position() -> None:
    assert restored_twice.judge(Token(LOG, 9, 10**6)) == 10**6


def test_new_logs_have_different_ids() -> None:
    one, other = LogIdentity.new(), LogIdentity.new()
    assert one.log_id != other.log_id
    assert (one.epoch, one.epochs) == (1, (Epoch(1, 1),))
    assert one != other
    assert one == LogIdentity(one.log_id, one.epochs)
