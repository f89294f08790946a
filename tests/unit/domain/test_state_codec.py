"""The codec of states: round trips, shapes, and types that a state cannot hold."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NewType

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.state_codec import StateCodec
from shop.v1.users_pb2 import USER_ROLE_CUSTOMER, USER_ROLE_SELLER, UserRole

Name = NewType("Name", str)


class Colour(enum.Enum):
    """An enum of Python."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Part:
    """A state within a state."""

    name: Name = Name("")
    price: Money | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state with a field of each type."""

    text: str = ""
    number: int = 0
    ratio: float = 0.0
    yes: bool = False
    data: bytes = b""
    nothing: None = None
    maybe: str | None = None
    when: datetime | None = None
    colour: Colour = Colour.RED
    role: UserRole = USER_ROLE_CUSTOMER
    pair: tuple[str, int] = ("", 0)
    many: tuple[tuple[str, str], ...] = ()
    part: Part = field(default_factory=Part)
    parts: tuple[Part, ...] = ()
    money: Money = field(default_factory=Money)


times = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30))]))
moneys = st.builds(Money, currency_code=st.sampled_from(["GBP", "EUR"]), units=st.integers(0, 2**63 - 1))
some_parts = st.builds(Part, name=st.text().map(Name), price=st.none() | moneys)
texts = st.text(st.characters(codec="utf-8"))
states = st.builds(
    State,
    text=texts,
    number=st.integers(),
    ratio=st.floats(allow_nan=False),
    yes=st.booleans(),
    data=st.binary(),
    maybe=st.none() | texts,
    when=st.none() | times,
    colour=st.sampled_from(Colour),
    role=st.sampled_from([USER_ROLE_CUSTOMER, USER_ROLE_SELLER]),
    pair=st.tuples(texts, st.integers()),
    many=st.lists(st.tuples(texts, texts)).map(tuple),
    part=some_parts,
    parts=st.lists(some_parts).map(tuple),
    money=moneys,
)


@given(states)
def test_decoded_state_is_equal(state: State) -> None:
    codec = StateCodec(State)
    assert codec.decode(codec.encode(state)) == state
    assert codec.encode(codec.decode(codec.encode(state))) == codec.encode(state)


def test_state_without_fields_can_be_decoded() -> None:
    @dataclass(frozen=True)
    class Nothing:
        pass

    codec = StateCodec(Nothing)
    assert codec.decode(codec.encode(Nothing())) == Nothing()


def made(**annotations: Any) -> type[Any]:
    """Return a frozen dataclass with these fields."""
    return dataclass(frozen=True)(type("Made", (), {"__annotations__": annotations, "__module__": __name__}))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": str}, {"a": int}),
        ({"a": str}, {"b": str}),
        ({"a": str}, {"a": str, "b": str}),
        ({"a": str, "b": str}, {"b": str, "a": str}),
        ({"a": str}, {"a": str | None}),
        ({"a": tuple[str, ...]}, {"a": tuple[str, str]}),
        ({"a": Money}, {"a": Timestamp}),
        ({"a": Colour}, {"a": str}),
    ],
)
def test_digest_differs_for_another_shape(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert StateCodec(made(**before)).shape != StateCodec(made(**after)).shape


def test_digest_is_equal_for_the_same_shape() -> None:
    assert StateCodec(made(a=str, b=int)).shape == StateCodec(made(a=str, b=int)).shape
    assert len(StateCodec(State).shape) == 8


@dataclass
class Thawed:
    """A dataclass that is not frozen."""

    name: str = ""


@pytest.mark.parametrize(
    ("field_type", "error"),
    [
        (list[str], r"Made\.bad is a list\[str\], which a state cannot hold"),
        (dict[str, str], r"Made\.bad is a dict\[str, str\]"),
        (set[str], r"Made\.bad is a set\[str\]"),
        (str | int, r"Made\.bad is a union of several types"),
        (Thawed, r"Made\.bad is the dataclass Thawed, which is not frozen"),
        (tuple[tuple[list[int], ...], str], r"Made\.bad\[0\]\[\] is a list\[int\]"),
        (object, r"Made\.bad is a <class 'object'>"),
    ],
    ids=str,
)
def test_codec_refuses_a_field_that_a_state_cannot_hold(field_type: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        StateCodec(made(bad=field_type))


def test_codec_refuses_a_state_that_is_not_frozen() -> None:
    with pytest.raises(TypeError, match="Thawed, which is not frozen"):
        StateCodec(Thawed)
