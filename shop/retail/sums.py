"""Sums of the file's invoices for each day, each country and all, computed from the file alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from google.type.money_pb2 import Money

from shop.retail.reader import Invoice
from shop.v1.analytics_pb2 import AnalyticsGroup

DAY_SECONDS = 86_400
_NANOS = 1_000_000_000


class Figures(NamedTuple):
    """Figures of one day, one country, or all. Amounts are in billionths of a pound."""

    gross: int = 0
    returned: int = 0
    net: int = 0
    orders: int = 0
    units: int = 0


class Sums(NamedTuple):
    """Figures by day (`2010-12-01`), by country, and of all."""

    days: dict[str, Figures]
    countries: dict[str, Figures]
    whole: Figures


class Summing:
    """Adds up invoices."""

    def __init__(self) -> None:
        self._days: defaultdict[int, defaultdict[str, list[int]]] = defaultdict(_nothing_by_country)

    @property
    def first_day(self) -> int:
        """Return the first day, in days since 1970. There must have been an invoice."""
        return min(self._days)

    @property
    def last_day(self) -> int:
        """Return the last day, in days since 1970. There must have been an invoice."""
        return max(self._days)

    def add(self, invoice: Invoice) -> None:
        """Add an invoice."""
        sums = self._days[invoice.seconds // DAY_SECONDS][invoice.country]
        amount = sum([line.quantity * line.price_nanos for line in invoice.lines])
        if invoice.is_return:
            sums[1] += amount
            return
        sums[0] += amount
        sums[2] += 1
        sums[3] += sum([line.quantity for line in invoice.lines])

    def sums(self) -> Sums | None:
        """Return the sums; None if there was no invoice."""
        if not self._days:
            return None
        by_country: defaultdict[str, list[list[int]]] = defaultdict(list)
        for countries in self._days.values():
            for country, sums in countries.items():
                by_country[country].append(sums)
        return Sums(
            days={day_name(day): _total(countries.values()) for day, countries in sorted(self._days.items())},
            countries={country: _total(parts) for country, parts in sorted(by_country.items())},
            whole=_total(sums for countries in self._days.values() for sums in countries.values()),
        )


def figures_of(group: AnalyticsGroup) -> Figures:
    """Return the figures of a group in the read model's answer."""
    gross, returned, net = map(_nanos, (group.gross, group.returned, group.net))
    return Figures(gross, returned, net, group.orders, group.units)


def day_name(day: int) -> str:
    """Return the date of a day since 1970."""
    return datetime.fromtimestamp(day * DAY_SECONDS, UTC).date().isoformat()


def _nothing_by_country() -> defaultdict[str, list[int]]:
    return defaultdict(lambda: [0, 0, 0, 0])


def _total(parts: Iterable[list[int]]) -> Figures:
    gross, returned, orders, units = (sum(column) for column in zip(*parts, strict=True))
    return Figures(gross, returned, gross - returned, orders, units)


def _nanos(amount: Money) -> int:
    return amount.units * _NANOS + amount.nanos
