"""Responses to queries after events: `ask`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from diptych import Find, Projection
from diptych.contract.reasons import RowNotFound
from diptych.domain.query import Column, ColumnError
from diptych.testing import NOW, ask
from library.lending import MemberNotFound, activity, lending
from library.v1.events_pb2 import CopyBorrowed, CopyReturned, MemberRegistered
from library.v1.query_service_pb2 import (
    GetLoanDayRequest,
    GetMemberRequest,
    GetOpenLoanRequest,
    ListMembersRequest,
    ListMembersResponse,
    ListOverdueLoansRequest,
)
from library.v1.resources_pb2 import LoanDay, Member

registered = MemberRegistered(member_id="m1", email="ada@example.com", name="Ada")
borrowed = CopyBorrowed(
    copy_id="c1", member_id="m1", loan_id="c1.1", day="2026-01-01", due_time=NOW + timedelta(days=28)
)
returned = CopyReturned(copy_id="c1", member_id="m1", loan_id="c1.1", day="2026-01-01")


def test_ask_returns_one_row_or_raises_the_refusal() -> None:
    assert ask(lending, GetMemberRequest(member_id="m1"), registered).name == "Ada"
    with pytest.raises(MemberNotFound):
        ask(lending, GetMemberRequest(member_id="m1"))
    with pytest.raises(RowNotFound) as refusal:
        ask(lending, GetOpenLoanRequest(loan_id="c1.1"), registered)
    assert refusal.value == RowNotFound(view="open_loans", key="c1.1")


def test_ask_returns_the_row_that_stands_for_a_missing_one() -> None:
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
def test_ask_filters_and_orders_rows(query: Any, expected: str) -> None:
    names = {"ada": "Ada", "cyd": "Ada", "bob": ""}
    history = [MemberRegistered(member_id=id, email=f"{id}@x.org", name=name) for id, name in names.items()]
    answer = ask(lending, query, *history)
    assert " ".join(row.member_id for row in answer.members) == expected


def test_ask_uses_the_time_of_the_query() -> None:
    answer = ask(lending, ListOverdueLoansRequest(), registered, borrowed)
    assert list(answer.loans) == []
    later = ask(lending, ListOverdueLoansRequest(), registered, borrowed, now=NOW + timedelta(days=29))
    assert [loan.loan_id for loan in later.loans] == ["c1.1"]


def _projection(find: Callable[[Column[str], Column[str]], Any]) -> Projection:
    """Return a projection with a list query that finds rows by a column of its view and one of another view."""
    projection = Projection("members", version=1)
    other = projection.view("other", Member).column("name", lambda row: row.name)
    view = projection.view("members", Member)
    own = view.column("email", lambda row: row.email)
    view.on(MemberRegistered, key=lambda e: e.member_id)(lambda row, event, at: Member(email=event.email))

    @view.find(ListMembersRequest, ListMembersResponse)
    def members(query: ListMembersRequest, now: datetime) -> Find:
        found: Find = find(own, other)
        return found

    return projection


@pytest.mark.parametrize(
    ("find", "error"),
    [
        (
            lambda own, other: Find(other.eq("Ada")),
            "has a condition on column name of view other, and it finds rows of",
        ),
        (
            lambda own, other: Find(order=other.descending()),
            "orders by column name of view other, and it finds rows of",
        ),
        (lambda own, other: Find(own.eq(7)), "compares column email of view members, .* of type str, with 7"),
        (lambda own, other: Find(own.among([None])), "compares column email of view members, .*, with None"),
        (
            lambda own, other: Find(own.eq("a"), cast("Any", True)),
            "has the condition True, a bool; make it of a column",
        ),
        (lambda own, other: Find(order=cast("Any", "email")), "orders by 'e'; order by a column"),
        (lambda own, other: None, "returned NoneType; return Find"),
    ],
)
def test_bug_condition_on_a_column_of_another_view_was_an_empty_list(find: Any, error: str) -> None:
    with pytest.raises(ColumnError, match=rf"Query library\.v1\.ListMembersRequest, members \(.*\), {error}"):
        ask(_projection(find), ListMembersRequest(), registered)


def test_combined_query_of_another_view_or_projection_is_refused() -> None:
    elsewhere = Projection("elsewhere", version=1).view("elsewhere", Member)
    projection = Projection("members", version=1)
    view = projection.view("members", Member)
    name = elsewhere.column("name", lambda row: row.name)

    @projection.combines(GetMemberRequest, Member, rows=lambda query, now: elsewhere.where())
    def combine(query: GetMemberRequest, rows: Sequence[Member]) -> Member:
        return Member()

    with pytest.raises(ColumnError, match="selects rows of view elsewhere, which projection members does not have"):
        ask(projection, GetMemberRequest(member_id="m1"))
    with pytest.raises(ColumnError, match=r"members\.where has a condition on column name of view elsewhere"):
        view.where(name.eq("Ada"))


def test_key_of_a_query_that_is_no_text_is_refused() -> None:
    projection = Projection("members", version=1)
    untyped: Any = lambda query: 7  # noqa: E731
    projection.view("members", Member).get(GetMemberRequest, key=untyped)
    with pytest.raises(TypeError, match=r"The key of query library\.v1\.GetMemberRequest, .* returned 7, an int"):
        ask(projection, GetMemberRequest(member_id="m1"))
