"""Log head: samples, lag and identity."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from diptych.contract.token import Epoch, LogIdentity
from query_server.freshness.log_head import IdentitySource, LogHead
from tests.support.clock import Clock
from tests.support.freshness import LOG, FreshnessStage


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 2)), min_size=1, max_size=60),
    applied=st.integers(0, 100),
    age=st.floats(0, 50),
)
def test_samples_answer_like_the_full_history(steps: list[tuple[int, float]], applied: int, age: float) -> None:
    head, position, now = LogHead(), 0, 100.0
    truth: list[tuple[int, float]] = []
    for more, later in steps:
        position, now = position + more, now + later
        head.answer(position, now)
        truth.append((position, now))

    assert (head.position, head.reported_at) == truth[-1]
    assert head.last_time_at(applied) == max((then for there, then in truth if there <= applied), default=None)
    since = head.position_since(now - age)
    assert since is not None
    assert since >= max((there for there, then in truth if then < now - age), default=0)


def test_a_long_history_is_thinned_and_stays_true() -> None:
    head = LogHead()
    for position in range(20_000):
        head.answer(position, float(position))

    assert len(head._reports.positions) <= 4096
    assert len(head._answers.positions) <= 4096
    assert (head.position, head.reported_at) == (19_999, 19_999.0)
    for applied in range(0, 20_000, 777):  # The older, the coarser, and never to our favour.
        allowed = (20_000 - applied) / 20
        assert 0 <= applied - (head.last_time_at(applied) or 0.0) < allowed
        since = head.position_since(float(applied))
        assert since is not None
        assert 0 <= since - applied < allowed


async def test_lag_is_measured_by_this_servers_clock() -> None:
    clock = Clock()
    stage = FreshnessStage(clock=clock)
    stage.tracker.on_head(5, None)
    assert stage.tracker.head.lag_seconds(5) == 0
    clock.now += 0.5
    stage.tracker.on_head(6, None)
    clock.now += 0.5
    assert (stage.tracker.head.lag_events(5), stage.tracker.head.lag_seconds(5)) == (1, 1.0)
    assert stage.tracker.head.lag_seconds(6) == 0
    clock.now += 60  # The command server is away: nobody knows whether 6 is still the head.
    assert stage.tracker.head.lag_seconds(6) == 60.5


def test_a_greater_source_overrules_the_identity() -> None:
    head = LogHead()
    other = LogIdentity(bytes(8), LOG.epochs)
    assert head.identify(LOG, IdentitySource.STORE), "it is the first"
    assert head.identify(other, IdentitySource.PROJECTOR)
    assert not head.identify(LOG, IdentitySource.STORE)
    assert head.identity == other
    assert head.identify(LOG, IdentitySource.COMMAND_SERVER)
    assert not head.identify(other, IdentitySource.PROJECTOR)
    assert head.identity == LOG
    assert not head.identify(LOG, IdentitySource.COMMAND_SERVER), "it is the same"


def test_a_later_epoch_is_taken_from_every_source_and_never_left() -> None:
    head = LogHead()
    later = LogIdentity(LOG.log_id, (*LOG.epochs, Epoch(2, 5)))
    head.identify(LOG, IdentitySource.COMMAND_SERVER)
    head.answer(9, 1.0)
    assert head.identify(later, IdentitySource.STORE)
    assert (head.identity, head.position, head.position_since(0.0), head.log_changes) == (later, None, None, 1)
    assert not head.identify(LOG, IdentitySource.COMMAND_SERVER), "it was stated before the restore"
    other = LogIdentity(bytes(8), LOG.epochs)
    assert not head.identify(other, IdentitySource.PROJECTOR), "the command server stated the log"
    assert head.identity == later


def test_bug_a_report_that_nobody_requested_bounded_the_staleness() -> None:
    """It can have been under way for long: only the answer to a request is certainly newer than the request."""
    head = LogHead()
    head.advance(5, 100.0)
    assert head.position_since(99.0) is None
    head.answer(6, 99.5)
    assert (head.position_since(99.0), head.position_since(99.6)) == (6, None)
