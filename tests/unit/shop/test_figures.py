"""Figures follow orders: what is placed, moved on, cancelled and taken back counts as in an independent sum."""

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from hypothesis import given as for_all
from hypothesis import strategies as st

from diptych.testing import ask, fold, given
from shop.analytics import analytics
from shop.money import money, nanos
from shop.orders import CANCELLABLE, NEXT, order
from shop.products import product
from shop.returns import goods_return
from shop.sales_views import daily_sales, order_contributions, product_statistics, user_statistics
from shop.users import user
from shop.v1.analytics_pb2 import (
    ANALYTICS_GROUPING_COUNTRY,
    ANALYTICS_GROUPING_CUSTOMER,
    ANALYTICS_GROUPING_DAY,
    ANALYTICS_GROUPING_PRODUCT,
    AnalyticsGroup,
    AnalyticsGrouping,
)
from shop.v1.order_commands_pb2 import (
    CancelOrderRequest,
    ImportedItem,
    ImportOrderRequest,
    ImportReturnRequest,
    PlacedItem,
    PlaceOrderRequest,
    UpdateOrderStatusRequest,
)
from shop.v1.order_events_pb2 import CancelledItem, OrderCancelled, OrderPlaced, OrderStatusChanged
from shop.v1.order_queries_pb2 import GetOrderAnalyticsRequest
from shop.v1.orders_pb2 import (
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_CONFIRMED,
    ORDER_STATUS_DELIVERED,
    ORDER_STATUS_PENDING,
    ORDER_STATUS_SHIPPED,
    OrderItem,
    OrderStatus,
)
from shop.v1.product_events_pb2 import ProductCreated
from shop.v1.user_events_pb2 import UserRegistered

STATUSES: list[OrderStatus] = [*NEXT, ORDER_STATUS_DELIVERED, ORDER_STATUS_CANCELLED]
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
PRICES = {"tea": money("GBP", 2_550_000_000), "mug": money("GBP", 333_333_333), "vase": money("EUR", 10**12)}
PEOPLE = ("ada", "bob")

catalogue = [ProductCreated(product_id=product_id, price=price) for product_id, price in PRICES.items()]
people = [UserRegistered(user_id=id, email=f"{id}@example.com", role="USER_ROLE_CUSTOMER") for id in PEOPLE]
EVERYTHING: list[Any] = [*(given(product, created) for created in catalogue), *(given(user, one) for one in people)]


def gbp(units: int) -> Money:
    return Money(currency_code="GBP", units=units)


def at_day(day: int) -> datetime:
    return FIRST_DAY + timedelta(days=day, hours=23)


def january(**fields: Any) -> GetOrderAnalyticsRequest:
    return GetOrderAnalyticsRequest(start_time=FIRST_DAY, end_time=FIRST_DAY + timedelta(days=31), **fields)


placed = OrderPlaced(
    order_id="o1",
    customer_id="ada",
    order_time=at_day(3),
    country="EIRE",
    items=[
        OrderItem(product_id="tea", quantity=2, unit_price=gbp(3), total=gbp(6)),
        OrderItem(product_id="mug", quantity=1, unit_price=gbp(4), total=gbp(4)),
        OrderItem(product_id="tea", quantity=1, unit_price=gbp(3), total=gbp(3)),
    ],
    total=gbp(13),
)
confirmed = OrderStatusChanged(
    order_id="o1", customer_id="ada", status=ORDER_STATUS_CONFIRMED, previous_status=ORDER_STATUS_PENDING
)
cancelled = OrderCancelled(
    order_id="o1",
    customer_id="ada",
    order_time=at_day(3),
    country="EIRE",
    items=[CancelledItem(product_id="tea", quantity=3), CancelledItem(product_id="mug", quantity=1)],
    total=gbp(13),
    previous_status=ORDER_STATUS_CONFIRMED,
)


def test_a_cancelled_order_is_subtracted_from_user_statistics() -> None:
    spent = fold(user_statistics, *people, placed, confirmed)["ada"]
    assert (spent.order_count, spent.cancelled_order_count, list(spent.spent)) == (1, 0, [gbp(13)])
    unspent = fold(user_statistics, *people, placed, confirmed, cancelled)["ada"]
    assert (unspent.order_count, unspent.cancelled_order_count, list(unspent.spent)) == (0, 1, [])
    assert unspent.last_order_time == unspent.first_order_time == placed.order_time


def test_a_cancelled_order_is_subtracted_from_product_statistics() -> None:
    sold = fold(product_statistics, *catalogue, placed)["tea"]
    assert (sold.order_count, sold.units_sold, sold.last_order_time) == (1, 3, placed.order_time)
    unsold = fold(product_statistics, *catalogue, placed, cancelled)["tea"]
    assert (unsold.order_count, unsold.units_sold, unsold.last_order_time) == (0, 0, placed.order_time)


