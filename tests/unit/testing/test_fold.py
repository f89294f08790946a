"""Rows of views after events: `fold`."""

from __future__ import annotations

from datetime import timedelta

import pytest

from diptych import Projection, Recorded
from diptych.domain.folding import FoldFailure
from diptych.testing import LOG_START, NOW, fold
from library.lending import lending, members, open_loans
from library.v1.events_pb2 import CopyBorrowed, CopyReturned, MemberRegistered
from library.v1.resources_pb2 import LoanDay, Member, OpenLoan

registered = MemberRegistered(member_id="m1", email="ada@example.com", name="Ada")
other = MemberRegistered(member_id="m2", email="bob@example.com", name="Bob")
borrowed = CopyBorrowed(
    copy_id="c1", member_id="m1", loan_id="c1.1", day="2026-01-01", due_time=NOW + timedelta(days=28)
)
returned = CopyReturned(copy_id="c1", member_id="m1", loan_id="c1.1", day="2026-01-01")


def test_fold_returns_rows_of_a_view_and_of_a_projection() -> None:
    ada = Member(member_id="m1", email="ada@example.com", name="Ada", open_loans=1)
    ada.create_time.FromDatetime(LOG_START + timedelta(seconds=1))
    loan = OpenLoan(loan_id="c1.1", copy_id="c1", member_id="m1", email="ada@example.com", due_time=borrowed.due_time)
    assert fold(members, registered, borrowed) == {"m1": ada}
    assert fold(open_loans, registered, borrowed) == {"c1.1": loan}
    assert fold(open_loans, registered, borrowed, returned) == {}
    assert fold(lending, registered, borrowed) == {"members": {"m1": ada}, "open_loans": {"c1.1": loan}}
    assert fold(members) == {}


def test_fold_raises_the_failure_of_a_fold() -> None:
    projection = Projection("failing", version=1)
    view = projection.view("failures", Member)

    @view.on(MemberRegistered, key=lambda e: e.member_id)
    def fail(row: Member | None, event: MemberRegistered, at: Recorded) -> Member:
        raise RuntimeError("no")

    with pytest.raises(FoldFailure, match="failed in view failures, row m1: RuntimeError: no"):
        fold(view, registered)


def test_fold_that_depends_on_batches_fails_the_test() -> None:
    projection = Projection("impure", version=1)
    view = projection.view("counts", LoanDay)
    calls: list[str] = []

    @view.on(MemberRegistered, key=lambda e: "all")
    def count(row: LoanDay | None, event: MemberRegistered, at: Recorded) -> LoanDay:
        calls.append(event.member_id)
        return LoanDay(borrowed=len(calls))

    with pytest.raises(AssertionError, match="rows of view counts depend on how events are batched"):
        fold(view, registered)


def test_fold_of_parts_gets_the_part_of_each_key() -> None:
    projection = Projection("parts", version=1)
    view = projection.view("letters", LoanDay)

    @view.on_parts(MemberRegistered, parts=lambda e: {letter: e.name.count(letter) for letter in e.name})
    def count(row: LoanDay | None, part: int, at: Recorded) -> LoanDay:
        row = row or LoanDay(day=at.key)
        row.borrowed += part
        return row

    bobby = MemberRegistered(member_id="m3", name="Bobby")
    assert fold(view, other, bobby) == {
        "B": LoanDay(day="B", borrowed=2),
        "b": LoanDay(day="b", borrowed=3),
        "o": LoanDay(day="o", borrowed=2),
        "y": LoanDay(day="y", borrowed=1),
    }
