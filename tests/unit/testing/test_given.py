"""Scenarios of aggregates: assertions, and checks of the rules on which the engine relies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diptych import Aggregate, Deciding
from diptych.testing import NOW, given
from library.copies import CopyExists, CopyOnLoan, CopyState, UnknownMember, copy
from library.members import EmailTaken, member
from library.v1.command_service_pb2 import (
    AddCopyRequest,
    BorrowCopyRequest,
    RegisterMemberRequest,
    ReturnCopyRequest,
)
from library.v1.events_pb2 import CopyAdded, CopyBorrowed, CopyReturned, MemberRegistered
from library.v1.query_service_pb2 import (
    GetMemberRequest,
)

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


def test_when_returns_a_refusal() -> None:
    given(copy, added, borrowed).when(
        BorrowCopyRequest(copy_id="c1", member_id="m2"), also=[given(member, other)]
    ).refused(CopyOnLoan(copy_id="c1", member_id="m1"))


def test_then_compares_all_events_in_order() -> None:
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


def test_refused_compares_class_and_fields() -> None:
    decision = given(copy, added).when(AddCopyRequest(copy_id="c1", title="x"))
    decision.refused(CopyExists(copy_id="c1"))
    with pytest.raises(AssertionError, match="was refused by CopyExists"):
        decision.refused(CopyExists(copy_id="c2"))
    with pytest.raises(AssertionError, match=r"Refused by CopyExists\(copy_id='c1'\)"):
        decision.then(added)


def test_decision_has_the_time_of_the_test() -> None:
    then = datetime(2031, 5, 5, tzinfo=UTC)
    given(copy, added).when(
        BorrowCopyRequest(copy_id="c1", member_id="m1"), at=then, also=[given(member, registered)]
    ).then(borrowed_at(then))


def test_aggregate_that_is_not_given_does_not_exist() -> None:
    given(copy, added).when(BorrowCopyRequest(copy_id="c1", member_id="m1")).refused(UnknownMember(member_id="m1"))


def test_repeated_command_records_nothing() -> None:
    given(copy, added, borrowed, returned).when(ReturnCopyRequest(copy_id="c1")).then_nothing()


def test_unique_value_of_another_aggregate_is_refused() -> None:
    command = RegisterMemberRequest(member_id="m2", email="ADA@example.com", name="x")
    given(member).when(command, also=[given(member, registered)]).refused(EmailTaken(email="ada@example.com"))
    given(member).when(command).then(MemberRegistered(member_id="m2", email="ADA@example.com", name="x"))


def test_empty_id_of_a_command_is_filled_in() -> None:
    command = AddCopyRequest(title="Notes")
    given(copy).when(command, new_id="made").then(CopyAdded(copy_id="made", title="Notes"))
    assert command.copy_id == ""


def test_wrong_use_of_given_raises() -> None:
    with pytest.raises(ValueError, match="The events are of copy c1, and the command is for c2"):
        given(copy, added).when(ReturnCopyRequest(copy_id="c2"))
    with pytest.raises(LookupError, match=r"Aggregate copy has no decider for library\.v1\.GetMemberRequest"):
        given(copy).when(GetMemberRequest())
    with pytest.raises(LookupError, match=r"Aggregate copy has no evolver for library\.v1\.MemberRegistered"):
        given(copy, registered)
    with pytest.raises(ValueError, match="The copy has no id; give it one"):
        given(copy).when(ReturnCopyRequest(copy_id="c2"), also=[given(copy)])


def test_decider_cannot_read_an_aggregate_that_reads_does_not_name() -> None:
    reader = Aggregate[int]("reader", initial=0, id="copy_id")

    @reader.decides(ReturnCopyRequest)
    def read(state: int, command: ReturnCopyRequest, at: Deciding) -> Sequence[CopyReturned]:
        at.state(member, "m1")
        return []

    with pytest.raises(LookupError, match="reads member/m1, which its `reads` does not name"):
        given(reader).when(ReturnCopyRequest(copy_id="c1"), also=[given(member, registered)])


def test_decider_that_changes_its_command_fails_the_test() -> None:
    changing = Aggregate[int]("changing", initial=0, id="copy_id")

    @changing.decides(ReturnCopyRequest)
    def change(state: int, command: ReturnCopyRequest, at: Deciding) -> Sequence[CopyReturned]:
        command.copy_id = "other"
        return []

    with pytest.raises(AssertionError, match="The decider changed the command"):
        given(changing).when(ReturnCopyRequest(copy_id="c1"))


@dataclass(frozen=True)
class Shelf:
    """A state with a message, which can be changed."""

    last: CopyAdded


def test_evolver_that_changes_its_state_fails_the_test() -> None:
    shelf = Aggregate[Shelf]("shelf", initial=Shelf(CopyAdded()), id="copy_id")

    @shelf.evolves(CopyAdded)
    def put(state: Shelf, event: CopyAdded) -> Shelf:
        state.last.CopyFrom(event)
        return state

    with pytest.raises(AssertionError, match=r"The evolver of library\.v1\.CopyAdded changed the state"):
        given(shelf, added)


def test_state_that_differs_after_a_snapshot_fails_the_test() -> None:
    odd = Aggregate[CopyState]("odd", initial=CopyState(), id="copy_id")

    @odd.evolves(CopyAdded)
    def put(state: CopyState, event: CopyAdded) -> CopyState:
        return CopyState(title=("a", "tuple"))  # type: ignore[arg-type]

    with pytest.raises(AssertionError, match="does not survive a snapshot"):
        given(odd, added)


def _copies(result: object) -> Aggregate[CopyState]:
    """Return an aggregate whose decider and evolver return one thing."""
    copies: Aggregate[CopyState] = Aggregate("copy", initial=CopyState(), id="copy_id")

    @copies.decides(AddCopyRequest)
    def add(state: CopyState, command: AddCopyRequest, at: Deciding) -> Any:
        return result

    @copies.evolves(CopyAdded)
    def evolve_added(state: CopyState, event: CopyAdded) -> Any:
        return result

    return copies


_PLACE = r"\(.*test_given\.py:\d+\)"


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (None, r"returned None; return a list of events, \[\] if there is nothing to do\."),
        (added, r"returned the message library\.v1\.CopyAdded; return a list of events"),
        (iter([added]), r"returned a list_iterator; return a list of events"),
        ("added", r"returned a str; return a list of events"),
        ([CopyAdded], r"returned a sequence with the class CopyAdded; return a list of event messages\."),
        ([added, None], r"returned a sequence with None; return a list of event messages\."),
    ],
)
def test_bug_decider_that_returns_no_list_of_events_was_an_error_of_python(result: Any, error: str) -> None:
    with pytest.raises(TypeError, match=rf"The decider of library\.v1\.AddCopyRequest, add {_PLACE}, {error}"):
        given(_copies(result)).when(AddCopyRequest(copy_id="c1", title="Notes"))


@pytest.mark.parametrize(("result", "error"), [(None, "None"), ([], "a list")])
def test_bug_evolver_that_returns_no_state_was_an_error_of_the_codec(result: Any, error: str) -> None:
    with pytest.raises(
        TypeError,
        match=rf"The evolver of library\.v1\.CopyAdded, evolve_added {_PLACE}, returned {error}; return the next state "
        "of copy, of type CopyState",
    ):
        given(_copies(result), added)
