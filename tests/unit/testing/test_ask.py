"""Responses to queries after events: `ask`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from diptych.contract.reasons import RowNotFound
from diptych.testing import NOW, ask
from library.lending import MemberNotFound, activity, lending
from library.v1.events_pb2 import CopyBorrowed, CopyReturned, MemberRegistered
from library.v1.query_service_pb2 import (
    GetLoanDayRequest,
    GetMemberRequest,
    GetOpenLoanRequest,
    ListMembersRequest,
    ListOverdueLoansRequest,
)
from library.v1.resources_pb2 import LoanDay

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
