"""Subscribers: the bounded buffer, and the states."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from diptych.v1.read_model_pb2 import ResetReason
from query_server.watch.change_reader import Change
from query_server.watch.subscriber import Subscriber, SubscriberState

GENERATION = ResetReason.RESET_REASON_GENERATION
OVERFLOW = ResetReason.RESET_REASON_OVERFLOW


def change(key: str, position: int, size: int = 10) -> Change:
    return Change(key, position, b"x" * size)


def subscriber(rows_max: int = 10, bytes_max: int = 1 << 20) -> Subscriber:
    return Subscriber(None, rows_max=rows_max, bytes_max=bytes_max)


def test_a_buffer_keeps_the_last_state_of_a_row_in_the_order_of_positions() -> None:
    buffer = subscriber()
    for position, key in enumerate("abacab", 1):
        assert buffer.add(change(key, position))
    assert [(c.key, c.position) for c in buffer.drain()] == [("c", 4), ("a", 5), ("b", 6)]
    assert not buffer.has_pending


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(1, 1000))), st.integers(1, 7), st.integers(300, 4000))
def test_a_buffer_is_bounded(puts: list[tuple[str, int]], rows_max: int, bytes_max: int) -> None:
    buffer, kept = subscriber(rows_max, bytes_max), dict[str, Change]()
    for position, (key, size) in enumerate(puts, 1):
        one = change(key, position, size)
        kept.pop(key, None)
        kept[key] = one
        fits = len(kept) == 1 or (len(kept) <= rows_max and sum(c.size for c in kept.values()) <= bytes_max)
        assert buffer.add(one) == fits
        if not fits:
            return
    assert buffer.drain() == list(kept.values())


def test_a_buffer_leaves_out_what_is_known() -> None:
    buffer = subscriber()
    for position, key in enumerate("abcd", 1):
        buffer.add(change(key, position))
    buffer.cover(2)
    assert buffer.add(change("e", 2))
    assert [c.key for c in buffer.drain()] == ["c", "d"]


def test_states_follow_the_diagram() -> None:
    one = subscriber()
    assert one.state is SubscriberState.BEHIND
    one.synced(5)
    assert (one.state, one.covered_through, one.token_position) == (SubscriberState.SYNCED, 5, 5)
    one.add(change("a", 6))
    one.lost(ResetReason.RESET_REASON_OVERFLOW)
    assert (one.state, one.reset_reason) == (SubscriberState.LOST, ResetReason.RESET_REASON_OVERFLOW)
    assert one.woken.is_set()
    assert not one.has_pending
    one.behind()
    assert one.state is SubscriberState.BEHIND
    one.synced(9)
    assert (one.state, one.reset_reason) == (SubscriberState.SYNCED, None)
