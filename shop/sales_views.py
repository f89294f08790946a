"""Projection `analytics`: sums of orders and returns for a user, a product, a day.

An order with hundreds of items changes one row for each of its products (`product_statistics`) and four more. Sums of
products over days are not stored, because there would be almost as many rows as items: they are computed from the rows
of `order_contributions` for each request.
"""

from datetime import date
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from diptych import Projection, Recorded
from shop.items import units_by_product
from shop.money import add, add_to_sums, money, nanos, take_from_sums
from shop.refusals import ProductNotFound, UserNotFound
from shop.v1.analytics_pb2 import ContributionLine, DailySales, OrderContribution
from shop.v1.order_events_pb2 import OrderCancelled, OrderImported, OrderPlaced, OrderStatusChanged, ReturnImported
from shop.v1.orders_pb2 import ORDER_STATUS_CANCELLED, ORDER_STATUS_PENDING, OrderStatus
from shop.v1.product_events_pb2 import ProductCreated
from shop.v1.product_queries_pb2 import GetProductStatisticsRequest
from shop.v1.products_pb2 import ProductStatistics
from shop.v1.user_events_pb2 import UserRegistered, UserRemoved
from shop.v1.user_queries_pb2 import GetUserStatisticsRequest
from shop.v1.users_pb2 import UserStatistics

analytics = Projection("analytics", version=2)


