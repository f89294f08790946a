"""Exact arithmetic on `google.type.Money`.

An amount is a whole number of nanos (billionths of the currency's unit), so only an average is rounded. Sums are of one
currency; the caller checks that.
"""

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.type.money_pb2 import Money

NANOS_PER_UNIT = 1_000_000_000

_MOST = ((1 << 63) - 1) * NANOS_PER_UNIT + (NANOS_PER_UNIT - 1)
"""Largest amount of a Money, in nanos."""


def nanos(amount: Money) -> int:
    """Return an amount as a number of nanos."""
    return amount.units * NANOS_PER_UNIT + amount.nanos


def money(currency_code: str, nanos: int) -> Money:
    """Return an amount from a number of nanos.

    An amount that is larger than a Money becomes the largest Money: such a sum does not occur in practice and must not
    stop a projection.
    """
    units, rest = divmod(min(abs(nanos), _MOST), NANOS_PER_UNIT)
    if nanos < 0:
        units, rest = -units, -rest
    return Money(currency_code=currency_code, units=units, nanos=rest)


def add(total: Money, amount: Money) -> None:
    """Add an amount to a total of the same currency, in place."""
    total.CopyFrom(money(amount.currency_code, nanos(total) + nanos(amount)))


def add_to_sums(sums: RepeatedCompositeFieldContainer[Money], amount: Money) -> None:
    """Add an amount to the sum of its currency, in place.

    `sums` has one sum for each currency, sorted by currency code, without sums of zero. So it is the same after an
    amount is added and subtracted again.
    """
    for index, total in enumerate(sums):
        if total.currency_code == amount.currency_code:
            add(total, amount)
            if not nanos(total):
                del sums[index]
            return
    if nanos(amount):
        sums.append(amount)
        sums.sort(key=lambda one: one.currency_code)


def take_from_sums(sums: RepeatedCompositeFieldContainer[Money], amount: Money) -> None:
    """Subtract an amount from the sum of its currency, in place."""
    add_to_sums(sums, money(amount.currency_code, -nanos(amount)))


def average(total: int, count: int) -> int:
    """Return total / count in whole nanos, rounded half-even."""
    quotient, rest = divmod(total, count)
    if 2 * rest > count or (2 * rest == count and quotient % 2 == 1):
        quotient += 1
    return quotient


def formatted(amount: Money) -> str:
    """Return an amount as text: currency code, space, two decimals or more if it has more (`GBP 2.55`, `GBP 0.125`)."""
    units, rest = divmod(abs(nanos(amount)), NANOS_PER_UNIT)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    sign = "-" if nanos(amount) < 0 else ""
    return f"{amount.currency_code} {sign}{units}.{decimals}"
