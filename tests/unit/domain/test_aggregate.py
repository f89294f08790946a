"""Declarations of aggregates."""

from __future__ import annotations

import pytest

from diptych import Aggregate
from library.v1.command_service_pb2 import ReturnCopyRequest


def test_aggregate_refuses_a_second_decider_for_a_command() -> None:
    twice = Aggregate[int]("twice", initial=0, id="copy_id")
    twice.decides(ReturnCopyRequest)(lambda state, command, at: [])
    with pytest.raises(ValueError, match="decided twice by aggregate twice"):
        twice.decides(ReturnCopyRequest)


def test_aggregate_refuses_an_id_field_that_a_command_lacks() -> None:
    with pytest.raises(ValueError, match=r"library\.v1\.ReturnCopyRequest has no field shelf_id"):
        Aggregate[int]("shelf", initial=0, id="shelf_id").decides(ReturnCopyRequest)(lambda state, command, at: [])
