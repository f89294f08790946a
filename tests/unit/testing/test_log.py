"""The log of a test: `recorded` and `log_of`."""

from __future__ import annotations

from datetime import UTC, timedelta

from diptych import AggregateRef
from diptych.testing import LOG_START, NOW, log_of, recorded
from library.v1.events_pb2 import CopyAdded, CopyBorrowed, CopyReturned, MemberRegistered

added = CopyAdded(copy_id="c1", title="Notes")
registered = MemberRegistered(member_id="m1", email="ada@example.com", name="Ada")
borrowed = CopyBorrowed(
    copy_id="c1", member_id="m1", loan_id="c1.1", day="2026-01-01", due_time=NOW + timedelta(days=28)
)
returned = CopyReturned(copy_id="c1", member_id="m1", loan_id="c1.1", day="2026-01-01")


def test_log_of_numbers_positions_versions_and_seconds() -> None:
    log = log_of(registered, added, borrowed, recorded(returned, version=9, aggregate=AggregateRef("x", "y")))
    assert [event.position for event in log] == [1, 2, 3, 4]
    assert [event.version for event in log] == [1, 1, 2, 9]
    assert [(event.aggregate.type, event.aggregate.id) for event in log] == [
        ("member", "m1"),
        ("copy", "c1"),
        ("copy", "c1"),
        ("x", "y"),
    ]
    assert log[2].record_time.ToDatetime(UTC) == LOG_START + timedelta(seconds=3)
    assert log_of(recorded(added, time=NOW))[0].record_time.ToDatetime(UTC) == NOW
