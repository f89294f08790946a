"""GetOrderAnalytics: sums over a range of days, computed from rows of the projection `analytics` for each request.

Figures grouped by day or country, for all or for one country, come from `daily_sales`, which has a few rows a day. All
others come from `order_contributions`, which has a row for every order and return.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from diptych import Selection
from shop.money import NANOS_PER_UNIT, average, money, nanos
from shop.sales_views import (
    analytics,
    contribution_country,
    contribution_customer,
    contribution_day,
    contribution_products,
    contribution_status,
    daily_sales,
    day_of,
    order_contributions,
    sales_country,
    sales_day,
)
from shop.text import typed
from shop.v1.analytics_pb2 import (
    ANALYTICS_GROUPING_COUNTRY,
    ANALYTICS_GROUPING_CUSTOMER,
    ANALYTICS_GROUPING_DAY,
    AnalyticsGroup,
    AnalyticsGrouping,
    ContributionLine,
    DailySales,
    OrderAnalytics,
    OrderContribution,
)
from shop.v1.order_queries_pb2 import GetOrderAnalyticsRequest
from shop.v1.orders_pb2 import ORDER_STATUS_CANCELLED

_FIELD: dict[AnalyticsGrouping, str] = {
    ANALYTICS_GROUPING_DAY: "day",
    ANALYTICS_GROUPING_CUSTOMER: "customer_id",
    ANALYTICS_GROUPING_COUNTRY: "country",
}
"""Field of a row with the key of a grouping. Products have none: they are in the lines of a row."""


__all__ = ["analytics", "get_order_analytics"]


class _Figures:
    """Sums of one key in one currency, in nanos."""

    __slots__ = ("cancelled", "gross", "orders", "returned", "units")

    def __init__(self) -> None:
        self.gross = 0
        self.cancelled = 0
        self.returned = 0
        self.orders = 0
        self.units = 0

    def add_day(self, row: DailySales) -> None:
        self.gross += nanos(row.gross)
        self.cancelled += nanos(row.cancelled)
        self.returned += nanos(row.returned)
        self.orders += row.orders
        self.units += row.units

    def add_part(self, row: OrderContribution, part: OrderContribution | ContributionLine) -> None:
        """Add an order or a return, or one line of it."""
        exact = part.amount
        amount = exact.units * NANOS_PER_UNIT + exact.nanos
        if row.return_id:
            self.returned += amount
            return
        self.gross += amount
        self.orders += 1
        self.units += part.units
        if row.status == ORDER_STATUS_CANCELLED:
            self.cancelled += amount


class _Groups:
    """Figures by currency and key."""

    def __init__(self) -> None:
        self.currencies: defaultdict[str, defaultdict[str, _Figures]] = defaultdict(lambda: defaultdict(_Figures))

    def of(self, key: str, currency_code: str) -> _Figures:
        return self.currencies[currency_code][key]

    def as_messages(self) -> list[AnalyticsGroup]:
        """Return the groups of the answer, sorted by key and currency code."""
        groups = [
            _as_message(key, currency_code, figures)
            for currency_code, by_key in self.currencies.items()
            for key, figures in by_key.items()
        ]
        return sorted(groups, key=lambda group: (group.key, group.currency_code))


def _grouping(query: GetOrderAnalyticsRequest) -> AnalyticsGrouping:
    return query.group_by or ANALYTICS_GROUPING_DAY


def _select(query: GetOrderAnalyticsRequest, now: datetime) -> Selection[DailySales | OrderContribution]:
    first, end = day_of(query.start_time), day_of(query.end_time)
    filtered_by = query.WhichOneof("filter")
    by_country = sales_country.eq(typed(query.country)) if filtered_by == "country" else None
    grouped_by_days = _grouping(query) in (ANALYTICS_GROUPING_DAY, ANALYTICS_GROUPING_COUNTRY)
    if grouped_by_days and filtered_by in (None, "country"):
        return daily_sales.where(sales_day.ge(first), sales_day.lt(end), by_country)
    return order_contributions.where(
        contribution_day.ge(first),
        contribution_day.lt(end),
        contribution_products.contains(f" {query.product_id} ") if filtered_by == "product_id" else None,
        contribution_customer.eq(query.customer_id) if filtered_by == "customer_id" else None,
        contribution_country.eq(typed(query.country)) if filtered_by == "country" else None,
        contribution_status.eq(query.status) if filtered_by == "status" else None,
        order=contribution_day,  # The order of the indexes: otherwise SQLite sorts a year of rows by key.
    )


@analytics.combines(GetOrderAnalyticsRequest, OrderAnalytics, rows=_select)
def get_order_analytics(
    query: GetOrderAnalyticsRequest, rows: Sequence[DailySales | OrderContribution]
) -> OrderAnalytics:
    """Return the figures of the selected rows."""
    groups, totals = _Groups(), _Groups()
    grouping = _grouping(query)
    field = _FIELD.get(grouping)
    for row in rows:
        if isinstance(row, DailySales):
            groups.of(getattr(row, _FIELD[grouping]), row.currency_code).add_day(row)
            totals.of("", row.currency_code).add_day(row)
            continue
        currency_code = row.amount.currency_code
        part: OrderContribution | ContributionLine = row
        if query.product_id:
            lines = [line for line in row.lines if line.product_id == query.product_id]
            if not lines:
                continue  # The id of the matching product differs in case.
            part = lines[0]
        totals.of("", currency_code).add_part(row, part)
        if field:
            groups.of(getattr(row, field), currency_code).add_part(row, part)
        elif query.product_id:
            groups.of(query.product_id, currency_code).add_part(row, part)
        else:
            _add_lines(row, groups.currencies[currency_code])
    return OrderAnalytics(groups=groups.as_messages(), totals=totals.as_messages())


def _add_lines(row: OrderContribution, products: defaultdict[str, _Figures]) -> None:
    """Add each line to its product. A year can have 500,000 lines, so `add_part` is written out here."""
    returned = bool(row.return_id)
    cancelled = row.status == ORDER_STATUS_CANCELLED
    for line in row.lines:
        figures = products[line.product_id]
        exact = line.amount
        amount = exact.units * NANOS_PER_UNIT + exact.nanos
        if returned:
            figures.returned += amount
            continue
        figures.gross += amount
        figures.orders += 1
        figures.units += line.units
        if cancelled:
            figures.cancelled += amount


def _as_message(key: str, currency_code: str, figures: _Figures) -> AnalyticsGroup:
    group = AnalyticsGroup(
        key=key,
        currency_code=currency_code,
        gross=money(currency_code, figures.gross),
        cancelled=money(currency_code, figures.cancelled),
        returned=money(currency_code, figures.returned),
        net=money(currency_code, figures.gross - figures.cancelled - figures.returned),
        orders=figures.orders,
        units=figures.units,
    )
    if figures.orders:
        group.average_order_value.CopyFrom(money(currency_code, average(figures.gross, figures.orders)))
    return group
