"""The projection `analytics`: statistics of users and products, and GetOrderAnalytics against a simple count."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from diptych.testing import ask, fold
from shop.analytics import analytics
from shop.money import money, nanos
from shop.refusals import ProductNotFound, UserNotFound
from shop.sales_views import daily_sales, day_of, order_contributions, product_statistics, user_statistics
from shop.v1.analytics_pb2 import (
    ANALYTICS_GROUPING_COUNTRY,
    ANALYTICS_GROUPING_CUSTOMER,
    ANALYTICS_GROUPING_DAY,
    ANALYTICS_GROUPING_PRODUCT,
    AnalyticsGroup,
    AnalyticsGrouping,
    ContributionLine,
    DailySales,
    OrderAnalytics,
    OrderContribution,
)
from shop.v1.order_events_pb2 import OrderImported, ReturnImported
from shop.v1.order_queries_pb2 import GetOrderAnalyticsRequest
from shop.v1.orders_pb2 import ORDER_STATUS_CANCELLED, ORDER_STATUS_DELIVERED, ORDER_STATUS_SHIPPED, OrderItem
from shop.v1.product_events_pb2 import ProductCreated
from shop.v1.product_queries_pb2 import GetProductStatisticsRequest
from shop.v1.products_pb2 import ProductStatistics
from shop.v1.user_events_pb2 import UserRegistered
from shop.v1.user_queries_pb2 import GetUserStatisticsRequest
from shop.v1.users_pb2 import UserStatistics

FIRST_DAY = datetime(2010, 12, 1, tzinfo=UTC)


class Sale(NamedTuple):
    """An order or a return, as a test makes it up."""

    day: int
    items: tuple[tuple[str, int, int], ...]
    customer_id: str = ""
    country: str = ""
    currency_code: str = "GBP"
    status: Any = ORDER_STATUS_DELIVERED
    returned: bool = False

    @property
    def time(self) -> datetime:
        return FIRST_DAY + timedelta(days=self.day, hours=23)

    @property
    def total(self) -> int:
        return sum(quantity * price for _, quantity, price in self.items)

    def event(self, number: int) -> OrderImported | ReturnImported:
        items = [
            OrderItem(
                product_id=product_id,
                quantity=quantity,
                unit_price=money(self.currency_code, price),
                total=money(self.currency_code, quantity * price),
            )
            for product_id, quantity, price in self.items
        ]
        total = money(self.currency_code, self.total)
        if self.returned:
            return ReturnImported(
                return_id=f"{number}",
                customer_id=self.customer_id,
                country=self.country,
                return_time=self.time,
                items=items,
                total=total,
            )
        return OrderImported(
            order_id=f"{number}",
            customer_id=self.customer_id,
            country=self.country,
            order_time=self.time,
            items=items,
            status=self.status,
            total=total,
        )


def events(*sales: Sale) -> list[Message]:
    return [sale.event(number) for number, sale in enumerate(sales, 1)]


def gbp(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="GBP", units=units, nanos=nanos)


def timestamp(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made


POUND = 10**9


def test_user_statistics_sum_orders_and_returns() -> None:
    history = events(
        Sale(2, (("tea", 1, 2 * POUND),), "ada"),
        Sale(1, (("tea", 1, 3 * POUND),), "ada", currency_code="EUR"),
        Sale(3, (("tea", 1, 5 * POUND),), "ada", status=ORDER_STATUS_CANCELLED),
        Sale(2, (("tea", 2, 4 * POUND),), "ada"),
        Sale(9, (("tea", 1, 1 * POUND),), "ada", returned=True),
        Sale(9, (("tea", 1, 1 * POUND),)),
        Sale(9, (("tea", 1, 1 * POUND),), returned=True),
    )
    registered = UserRegistered(user_id="ada", email="ada@example.com", role="USER_ROLE_CUSTOMER")
    assert fold(user_statistics, registered, *history) == {
        "ada": UserStatistics(
            user_id="ada",
            order_count=3,
            cancelled_order_count=1,
            return_count=1,
            spent=[Money(currency_code="EUR", units=3), gbp(10)],
            returned=[gbp(1)],
            first_order_time=timestamp(FIRST_DAY + timedelta(days=1, hours=23)),
            last_order_time=timestamp(FIRST_DAY + timedelta(days=3, hours=23)),
        )
    }
    assert ask(analytics, GetUserStatisticsRequest(user_id="ada"), registered) == UserStatistics(user_id="ada")
    with pytest.raises(UserNotFound):
        ask(analytics, GetUserStatisticsRequest(user_id="bob"), registered)


def test_how_well_a_product_sells() -> None:
    history = events(
        Sale(2, (("tea", 1, 0), ("mug", 5, POUND), ("tea", 3, POUND))),
        Sale(1, (("tea", 10, POUND),)),
        Sale(3, (("tea", 100, POUND),), status=ORDER_STATUS_CANCELLED),
        Sale(9, (("tea", 1, POUND), ("tea", 1, POUND)), returned=True),
    )
    created = ProductCreated(product_id="tea", price=gbp(1))
    assert fold(product_statistics, created, ProductCreated(product_id="new", price=gbp(1)), *history) == {
        "mug": ProductStatistics(
            product_id="mug",
            order_count=1,
            units_sold=5,
            last_order_time=timestamp(FIRST_DAY + timedelta(days=2, hours=23)),
        ),
        "new": ProductStatistics(product_id="new"),
        "tea": ProductStatistics(
            product_id="tea",
            order_count=2,
            units_sold=14,
            units_returned=2,
            last_order_time=timestamp(FIRST_DAY + timedelta(days=3, hours=23)),
        ),
    }
    assert ask(analytics, GetProductStatisticsRequest(product_id="tea"), created) == ProductStatistics(product_id="tea")
    with pytest.raises(ProductNotFound):
        ask(analytics, GetProductStatisticsRequest(product_id="mug"), created)


def test_a_day_of_a_country_is_one_row_however_many_items_there_are() -> None:
    history = events(
        Sale(0, tuple((f"p{number}", 1, POUND) for number in range(500)), country="EIRE"),
        Sale(0, (("p1", 2, POUND),), country="EIRE", status=ORDER_STATUS_CANCELLED),
        Sale(0, (("p1", 1, POUND),), country="EIRE", returned=True),
    )
    assert fold(daily_sales, *history) == {
        "2010-12-01/GBP/EIRE": DailySales(
            day="2010-12-01",
            country="EIRE",
            currency_code="GBP",
            gross=gbp(502),
            cancelled=gbp(2),
            returned=gbp(1),
            orders=2,
            units=502,
        )
    }


def test_a_contribution_has_one_line_for_each_product() -> None:
    history = events(Sale(0, (("tea", 1, POUND), ("mug", 2, POUND), ("tea", 3, 2 * POUND)), "ada", "EIRE"))
    assert fold(order_contributions, *history) == {
        "order/1": OrderContribution(
            order_id="1",
            day="2010-12-01",
            customer_id="ada",
            country="EIRE",
            status=ORDER_STATUS_DELIVERED,
            amount=gbp(9),
            units=6,
            lines=[
                ContributionLine(product_id="tea", units=4, amount=gbp(7)),
                ContributionLine(product_id="mug", units=2, amount=gbp(2)),
            ],
        )
    }


@pytest.mark.parametrize(
    ("seconds", "day"),
    [
        (0, "1970-01-01"),
        (-1, "1969-12-31"),
        (86_399, "1970-01-01"),
        (1_291_191_960, "2010-12-01"),
        (-2_208_988_800, "1900-01-01"),
        (7_258_118_399, "2199-12-31"),
        (7_258_118_400, "2200-01-01"),
    ],
)
def test_days_are_utc(seconds: int, day: str) -> None:
    assert day_of(Timestamp(seconds=seconds, nanos=999_999_999)) == day


def analysed(query: GetOrderAnalyticsRequest, *sales: Sale) -> OrderAnalytics:
    answer = ask(analytics, query, *events(*sales))
    assert isinstance(answer, OrderAnalytics)
    return answer


def december(first: int = 0, end: int = 31) -> GetOrderAnalyticsRequest:
    return GetOrderAnalyticsRequest(
        start_time=FIRST_DAY + timedelta(days=first), end_time=FIRST_DAY + timedelta(days=end)
    )


def test_figures_of_a_day() -> None:
    answer = analysed(
        december(),
        Sale(0, (("tea", 3, POUND),)),
        Sale(0, (("tea", 1, POUND),), status=ORDER_STATUS_CANCELLED),
        Sale(0, (("tea", 1, 0),)),
        Sale(0, (("tea", 5, POUND),), returned=True),
    )
    group = AnalyticsGroup(
        key="2010-12-01",
        currency_code="GBP",
        gross=gbp(4),
        cancelled=gbp(1),
        returned=gbp(5),
        net=gbp(-2),
        orders=3,
        units=5,
        average_order_value=gbp(1, 333_333_333),
    )
    total = AnalyticsGroup()
    total.CopyFrom(group)
    total.key = ""
    assert answer == OrderAnalytics(groups=[group], totals=[total])


def test_without_orders_there_is_no_average() -> None:
    answer = analysed(december(), Sale(0, (("tea", 5, POUND),), returned=True))
    assert not answer.totals[0].HasField("average_order_value")
    assert answer.totals[0].net == gbp(-5)


def test_nothing_sold_is_an_empty_answer() -> None:
    assert analysed(december()) == OrderAnalytics()
    assert analysed(december(0, 1), Sale(1, (("tea", 5, POUND),))) == OrderAnalytics()


def test_an_order_of_many_products_is_one_order_in_the_totals() -> None:
    query = december()
    query.group_by = ANALYTICS_GROUPING_PRODUCT
    answer = analysed(query, Sale(0, (("tea", 1, POUND), ("mug", 1, POUND), ("tea", 1, POUND))))
    assert [(group.key, group.orders, group.units) for group in answer.groups] == [("mug", 1, 1), ("tea", 1, 2)]
    assert answer.totals[0].orders == 1


def test_a_product_whose_id_differs_in_case_is_another_one() -> None:
    query = december()
    query.product_id = "tea"
    answer = analysed(query, Sale(0, (("TEA", 1, POUND),)), Sale(1, (("tea", 1, POUND), ("TEA", 7, POUND))))
    assert [(group.key, group.gross) for group in answer.groups] == [("2010-12-02", gbp(1))]
    assert [(total.orders, total.gross) for total in answer.totals] == [(1, gbp(1))]


def test_sums_that_no_money_can_hold_stop_at_the_most() -> None:
    huge = Sale(0, (("tea", 1, 10**16 * POUND),), "ada")
    query = december()
    answer = analysed(query, *[huge] * 1_000)
    assert answer.totals[0].gross == gbp(2**63 - 1, 999_999_999)
    assert answer.totals[0].orders == 1_000


_PRODUCTS = st.sampled_from(["tea", "TEA", "mug", "a.b", "a"])
_SALES = st.lists(
    st.builds(
        Sale,
        day=st.integers(0, 4),
        items=st.lists(st.tuples(_PRODUCTS, st.integers(1, 9), st.integers(0, 10**12)), min_size=1, max_size=4).map(
            tuple
        ),
        customer_id=st.sampled_from(["", "ada", "bob"]),
        country=st.sampled_from(["", "EIRE", "Channel/Islands", "eire"]),
        currency_code=st.sampled_from(["GBP", "EUR"]),
        status=st.sampled_from([ORDER_STATUS_DELIVERED, ORDER_STATUS_SHIPPED, ORDER_STATUS_CANCELLED]),
        returned=st.booleans(),
    ),
    max_size=8,
)
_FILTERS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.builds(lambda value: {"product_id": value}, _PRODUCTS),
    st.builds(lambda value: {"customer_id": value}, st.sampled_from(["ada", "nobody"])),
    st.builds(lambda value: {"country": value}, st.sampled_from(["EIRE", "Channel/Islands"])),
    st.builds(lambda value: {"status": value}, st.sampled_from([ORDER_STATUS_SHIPPED, ORDER_STATUS_CANCELLED])),
)


class Count(NamedTuple):
    """Part of one item in the figures."""

    key: str
    order: int
    sale: Sale
    units: int
    amount: int


def counted(
    sales: list[Sale], grouping: AnalyticsGrouping, filters: dict[str, Any], days: range
) -> dict[str, list[Count]]:
    """All items that the query is about, by the key of their group."""
    counts: dict[str, list[Count]] = {}
    for number, sale in enumerate(sales):
        if sale.day not in days or any(
            getattr(sale, name) != value for name, value in filters.items() if name != "product_id"
        ):
            continue
        if "status" in filters and sale.returned:
            continue
        for product_id, quantity, price in sale.items:
            if filters.get("product_id", product_id) != product_id:
                continue
            key = {
                ANALYTICS_GROUPING_PRODUCT: product_id,
                ANALYTICS_GROUPING_CUSTOMER: sale.customer_id,
                ANALYTICS_GROUPING_COUNTRY: sale.country,
            }.get(grouping, (date(2010, 12, 1) + timedelta(days=sale.day)).isoformat())
            counts.setdefault(key, []).append(Count(key, number, sale, quantity, quantity * price))
    return counts


def simple_group(key: str, currency_code: str, counts: list[Count]) -> AnalyticsGroup:
    sums: Counter[str] = Counter()
    for count in counts:
        sums["returned" if count.sale.returned else "gross"] += count.amount
        if not count.sale.returned:
            sums["units"] += count.units
            if count.sale.status == ORDER_STATUS_CANCELLED:
                sums["cancelled"] += count.amount
    orders = len({count.order for count in counts if not count.sale.returned})
    group = AnalyticsGroup(
        key=key,
        currency_code=currency_code,
        gross=money(currency_code, sums["gross"]),
        cancelled=money(currency_code, sums["cancelled"]),
        returned=money(currency_code, sums["returned"]),
        net=money(currency_code, sums["gross"] - sums["cancelled"] - sums["returned"]),
        orders=orders,
        units=sums["units"],
    )
    if orders:
        with localcontext(prec=60):
            exact = (Decimal(sums["gross"]) / orders).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)
        group.average_order_value.CopyFrom(money(currency_code, int(exact)))
    return group


def simple_groups(counts: dict[str, list[Count]]) -> list[AnalyticsGroup]:
    groups = []
    for key in sorted(counts):
        for currency_code in sorted({count.sale.currency_code for count in counts[key]}):
            chosen = [count for count in counts[key] if count.sale.currency_code == currency_code]
            groups.append(simple_group(key, currency_code, chosen))
    return groups


@given(_SALES, _FILTERS, st.sampled_from(AnalyticsGrouping.values()), st.integers(0, 2), st.integers(3, 5))
def test_any_filter_by_any_grouping_equals_a_simple_count(
    sales: list[Sale], filters: dict[str, Any], grouping: AnalyticsGrouping, first: int, end: int
) -> None:
    query = december(first, end)
    query.MergeFrom(GetOrderAnalyticsRequest(group_by=AnalyticsGrouping.Name(grouping), **filters))
    counts = counted(sales, grouping, filters, range(first, end))
    everything = [count for of_key in counts.values() for count in of_key]
    assert analysed(query, *sales) == OrderAnalytics(
        groups=simple_groups(counts), totals=simple_groups({"": everything}) if everything else []
    )


def test_groups_and_totals_are_the_same_from_both_views() -> None:
    sales = [Sale(day % 4, (("tea", day + 1, POUND + day),), country="EIRE") for day in range(12)]
    by_day, by_status = december(), december()
    by_status.status = ORDER_STATUS_DELIVERED
    assert analysed(by_day, *sales) == analysed(by_status, *sales)
    assert nanos(analysed(by_day, *sales).totals[0].gross) == sum(sale.total for sale in sales)
    assert by_day.group_by != ANALYTICS_GROUPING_DAY