def day_of(time: Timestamp) -> str:
    """Return the UTC day of a time, `2010-12-01`. Such names sort as the days do."""
    return date.fromordinal(_FIRST_OF_1970 + time.seconds // 86_400).isoformat()


_FIRST_OF_1970 = date(1970, 1, 1).toordinal()


def _later(time: Timestamp, other: Timestamp) -> bool:
    return (time.seconds, time.nanos) > (other.seconds, other.nanos)


# View `user_statistics`: the orders of a user.

user_statistics = analytics.view("user_statistics", UserStatistics)
user_statistics.get(
    GetUserStatisticsRequest, key=lambda q: q.user_id, missing=lambda q: UserNotFound(user_id=q.user_id)
)


@user_statistics.on(UserRegistered, key=lambda e: e.user_id)
def registered(row: UserStatistics | None, event: UserRegistered, at: Recorded) -> UserStatistics:
    """Add a row without orders, unless an earlier user with that id has one."""
    return row or UserStatistics(user_id=event.user_id)


@user_statistics.on(UserRemoved, key=lambda e: e.user_id)
def removed(row: UserStatistics | None, event: UserRemoved, at: Recorded) -> UserStatistics | None:
    """Leave the row: orders of the removed user may still be cancelled."""
    assert row is not None
    return row if row.HasField("last_order_time") or row.return_count else None


@user_statistics.on_each(OrderImported, keys=lambda e: (e.customer_id,) if e.customer_id else ())
def user_ordered(row: UserStatistics | None, event: OrderImported, at: Recorded) -> UserStatistics:
    """Count an order. A cancelled order was not paid."""
    return _with_order(row or UserStatistics(user_id=at.key), event, event.status)


@user_statistics.on(OrderPlaced, key=lambda e: e.customer_id)
def user_placed(row: UserStatistics | None, event: OrderPlaced, at: Recorded) -> UserStatistics:
    """Count an order."""
    return _with_order(row or UserStatistics(user_id=at.key), event, ORDER_STATUS_PENDING)


@user_statistics.on_each(OrderCancelled, keys=lambda e: (e.customer_id,) if e.customer_id else ())
def user_cancelled(row: UserStatistics | None, event: OrderCancelled, at: Recorded) -> UserStatistics:
    """Subtract the cancelled order."""
    assert row is not None
    row.order_count -= 1
    row.cancelled_order_count += 1
    take_from_sums(row.spent, event.total)
    return row


def _with_order(row: UserStatistics, event: OrderImported | OrderPlaced, status: OrderStatus) -> UserStatistics:
    if status == ORDER_STATUS_CANCELLED:
        row.cancelled_order_count += 1
    else:
        row.order_count += 1
        add_to_sums(row.spent, event.total)
    if not row.HasField("first_order_time") or _later(row.first_order_time, event.order_time):
        row.first_order_time.CopyFrom(event.order_time)
    if not row.HasField("last_order_time") or _later(event.order_time, row.last_order_time):
        row.last_order_time.CopyFrom(event.order_time)
    return row


@user_statistics.on_each(ReturnImported, keys=lambda e: (e.customer_id,) if e.customer_id else ())
def user_returned(row: UserStatistics | None, event: ReturnImported, at: Recorded) -> UserStatistics:
    """Count a return."""
    row = row or UserStatistics(user_id=at.key)
    row.return_count += 1
    add_to_sums(row.returned, event.total)
    return row


# View `product_statistics`: the sales of a product.

product_statistics = analytics.view("product_statistics", ProductStatistics)
product_statistics.get(
    GetProductStatisticsRequest,
    key=lambda q: q.product_id,
    missing=lambda q: ProductNotFound(product_id=q.product_id),
)


class Ordered(NamedTuple):
    """Part of one product in an order."""

    units: int
    order_time: Timestamp
    cancelled: bool


def _imported(event: OrderImported) -> dict[str, Ordered]:
    return _parts(event, event.status == ORDER_STATUS_CANCELLED)


def _placed(event: OrderPlaced) -> dict[str, Ordered]:
    return _parts(event, False)


def _parts(event: OrderImported | OrderPlaced, cancelled: bool) -> dict[str, Ordered]:
    order_time = event.order_time
    return {id: Ordered(units, order_time, cancelled) for id, units in units_by_product(event.items).items()}


@product_statistics.on(ProductCreated, key=lambda e: e.product_id)
def created(row: ProductStatistics | None, event: ProductCreated, at: Recorded) -> ProductStatistics:
    """Add a row without sales."""
    return ProductStatistics(product_id=event.product_id)


@product_statistics.on_parts(OrderPlaced, parts=_placed)
@product_statistics.on_parts(OrderImported, parts=_imported)
def product_ordered(row: ProductStatistics | None, part: Ordered, at: Recorded) -> ProductStatistics:
    """Count an order. A cancelled order sold nothing."""
    row = row or ProductStatistics(product_id=at.key)
    if not part.cancelled:
        row.order_count += 1
        row.units_sold += part.units
    if not row.HasField("last_order_time") or _later(part.order_time, row.last_order_time):
        row.last_order_time.CopyFrom(part.order_time)
    return row


@product_statistics.on_parts(OrderCancelled, parts=lambda e: units_by_product(e.items))
def product_cancelled(row: ProductStatistics | None, units: int, at: Recorded) -> ProductStatistics:
    """Subtract an order and its pieces."""
    assert row is not None
    row.order_count -= 1
    row.units_sold -= units
    return row


@product_statistics.on_parts(ReturnImported, parts=lambda e: units_by_product(e.items))
def product_returned(row: ProductStatistics | None, units: int, at: Recorded) -> ProductStatistics:
    """Count returned pieces."""
    row = row or ProductStatistics(product_id=at.key)
    row.units_returned += units
    return row


# View `daily_sales`: sums of a day, for each country and currency.

daily_sales = analytics.view("daily_sales", DailySales)
sales_day = daily_sales.column("day", lambda row: row.day)
sales_country = daily_sales.column("country", lambda row: row.country, indexed=False)


def _sales_key(time: Timestamp, total: Money, country: str) -> str:
    return f"{day_of(time)}/{total.currency_code}/{country}"


def _day(row: DailySales | None, time: Timestamp, total: Money, country: str) -> DailySales:
    if row is not None:
        return row
    nothing = Money(currency_code=total.currency_code)
    return DailySales(
        day=day_of(time),
        country=country,
        currency_code=total.currency_code,
        gross=nothing,
        cancelled=nothing,
        returned=nothing,
    )


@daily_sales.on(OrderImported, key=lambda e: _sales_key(e.order_time, e.total, e.country))
def day_ordered(row: DailySales | None, event: OrderImported, at: Recorded) -> DailySales:
    """Add the order to its day, cancelled or not."""
    row = _day_with_order(row, event)
    if event.status == ORDER_STATUS_CANCELLED:
        add(row.cancelled, event.total)
    return row


@daily_sales.on(OrderPlaced, key=lambda e: _sales_key(e.order_time, e.total, e.country))
def day_placed(row: DailySales | None, event: OrderPlaced, at: Recorded) -> DailySales:
    """Add the order to its day."""
    return _day_with_order(row, event)


@daily_sales.on(OrderCancelled, key=lambda e: _sales_key(e.order_time, e.total, e.country))
def day_cancelled(row: DailySales | None, event: OrderCancelled, at: Recorded) -> DailySales:
    """Add the cancellation to the day of the order."""
    assert row is not None
    add(row.cancelled, event.total)
    return row


def _day_with_order(row: DailySales | None, event: OrderImported | OrderPlaced) -> DailySales:
    row = _day(row, event.order_time, event.total, event.country)
    add(row.gross, event.total)
    row.orders += 1
    row.units += sum(item.quantity for item in event.items)
    return row


@daily_sales.on(ReturnImported, key=lambda e: _sales_key(e.return_time, e.total, e.country))
def day_returned(row: DailySales | None, event: ReturnImported, at: Recorded) -> DailySales:
    """Add the return to its day."""
    row = _day(row, event.return_time, event.total, event.country)
    add(row.returned, event.total)
    return row


# View `order_contributions`: the part of each order and each return.


def _products(row: OrderContribution) -> str:
    # Ids have no spaces, so a text between two spaces is one id.
    return f" {' '.join([line.product_id for line in row.lines])} "


order_contributions = analytics.view("order_contributions", OrderContribution)
contribution_day = order_contributions.column("day", lambda row: row.day)
contribution_customer = order_contributions.column("customer_id", lambda row: row.customer_id, indexed=False)
contribution_country = order_contributions.column("country", lambda row: row.country, indexed=False)
contribution_status = order_contributions.column("status", lambda row: int(row.status), indexed=False)
contribution_products = order_contributions.text("products", _products)
order_contributions.index_on(contribution_customer, contribution_day)


def _lines(event: OrderImported | OrderPlaced | ReturnImported) -> list[ContributionLine]:
    sums: dict[str, tuple[int, int]] = {}
    for item in event.items:
        units, amount = sums.get(item.product_id, (0, 0))
        sums[item.product_id] = (units + item.quantity, amount + nanos(item.total))
    currency_code = event.total.currency_code
    return [
        ContributionLine(product_id=id, units=units, amount=money(currency_code, amount))
        for id, (units, amount) in sums.items()
    ]


@order_contributions.on(OrderImported, key=lambda e: f"order/{e.order_id}")
def order_contributed(row: OrderContribution | None, event: OrderImported, at: Recorded) -> OrderContribution:
    """Add the order's part in gross, and in cancelled if it is cancelled."""
    return _contribution(event, event.status)


@order_contributions.on(OrderPlaced, key=lambda e: f"order/{e.order_id}")
def placed_contributed(row: OrderContribution | None, event: OrderPlaced, at: Recorded) -> OrderContribution:
    """Add the order's part in gross."""
    return _contribution(event, ORDER_STATUS_PENDING)


@order_contributions.on(OrderStatusChanged, key=lambda e: f"order/{e.order_id}")
def contribution_moved(row: OrderContribution | None, event: OrderStatusChanged, at: Recorded) -> OrderContribution:
    """Set the new status."""
    assert row is not None
    row.status = event.status
    return row


@order_contributions.on(OrderCancelled, key=lambda e: f"order/{e.order_id}")
def contribution_cancelled(row: OrderContribution | None, event: OrderCancelled, at: Recorded) -> OrderContribution:
    """Add the order to cancelled."""
    assert row is not None
    row.status = ORDER_STATUS_CANCELLED
    return row


def _contribution(event: OrderImported | OrderPlaced, status: OrderStatus) -> OrderContribution:
    lines = _lines(event)
    return OrderContribution(
        order_id=event.order_id,
        day=day_of(event.order_time),
        customer_id=event.customer_id,
        country=event.country,
        status=status,
        amount=event.total,
        units=sum(line.units for line in lines),
        lines=lines,
    )


@order_contributions.on(ReturnImported, key=lambda e: f"return/{e.return_id}")
def return_contributed(row: OrderContribution | None, event: ReturnImported, at: Recorded) -> OrderContribution:
    """Add the return's part in returned."""
    lines = _lines(event)
    return OrderContribution(
        return_id=event.return_id,
        day=day_of(event.return_time),
        customer_id=event.customer_id,
        country=event.country,
        amount=event.total,
        units=sum(line.units for line in lines),
        lines=lines,
    )
