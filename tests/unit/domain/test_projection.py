"""Declarations of projections, views and columns."""

from __future__ import annotations

from typing import Any

import pytest

from diptych import Projection, Recorded
from library.v1.events_pb2 import (
    CopyBorrowed,
)
from library.v1.query_service_pb2 import (
    GetMemberRequest,
)
from library.v1.resources_pb2 import Member


def fold_nothing(row: Any, event: Any, at: Recorded) -> Any:
    return row


def test_projection_refuses_a_second_query_with_the_same_request() -> None:
    view = Projection("p", version=1).view("v", Member)
    view.get(GetMemberRequest, key=lambda q: q.member_id)
    with pytest.raises(ValueError, match="GetMemberRequest is answered twice"):
        view.get(GetMemberRequest, key=lambda q: q.member_id)


def test_view_refuses_a_second_fold_of_an_event() -> None:
    view = Projection("p", version=1).view("v", Member)
    view.on(CopyBorrowed, key=lambda e: e.loan_id)(fold_nothing)
    with pytest.raises(ValueError, match=r"View v folds library\.v1\.CopyBorrowed twice"):
        view.on(CopyBorrowed, key=lambda e: e.loan_id)
    with pytest.raises(ValueError, match=r"View v folds library\.v1\.CopyBorrowed twice"):
        view.on_parts(CopyBorrowed, parts=lambda e: {e.loan_id: 1})


def test_view_refuses_a_column_that_cannot_be_compared() -> None:
    view = Projection("p", version=1).view("v", Member)
    view.column("email", lambda row: row.email)
    with pytest.raises(ValueError, match="View v has a column email already"):
        view.column("email", lambda row: row.email)
    with pytest.raises(ValueError, match="View v has a column position already"):
        view.column("position", lambda row: row.email)
    with pytest.raises(ValueError, match=r"Column shelf of view v fails on an empty row: .*shelf"):
        view.column("shelf", lambda row: row.shelf)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="Column since of view v gives a Timestamp"):
        view.column("since", lambda row: row.create_time)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="Column email of view v is not searchable"):
        view.columns["email"].contains("x")


def test_text_column_is_case_folded_and_can_be_indexed() -> None:
    view = Projection("p", version=1).view("v", Member)
    text = view.text("email_text", lambda row: row.email, indexed=True)
    assert text.indexed
    assert text.value(Member(email="ÄDA@Example.com")) == "äda@example.com"
    assert text.contains("ÄDA").value == "äda"
