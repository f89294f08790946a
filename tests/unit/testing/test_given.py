"""The given/when/then of domains: it fails when it should, and finds what the engine relies on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diptych import Aggregate, AggregateRef, Deciding, Projection, Recorded
from diptych.contract.reasons import RowNotFound
from diptych.domain.folding import FoldFailure
from diptych.testing import LOG_START, NOW, ask, fold, given, log_of, recorded
from library.copies import CopyExists, CopyOnLoan, CopyState, UnknownMember, copy
from library.lending import MemberNotFound, activity, lending, members, open_loans
from library.members import EmailTaken, member
from library.v1.command_service_pb2 import (
    AddCopyRequest,
    BorrowCopyRequest,
    RegisterMemberRequest,
    ReturnCopyRequest,
)
from library.v1.events_pb2 import CopyAdded, CopyBorrowed, CopyReturned, MemberRegistered
from library.v1.query_service_pb2 import (
    GetLoanDayRequest,
    GetMemberRequest,
    GetOpenLoanRequest,
    ListMembersRequest,
    ListOverdueLoansRequest,
)
from library.v1.resources_pb2 import LoanDay, Member, OpenLoan

added = CopyAdded(copy_id="c1", title="Notes")
registered = MemberRegistered(member_id="m1", email="ada@example.com", name="Ada")
other = MemberRegistered(member_id="m2", email="bob@example.com", name="Bob")


def borrowed_at(now: datetime, loan: int = 1) -> CopyBorrowed:
    return CopyBorrowed(
        copy_id="c1",
        member_id="m1",
        loan_id=f"c1.{loan}",
        day=now.date().isoformat(),
        due_time=now + timedelta(days=28),
    )


borrowed = borrowed_at(NOW)
returned = CopyReturned(copy_id="c1", member_id="m1", loan_id="c1.1", day="2026-01-01")


def test_a_copy_on_loan_cannot_be_borrowed() -> None:
    given(copy, added, borrowed).when(
        BorrowCopyRequest(copy_id="c1", member_id="m2"), also=[given(member, other)]
    ).refused(CopyOnLoan(copy_id="c1", member_id="m1"))


def test_events_are_compared_one_by_one() -> None:
    decision = given(copy, added).when(
        BorrowCopyRequest(copy_id="c1", member_id="m1"), also=[given(member, registered)]
    )
    decision.then(borrowed)
    assert decision.state == CopyState(title="Notes", borrower="m1", loan=1)
    with pytest.raises(AssertionError, match=r"Expected nothing\nbut recorded:\nCopyBorrowed"):
        decision.then_nothing()
    with pytest.raises(AssertionError, match="Expected:"):
        decision.then(borrowed, returned)
    with pytest.raises(AssertionError, match="but recorded"):
        decision.refused(CopyOnLoan(copy_id="c1", member_id="m1"))
    with pytest.raises(AssertionError, match="Expected a refusal"):
        decision.invalid("copy_id")


def test_refusals_are_compared_by_reason_and_values() -> None:
    decision = given(copy, added).when(AddCopyRequest(copy_id="c1", title="x"))
    decision.refused(CopyExists(copy_id="c1"))
    with pytest.raises(AssertionError, match="was refused by CopyExists"):
        decision.refused(CopyExists(copy_id="c2"))
    with pytest.raises(AssertionError, match=r"Refused by CopyExists\(copy_id='c1'\)"):
        decision.then(added)


def test_the_time_is_the_tests() -> None:
    then = datetime(2031, 5, 5, tzinfo=UTC)
    given(copy, added).when(
        BorrowCopyRequest(copy_id="c1", member_id="m1"), at=then, also=[given(member, registered)]
    ).then(borrowed_at(then))


def test_what_is_not_given_does_not_exist() -> None:
    given(copy, added).when(BorrowCopyRequest(copy_id="c1", member_id="m1")).refused(UnknownMember(member_id="m1"))


def test_nothing_happens_twice() -> None:
    given(copy, added, borrowed, returned).when(ReturnCopyRequest(copy_id="c1")).then_nothing()


def test_a_unique_value_of_another_aggregate_is_taken() -> None:
    command = RegisterMemberRequest(member_id="m2", email="ADA@example.com", name="x")
    given(member).when(command, also=[given(member, registered)]).refused(EmailTaken(email="ada@example.com"))
    given(member).when(command).then(MemberRegistered(member_id="m2", email="ADA@example.com", name="x"))


def test_an_id_is_made_where_the_command_names_none() -> None:
    command = AddCopyRequest(title="Notes")
    given(copy).when(command, new_id="made").then(CopyAdded(copy_id="made", title="Notes"))
    assert command.copy_id == ""


def test_mistakes_of_a_test_are_named() -> None:
    with pytest.raises(ValueError, match="The events are of copy c1, and the command is for c2"):
        given(copy, added).when(ReturnCopyRequest(copy_id="c2"))
    with pytest.raises(LookupError, match=r"Aggregate copy has no decider for library\.v1\.GetMemberRequest"):
        given(copy).when(GetMemberRequest())
    with pytest.raises(LookupError, match=r"Aggregate copy has no evolver for library\.v1\.MemberRegistered"):
        given(copy, registered)
    with pytest.raises(ValueError, match="The copy has no id; give it one"):
        given(copy).when(ReturnCopyRequest(copy_id="c2"), also=[given(copy)])


def test_an_aggregate_that_reads_does_not_name_cannot_be_read() -> None:
    reader = Aggregate[int]("reader", initial=0, id="copy_id")

    @reader.decides(ReturnCopyRequest)
    def read(state: int, command: ReturnCopyRequest, at: Deciding) -> Sequence[CopyReturned]:
        at.state(member, "m1")
        return []

    with pytest.raises(LookupError, match="reads member/m1, which its `reads` does not name"):
        given(reader).when(ReturnCopyRequest(copy_id="c1"), also=[given(member, registered)])


def test_a_decider_that_changes_its_command_is_found() -> None:
    changing = Aggregate[int]("changing", initial=0, id="copy_id")

    @changing.decides(ReturnCopyRequest)
    def change(state: int, command: ReturnCopyRequest, at: Deciding) -> Sequence[CopyReturned]:
        command.copy_id = "other"
        return []

    with pytest.raises(AssertionError, match="The decider changed the command"):
        given(changing).when(ReturnCopyRequest(copy_id="c1"))


@dataclass(frozen=True)
class Shelf:
    """Holds a message, which can be changed."""

    last: CopyAdded


def test_an_evolver_that_changes_the_state_is_found() -> None:
    shelf = Aggregate[Shelf]("shelf", initial=Shelf(CopyAdded()), id="copy_id")

    @shelf.evolves(CopyAdded)
    def put(state: Shelf, event: CopyAdded) -> Shelf:
        state.last.CopyFrom(event)
        return state

    with pytest.raises(AssertionError, match=r"The evolver of library\.v1\.CopyAdded changed the state"):
        given(shelf, added)


def test_a_state_that_no_snapshot_keeps_is_found() -> None:
    odd = Aggregate[CopyState]("odd", initial=CopyState(), id="copy_id")

    @odd.evolves(CopyAdded)
    def put(state: CopyState, event: CopyAdded) -> CopyState:
        return CopyState(title=("a", "tuple"))  # type: ignore[arg-type]

    with pytest.raises(AssertionError, match="does not survive a snapshot"):
        given(odd, added)


def test_rows_of_a_view_and_of_a_projection() -> None:
    ada = Member(member_id="m1", email="ada@example.com", name="Ada", open_loans=1)
    ada.create_time.FromDatetime(LOG_START + timedelta(seconds=1))
    loan = OpenLoan(loan_id="c1.1", copy_id="c1", member_id="m1", email="ada@example.com", due_time=borrowed.due_time)
    assert fold(members, registered, borrowed) == {"m1": ada}
    assert fold(open_loans, registered, borrowed) == {"c1.1": loan}
    assert fold(open_loans, registered, borrowed, returned) == {}
    assert fold(lending, registered, borrowed) == {"members": {"m1": ada}, "open_loans": {"c1.1": loan}}
    assert fold(members) == {}


def test_a_log_counts_positions_versions_and_seconds() -> None:
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


def test_a_fold_that_fails_is_told() -> None:
    projection = Projection("failing", version=1)
    view = projection.view("failures", Member)

    @view.on(MemberRegistered, key=lambda e: e.member_id)
    def fail(row: Member | None, event: MemberRegistered, at: Recorded) -> Member:
        raise RuntimeError("no")

    with pytest.raises(FoldFailure, match="failed in view failures, row m1: RuntimeError: no"):
        fold(view, registered)


def test_a_fold_that_depends_on_batches_is_found() -> None:
    projection = Projection("impure", version=1)
    view = projection.view("counts", LoanDay)
    calls: list[str] = []

    @view.on(MemberRegistered, key=lambda e: "all")
    def count(row: LoanDay | None, event: MemberRegistered, at: Recorded) -> LoanDay:
        calls.append(event.member_id)
        return LoanDay(borrowed=len(calls))

    with pytest.raises(AssertionError, match="rows of view counts depend on how events are batched"):
        fold(view, registered)


def test_a_fold_in_parts_gets_its_part_of_the_event_under_each_key() -> None:
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


def test_a_query_for_one_row() -> None:
    assert ask(lending, GetMemberRequest(member_id="m1"), registered).name == "Ada"
    with pytest.raises(MemberNotFound):
        ask(lending, GetMemberRequest(member_id="m1"))
    with pytest.raises(RowNotFound) as refusal:
        ask(lending, GetOpenLoanRequest(loan_id="c1.1"), registered)
    assert refusal.value == RowNotFound(view="open_loans", key="c1.1")


def test_a_query_that_makes_up_a_missing_row() -> None:
    assert ask(activity, GetLoanDayRequest(day="2026-01-01")) == LoanDay(day="2026-01-01")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (ListMembersRequest(), "ada bob cyd"),
        (ListMembersRequest(order_by="email desc"), "cyd bob ada"),
        (ListMembersRequest(order_by="name, email desc"), "bob cyd ada"),
        (ListMembersRequest(order_by="name desc"), "cyd ada bob"),
        (ListMembersRequest(name="AD"), "ada cyd"),
        (ListMembersRequest(email_prefix="b"), "bob"),
        (ListMembersRequest(emails=["ada@x.org", "cyd@x.org", "nobody@x.org"]), "ada cyd"),
    ],
    ids=lambda value: f"{value}".strip().replace("\n", ", ") or "all",
)
def test_a_query_for_many_rows(query: Any, expected: str) -> None:
    names = {"ada": "Ada", "cyd": "Ada", "bob": ""}
    history = [MemberRegistered(member_id=id, email=f"{id}@x.org", name=name) for id, name in names.items()]
    answer = ask(lending, query, *history)
    assert " ".join(row.member_id for row in answer.members) == expected


def test_time_passes_in_queries() -> None:
    answer = ask(lending, ListOverdueLoansRequest(), registered, borrowed)
    assert list(answer.loans) == []
    later = ask(lending, ListOverdueLoansRequest(), registered, borrowed, now=NOW + timedelta(days=29))
    assert [loan.loan_id for loan in later.loans] == ["c1.1"]
