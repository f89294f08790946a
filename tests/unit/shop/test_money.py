"""Money is exact: what goes in comes out, sums are sums, and only an average is rounded."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import pytest
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from shop.money import add, add_to_sums, average, formatted, money, nanos, take_from_sums
from shop.v1.users_pb2 import UserStatistics

MOST = (2**63 - 1) * 10**9 + 999_999_999
amounts = st.integers(-MOST, MOST)


@given(amounts)
def test_an_amount_is_its_nanos(amount: int) -> None:
    made = money("GBP", amount)
    assert nanos(made) == amount
    assert (made.units >= 0) == (made.nanos >= 0) or 0 in (made.units, made.nanos)
    assert abs(made.nanos) <= 999_999_999


@given(st.integers(-(10**26), 10**26), st.integers(-(10**26), 10**26))
def test_a_sum_is_exact_and_stops_at_the_most_that_money_holds(left: int, right: int) -> None:
    total, amount = money("GBP", left), money("GBP", right)
    exact = nanos(total) + nanos(amount)
    add(total, amount)
    assert nanos(total) == max(-MOST, min(MOST, exact))
    assert total.currency_code == "GBP"


@given(st.lists(st.tuples(st.sampled_from(["EUR", "GBP", "USD"]), st.integers(0, 10**22)), max_size=30))
def test_sums_are_sorted_by_currency_code(added: list[tuple[str, int]]) -> None:
    sums = UserStatistics().spent
    for code, amount in added:
        add_to_sums(sums, money(code, amount))
    codes = sorted({code for code, amount in added if amount})
    assert [one.currency_code for one in sums] == codes
    assert [nanos(one) for one in sums] == [sum(n for c, n in added if c == code) for code in codes]


def test_adding_and_subtracting_an_amount_leaves_no_sum() -> None:
    sums = UserStatistics().spent
    add_to_sums(sums, money("GBP", 5))
    add_to_sums(sums, money("EUR", 0))
    add_to_sums(sums, money("EUR", 7))
    take_from_sums(sums, money("EUR", 7))
    take_from_sums(sums, money("GBP", 2))
    assert [(one.currency_code, nanos(one)) for one in sums] == [("GBP", 3)]


def test_adding_to_sums_leaves_the_amount_alone() -> None:
    sums, amount = UserStatistics().spent, money("GBP", 5)
    add_to_sums(sums, amount)
    add_to_sums(sums, amount)
    assert nanos(amount) == 5
    assert nanos(sums[0]) == 10


@given(st.integers(-(10**25), 10**25), st.integers(1, 10**9))
def test_an_average_is_rounded_half_even(total: int, count: int) -> None:
    with localcontext(prec=60):
        expected = (Decimal(total) / Decimal(count)).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)
    assert average(total, count) == int(expected)


@pytest.mark.parametrize(
    ("total", "count", "expected"), [(5, 2, 2), (7, 2, 4), (-5, 2, -2), (-7, 2, -4), (10, 3, 3), (11, 3, 4), (0, 9, 0)]
)
def test_halves_go_to_the_even_neighbour(total: int, count: int, expected: int) -> None:
    assert average(total, count) == expected


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Money(currency_code="GBP", units=2, nanos=550_000_000), "GBP 2.55"),
        (Money(currency_code="GBP", nanos=125_000_000), "GBP 0.125"),
        (Money(currency_code="GBP"), "GBP 0.00"),
        (Money(currency_code="EUR", units=10, nanos=500_000_000), "EUR 10.50"),
        (Money(currency_code="JPY", units=1, nanos=1), "JPY 1.000000001"),
        (Money(currency_code="GBP", units=-1, nanos=-500_000_000), "GBP -1.50"),
        (Money(currency_code="GBP", nanos=-10_000_000), "GBP -0.01"),
        (Money(currency_code="GBP", units=2**63 - 1, nanos=999_999_999), "GBP 9223372036854775807.999999999"),
    ],
)
def test_an_amount_for_people(amount: Money, text: str) -> None:
    assert formatted(amount) == text


@given(amounts)
def test_the_text_for_people_is_exact(amount: int) -> None:
    with localcontext(prec=60):
        assert Decimal(formatted(money("GBP", amount)).removeprefix("GBP ")) * 10**9 == amount