def test_a_cancelled_order_stays_in_gross_and_counts_as_cancelled_on_its_own_day() -> None:
    (day,) = fold(daily_sales, placed, confirmed, cancelled).values()
    assert (day.day, day.country, day.gross, day.cancelled) == ("2026-01-04", "EIRE", gbp(13), gbp(13))
    assert (day.orders, day.units) == (1, 4)


def test_a_filter_by_status_follows_the_order() -> None:
    def count(status: OrderStatus, *events: Message) -> int:
        totals = ask(analytics, january(status=OrderStatus.Name(status)), *events).totals
        return sum(total.orders for total in totals)

    assert count(ORDER_STATUS_PENDING, placed) == 1
    assert count(ORDER_STATUS_PENDING, placed, confirmed) == 0
    assert count(ORDER_STATUS_CONFIRMED, placed, confirmed) == 1
    assert count(ORDER_STATUS_CANCELLED, placed, confirmed, cancelled) == 1
    assert count(ORDER_STATUS_CONFIRMED, placed, confirmed, cancelled) == 0
    assert fold(order_contributions, placed, confirmed)["order/o1"].units == 4


class Story(NamedTuple):
    """Course of an order or of returned goods, made up by a test."""

    kind: str
    day: int
    items: tuple[tuple[str, int], ...]
    customer_id: str
    country: str
    status: OrderStatus
    """In which an imported order comes."""
    steps: tuple[str, ...]
    """Commands that follow."""


class Outcome(NamedTuple):
    """A story's events, and the status that it ends in."""

    story: Story
    events: list[Message]
    status: OrderStatus


@st.composite
def stories(draw: st.DrawFn) -> Story:
    currency_code = draw(st.sampled_from(["GBP", "EUR"]))
    of_currency = [id for id, price in PRICES.items() if price.currency_code == currency_code]
    kind = draw(st.sampled_from(["placed", "imported", "returned"]))
    return Story(
        kind=kind,
        day=draw(st.integers(0, 3)),
        items=tuple(draw(st.lists(st.tuples(st.sampled_from(of_currency), st.integers(1, 9)), min_size=1, max_size=3))),
        customer_id=draw(st.sampled_from(PEOPLE if kind == "placed" else ("", *PEOPLE))),
        country=draw(st.sampled_from(["", "EIRE"])),
        status=draw(st.sampled_from(STATUSES)),
        steps=tuple(draw(st.lists(st.sampled_from(["next", "next", "cancel"]), max_size=5))),
    )


def outcome_of(number: int, story: Story) -> Outcome:
    """Has the deciders decide a story."""
    id, time = f"{number}", at_day(story.day)
    imported = [ImportedItem(product_id=p, quantity=n, unit_price=PRICES[p]) for p, n in story.items]
    common: dict[str, Any] = {"customer_id": story.customer_id, "country": story.country}
    if story.kind == "returned":
        command = ImportReturnRequest(return_id=id, return_time=time, items=imported, **common)
        return Outcome(story, list(given(goods_return).when(command, also=EVERYTHING).events), story.status)
    if story.kind == "placed":
        status = ORDER_STATUS_PENDING
        items = [PlacedItem(product_id=p, quantity=n) for p, n in story.items]
        first: Message = PlaceOrderRequest(order_id=id, items=items, **common)
    else:
        status = story.status
        first = ImportOrderRequest(
            order_id=id, order_time=time, items=imported, status=OrderStatus.Name(status), **common
        )
    events = list(given(order).when(first, at=time, also=EVERYTHING).events)
    assert len(events) == 1
    for step in story.steps:
        if step == "cancel":
            events += given(order, *events).when(CancelOrderRequest(order_id=id)).events
            status = ORDER_STATUS_CANCELLED if status in CANCELLABLE else status
        elif status in NEXT:
            status = NEXT[status]
            move = UpdateOrderStatusRequest(order_id=id, status=OrderStatus.Name(status))
            events += given(order, *events).when(move).events
    return Outcome(story, events, status)


class Sums:
    """The sums of one key, item by item."""

    def __init__(self) -> None:
        self.amounts: Counter[str] = Counter()
        self.orders: set[int] = set()

    def add(self, number: int, one: Outcome, amount: int, units: int) -> None:
        if one.story.kind == "returned":
            self.amounts["returned"] += amount
            return
        self.orders.add(number)
        self.amounts["gross"] += amount
        self.amounts["units"] += units
        if one.status == ORDER_STATUS_CANCELLED:
            self.amounts["cancelled"] += amount

    def figures(self) -> tuple[int, ...]:
        return (*(self.amounts[name] for name in ("gross", "cancelled", "returned", "units")), len(self.orders))


