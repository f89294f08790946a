"""Wire format: fields written by hand have the bytes of protobuf."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from diptych.contract.wire import delimited, integer, varint
from diptych.v1.commands_pb2 import AggregateRef, CommandResult
from diptych.v1.events_pb2 import Progress


@given(st.integers(0, (1 << 63) - 1))
def test_integers_have_the_bytes_of_protobuf(value: int) -> None:
    assert integer(2, value) == Progress(position=value).SerializeToString()


@given(st.text(min_size=1, max_size=300))
def test_strings_have_the_bytes_of_protobuf(value: str) -> None:
    assert delimited(2, value.encode()) == AggregateRef(id=value).SerializeToString()


@given(st.booleans())
def test_bools_have_the_bytes_of_protobuf(value: bool) -> None:
    assert integer(4, value) == CommandResult(duplicate=value).SerializeToString()


def test_varint_has_one_byte_for_seven_bits() -> None:
    lengths = [len(varint(1 << bits)) for bits in (0, 6, 7, 13, 14, 62)]
    assert lengths == [1, 1, 2, 2, 3, 9]


def test_empty_string_is_written_and_reads_as_empty() -> None:
    assert AggregateRef.FromString(delimited(2, b"")) == AggregateRef()
