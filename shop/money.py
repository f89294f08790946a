"""Exact arithmetic on `google.type.Money`.

An amount is counted as one whole number of nanos (billionths of the currency's unit), so that nothing is ever rounded
but an average. Sums are of one currency; whoever adds has checked that.
"""

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.type.money_pb2 import Money

NANOS_PER_UNIT = 1_000_000_000

_MOST = ((1 << 63) - 1) * NANOS_PER_UNIT + (NANOS_PER_UNIT - 1)
"""The largest amount that a Money holds, in nanos."""


def nanos(amount: Money) -> int:
    """An amount as a number of nanos."""
    return amount.units * NANOS_PER_UNIT + amount.nanos


def money(currency_code: str, nanos: int) -> Money:
    """An amount from a number of nanos.

    What is larger than a Money can hold becomes the largest that it can: a sum that nobody will ever see in practice
    must not stop a projection.
    """
    units, rest = divmod(min(abs(nanos), _MOST), NANOS_PER_UNIT)
    if nanos < 0:
        units, rest = -units, -rest
    return Money(currency_code=currency_code, units=units, nanos=rest)


def add(total: Money, amount: Money) -> None:
    """Adds an amount to a total of the same currency, in place."""
    total.CopyFrom(money(amount.currency_code, nanos(total) + nanos(amount)))


def add_to_sums(sums: RepeatedCompositeFieldContainer[Money], amount: Money) -> None:
    """Adds an amount to the sum of its currency, in place.

    `sums` has one for each currency, by currency code, and none that is zero: so it does not tell what was added and
    taken out again.
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
    """Takes an amount out of the sum of its currency, in place."""
    add_to_sums(sums, money(amount.currency_code, -nanos(amount)))


def average(total: int, count: int) -> int:
    """total / count in whole nanos, rounded half-even."""
    quotient, rest = divmod(total, count)
    if 2 * rest > count or (2 * rest == count and quotient % 2 == 1):
        quotient += 1
    return quotient


def formatted(amount: Money) -> str:
    """An amount for people: currency code, space, two decimals or as many as there are (`GBP 2.55`, `GBP 0.125`)."""
    units, rest = divmod(abs(nanos(amount)), NANOS_PER_UNIT)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    sign = "-" if nanos(amount) < 0 else ""
    return f"{amount.currency_code} {sign}{units}.{decimals}"
