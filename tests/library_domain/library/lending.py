"""Read model: members, open loans and loans per day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from diptych import Find, NotFound, Projection, Recorded
from diptych.domain.projection import Selection
from library.v1.events_pb2 import CopyBorrowed, CopyReturned, MemberRegistered
from library.v1.query_service_pb2 import (
    GetLoanDayRequest,
    GetLoanStatisticsRequest,
    GetMemberRequest,
    GetOpenLoanRequest,
    ListMembersRequest,
    ListMembersResponse,
    ListOverdueLoansRequest,
    ListOverdueLoansResponse,
    LoanStatistics,
)
from library.v1.resources_pb2 import LoanDay, Member, OpenLoan


class MemberNotFound(NotFound, reason="MEMBER_NOT_FOUND"):
    """There is no such member."""

    message = "There is no member {member_id}."
    member_id: str


lending = Projection("lending", version=1)
members = lending.view("members", Member)
email = members.column("email", lambda row: row.email)
loans = members.column("open_loans", lambda row: row.open_loans)
since = members.column("since", lambda row: row.create_time.ToDatetime(UTC))
name = members.column("name", lambda row: row.name)
name_text = members.text("name_text", lambda row: row.name)

open_loans = lending.view("open_loans", OpenLoan)
due = open_loans.column("due", lambda row: row.due_time.ToDatetime(UTC))
borrower = open_loans.column("borrower", lambda row: row.member_id)

activity = Projection("activity", version=1)
days = activity.view("loan_days", LoanDay)
day = days.column("day", lambda row: row.day)


@members.on(MemberRegistered, key=lambda e: e.member_id)
def registered(row: Member | None, event: MemberRegistered, at: Recorded) -> Member | None:
    return Member(member_id=event.member_id, email=event.email, name=event.name, create_time=at.record_time)


@members.on(CopyBorrowed, key=lambda e: e.member_id)
def lent(row: Member | None, event: CopyBorrowed, at: Recorded) -> Member | None:
    if row is not None:
        row.open_loans += 1
    return row


@members.on(CopyReturned, key=lambda e: e.member_id)
def taken_back(row: Member | None, event: CopyReturned, at: Recorded) -> Member | None:
    if row is not None:
        row.open_loans -= 1
    return row


@open_loans.on(CopyBorrowed, key=lambda e: e.loan_id, reads=lambda e: [members.at(e.member_id)])
def opened(row: OpenLoan | None, event: CopyBorrowed, at: Recorded) -> OpenLoan | None:
    member = at.row(members, event.member_id)
    return OpenLoan(
        loan_id=event.loan_id,
        copy_id=event.copy_id,
        due_time=event.due_time,
        member_id=event.member_id,
        email=member.email if member else "",
    )


@open_loans.on(CopyReturned, key=lambda e: e.loan_id)
def closed(row: OpenLoan | None, event: CopyReturned, at: Recorded) -> OpenLoan | None:
    return None


@days.on(CopyBorrowed, key=lambda e: e.day)
def counted_out(row: LoanDay | None, event: CopyBorrowed, at: Recorded) -> LoanDay | None:
    row = row or LoanDay(day=at.key)
    row.borrowed += 1
    return row


@days.on(CopyReturned, key=lambda e: e.day)
def counted_in(row: LoanDay | None, event: CopyReturned, at: Recorded) -> LoanDay | None:
    row = row or LoanDay(day=at.key)
    row.returned += 1
    return row


members.get(GetMemberRequest, key=lambda q: q.member_id, missing=lambda q: MemberNotFound(member_id=q.member_id))
open_loans.get(GetOpenLoanRequest, key=lambda q: q.loan_id)
days.get(GetLoanDayRequest, key=lambda q: q.day, missing=lambda q: LoanDay(day=q.day))


@members.find(
    ListMembersRequest,
    ListMembersResponse,
    order_by={"email": email, "name": name, "open_loans": loans, "create_time": since},
)
def listed(query: ListMembersRequest, now: datetime) -> Find:
    return Find(
        name_text.contains(query.name) if query.name else None,
        email.starts_with(query.email_prefix) if query.email_prefix else None,
        email.among(query.emails) if query.emails else None,
        order=email,
    )


@open_loans.find(ListOverdueLoansRequest, ListOverdueLoansResponse)
def overdue(query: ListOverdueLoansRequest, now: datetime) -> Find:
    return Find(due.lt(now), borrower.eq(query.member_id) if query.member_id else None, order=due)


def _chosen(query: GetLoanStatisticsRequest, now: datetime) -> Selection[LoanDay]:
    return days.where(day.ge(query.first_day) if query.first_day else None)


@activity.combines(GetLoanStatisticsRequest, LoanStatistics, rows=_chosen)
def summed(query: GetLoanStatisticsRequest, rows: Sequence[LoanDay]) -> LoanStatistics:
    return LoanStatistics(
        days=len(rows), borrowed=sum(row.borrowed for row in rows), returned=sum(row.returned for row in rows)
    )