def summed(outcomes: list[Outcome], grouping: AnalyticsGrouping | None, status: OrderStatus | None) -> dict[Any, Any]:
    """Return the sums of the log, by key and currency."""
    sums: defaultdict[tuple[str, str], Sums] = defaultdict(Sums)
    for number, one in enumerate(outcomes):
        story = one.story
        if status is not None and (story.kind == "returned" or one.status != status):
            continue
        for product_id, quantity in story.items:
            key = {
                ANALYTICS_GROUPING_DAY: at_day(story.day).date().isoformat(),
                ANALYTICS_GROUPING_PRODUCT: product_id,
                ANALYTICS_GROUPING_CUSTOMER: story.customer_id,
                ANALYTICS_GROUPING_COUNTRY: story.country,
                None: "",
            }[grouping]
            price = PRICES[product_id]
            sums[key, price.currency_code].add(number, one, quantity * nanos(price), quantity)
    return {key: of_key.figures() for key, of_key in sums.items()}


def answered(groups: list[AnalyticsGroup]) -> dict[Any, Any]:
    """Return the figures of an answer in the same form."""
    for one in groups:
        assert nanos(one.net) == nanos(one.gross) - nanos(one.cancelled) - nanos(one.returned)
    return {
        (one.key, one.currency_code): (
            nanos(one.gross),
            nanos(one.cancelled),
            nanos(one.returned),
            one.units,
            one.orders,
        )
        for one in groups
    }


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Outcome], list[Message]]:
    """Stories, and a log in which they happen side by side."""
    outcomes = [outcome_of(number, story) for number, story in enumerate(draw(st.lists(stories(), max_size=6)))]
    turns = draw(st.permutations([number for number, one in enumerate(outcomes) for _ in one.events]))
    left = [iter(one.events) for one in outcomes]
    return outcomes, [*catalogue, *people, *(next(left[number]) for number in turns)]


@for_all(
    histories(),
    st.sampled_from(AnalyticsGrouping.values()[1:]),
    st.sampled_from([None, *STATUSES]),
)
def test_analytics_equal_an_independent_sum(
    history: tuple[list[Outcome], list[Message]], grouping: AnalyticsGrouping, status: OrderStatus | None
) -> None:
    outcomes, log = history
    query = january(group_by=AnalyticsGrouping.Name(grouping))
    if status is not None:
        query.status = status
    answer = ask(analytics, query, *log)
    assert answered(answer.groups) == summed(outcomes, grouping, status)
    assert answered(answer.totals) == summed(outcomes, None, status)


@for_all(histories())
def test_statistics_equal_an_independent_sum(history: tuple[list[Outcome], list[Message]]) -> None:
    outcomes, log = history
    orders = [one for one in outcomes if one.story.kind != "returned"]
    rows = fold(user_statistics, *log)
    assert set(rows) == set(PEOPLE)
    for id, row in rows.items():
        mine = [one for one in orders if one.story.customer_id == id]
        kept = [one for one in mine if one.status != ORDER_STATUS_CANCELLED]
        assert (row.order_count, row.cancelled_order_count) == (len(kept), len(mine) - len(kept))
        spent: Counter[str] = Counter()
        for one in kept:
            for product_id, quantity in one.story.items:
                spent[PRICES[product_id].currency_code] += quantity * nanos(PRICES[product_id])
        assert [(sum_.currency_code, nanos(sum_)) for sum_ in row.spent] == sorted(spent.items())
        days = [at_day(one.story.day) for one in mine]
        assert row.HasField("first_order_time") == bool(days)
        if days:
            assert (row.first_order_time, row.last_order_time) == (timestamp(min(days)), timestamp(max(days)))
    for id, goods in fold(product_statistics, *log).items():
        kept = [one for one in orders if one.status != ORDER_STATUS_CANCELLED and id in dict(one.story.items)]
        assert goods.order_count == len(kept)
        assert goods.units_sold == sum(n for one in kept for p, n in one.story.items if p == id)


def timestamp(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made


def test_the_stories_take_every_step() -> None:
    story = Story("placed", 0, (("tea", 1),), "ada", "", ORDER_STATUS_PENDING, ("next", "next", "cancel"))
    assert [type(event) for event in outcome_of(0, story).events] == [
        OrderPlaced,
        OrderStatusChanged,
        OrderStatusChanged,
    ]
    assert outcome_of(0, story).status == ORDER_STATUS_SHIPPED
    assert [type(event) for event in outcome_of(0, story._replace(steps=("cancel", "next"))).events] == [
        OrderPlaced,
        OrderCancelled,
    ]
