"""Declarations of aggregates."""

from __future__ import annotations

import pytest

from diptych import Aggregate
from diptych.domain.aggregate import AggregateIdError, AggregateRef
from library.v1.command_service_pb2 import ReturnCopyRequest


def test_aggregate_refuses_a_second_decider_for_a_command() -> None:
    twice = Aggregate[int]("twice", initial=0, id="copy_id")
    twice.decides(ReturnCopyRequest)(lambda state, command, at: [])
    with pytest.raises(ValueError, match="decided twice by aggregate twice"):
        twice.decides(ReturnCopyRequest)


def test_aggregate_refuses_an_id_field_that_a_command_lacks() -> None:
    with pytest.raises(ValueError, match=r"library\.v1\.ReturnCopyRequest has no field shelf_id"):
        Aggregate[int]("shelf", initial=0, id="shelf_id").decides(ReturnCopyRequest)(lambda state, command, at: [])


@pytest.mark.parametrize(
    ("type", "id", "error"),
    [
        ("copy", "shelf\0c1", r"an aggregate's id must not contain the character NUL: 'shelf\\x00c1'"),
        ("co\0py", "c1", "an aggregate's type must not contain the character NUL"),
        ("co/py", "c1", "an aggregate's type must not contain a slash"),
        ("copy", "\ud800", "an aggregate's id must be text that UTF-8 can encode"),
        ("copy", 7, "an aggregate's id must be a string, not int"),
    ],
)
def test_reference_refuses_a_type_or_id_that_cannot_name_a_stream(type: str, id: str, error: str) -> None:
    with pytest.raises(AggregateIdError, match=error):
        AggregateRef(type, id)


def test_aggregate_refuses_a_type_that_cannot_name_a_stream() -> None:
    with pytest.raises(ValueError, match="must not contain a slash"):
        Aggregate[int]("co/py", initial=0, id="copy_id")


def test_reference_takes_ids_with_slashes_and_of_any_language() -> None:
    ref = AggregateRef("copy", "regal/ä/本")
    assert (str(ref), ref, repr(ref)) == (
        "copy/regal/ä/本",
        ("copy", "regal/ä/本"),
        "AggregateRef(type='copy', id='regal/ä/本')",
    )
