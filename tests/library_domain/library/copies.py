"""Copies of books, which members borrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from diptych import Aggregate, AlreadyExists, Deciding, FailedPrecondition, NotFound
from library.members import member
from library.v1.command_service_pb2 import (
    AddCopyRequest,
    BorrowCopyRequest,
    PutCopyAsideRequest,
    PutCopyBackRequest,
    ReturnCopyRequest,
)
from library.v1.events_pb2 import CopyAdded, CopyBorrowed, CopyPutAside, CopyPutBack, CopyReturned

LOAN_TIME = timedelta(days=28)


class CopyExists(AlreadyExists, reason="COPY_EXISTS"):
    """The id is taken."""

    message = "Copy {copy_id} exists."
    copy_id: str


class CopyNotFound(NotFound, reason="COPY_NOT_FOUND"):
    """There is no such copy."""

    message = "There is no copy {copy_id}."
    copy_id: str


class CopyOnLoan(FailedPrecondition, reason="COPY_ON_LOAN"):
    """A member has the copy."""

    message = "Copy {copy_id} is on loan to {member_id}."
    copy_id: str
    member_id: str


class CopyPutAsideForAnother(FailedPrecondition, reason="COPY_PUT_ASIDE"):
    """The copy is put aside for another member."""

    message = "Copy {copy_id} is put aside for {member_id}."
    copy_id: str
    member_id: str


class UnknownMember(FailedPrecondition, reason="UNKNOWN_MEMBER"):
    """There is no such member."""

    message = "There is no member {member_id}."
    member_id: str


@dataclass(frozen=True)
class CopyState:
    """State of a copy for decisions."""

    title: str | None = None
    borrower: str | None = None
    loan: int = 0
    aside_for: str | None = None


copy = Aggregate[CopyState]("copy", initial=CopyState(), id="copy_id")


@copy.decides(AddCopyRequest)
def add(state: CopyState, command: AddCopyRequest, at: Deciding) -> Sequence[CopyAdded]:
    if state.title is not None:
        raise CopyExists(copy_id=at.id)
    return [CopyAdded(copy_id=at.id, title=command.title)]


@copy.decides(BorrowCopyRequest, reads=lambda c: [member.ref(c.member_id)])
def borrow(state: CopyState, command: BorrowCopyRequest, at: Deciding) -> Sequence[CopyBorrowed]:
    if state.title is None:
        raise CopyNotFound(copy_id=command.copy_id)
    if at.state(member, command.member_id).email is None:
        raise UnknownMember(member_id=command.member_id)
    if state.borrower is not None:
        raise CopyOnLoan(copy_id=command.copy_id, member_id=state.borrower)
    if state.aside_for not in (None, command.member_id):
        raise CopyPutAsideForAnother(copy_id=command.copy_id, member_id=state.aside_for)
    borrowed = CopyBorrowed(
        copy_id=command.copy_id,
        member_id=command.member_id,
        loan_id=f"{command.copy_id}.{state.loan + 1}",
        day=at.now.date().isoformat(),
    )
    borrowed.due_time.FromDatetime(at.now + LOAN_TIME)
    return [borrowed]


@copy.decides(ReturnCopyRequest)
def give_back(state: CopyState, command: ReturnCopyRequest, at: Deciding) -> Sequence[CopyReturned]:
    if state.title is None:
        raise CopyNotFound(copy_id=command.copy_id)
    if state.borrower is None:
        return []
    return [
        CopyReturned(
            copy_id=command.copy_id,
            member_id=state.borrower,
            loan_id=f"{command.copy_id}.{state.loan}",
            day=at.now.date().isoformat(),
        )
    ]


@copy.decides(PutCopyAsideRequest, internal=True)
def put_aside(state: CopyState, command: PutCopyAsideRequest, at: Deciding) -> Sequence[CopyPutAside]:
    if state.title is None:
        raise CopyNotFound(copy_id=command.copy_id)
    if state.borrower is not None:
        raise CopyOnLoan(copy_id=command.copy_id, member_id=state.borrower)
    return [CopyPutAside(copy_id=command.copy_id, member_id=command.member_id)]


@copy.decides(PutCopyBackRequest, internal=True)
def put_back(state: CopyState, command: PutCopyBackRequest, at: Deciding) -> Sequence[CopyPutBack]:
    if state.borrower is not None:
        raise CopyOnLoan(copy_id=command.copy_id, member_id=state.borrower)
    return [CopyPutBack(copy_id=command.copy_id)] if state.aside_for is not None else []


@copy.evolves(CopyAdded)
def added(state: CopyState, event: CopyAdded) -> CopyState:
    return CopyState(title=event.title)


@copy.evolves(CopyBorrowed)
def borrowed(state: CopyState, event: CopyBorrowed) -> CopyState:
    return replace(state, borrower=event.member_id, loan=state.loan + 1, aside_for=None)


@copy.evolves(CopyReturned)
def returned(state: CopyState, event: CopyReturned) -> CopyState:
    return replace(state, borrower=None)


@copy.evolves(CopyPutAside)
def is_aside(state: CopyState, event: CopyPutAside) -> CopyState:
    return replace(state, aside_for=event.member_id)


@copy.evolves(CopyPutBack)
def is_back(state: CopyState, event: CopyPutBack) -> CopyState:
    return replace(state, aside_for=None)
