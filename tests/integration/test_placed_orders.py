"""Placed orders with real servers: from the catalogue's price to the figures, read with the commands' tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from google.type.money_pb2 import Money

from diptych.client import CallRefused, Connection
from shop.v1.order_commands_pb2 import CancelOrderRequest, PlacedItem, PlaceOrderRequest, UpdateOrderStatusRequest
from shop.v1.order_queries_pb2 import GetOrderAnalyticsRequest, GetOrderRequest, ListOrdersRequest
from shop.v1.orders_pb2 import (
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_CONFIRMED,
    ORDER_STATUS_DELIVERED,
    ORDER_STATUS_PENDING,
    ORDER_STATUS_SHIPPED,
)
from shop.v1.product_commands_pb2 import ChangePriceRequest, CreateProductRequest
from shop.v1.product_queries_pb2 import GetProductStatisticsRequest
from shop.v1.user_commands_pb2 import DeactivateUserRequest, RegisterUserRequest
from shop.v1.user_queries_pb2 import GetUserStatisticsRequest
from tests.support.pair import Pair
from tests.support.shop_processes import last


def gbp(units: int) -> Money:
    return Money(currency_code="GBP", units=units)


@pytest.fixture
async def shop(shared_pair: Pair) -> AsyncIterator[Connection]:
    """A client that reads its own writes."""
    async with shared_pair.connect(read_your_writes=True) as connection:
        yield connection


async def begun(shop: Connection, name: str) -> PlaceOrderRequest:
    """Create a customer and a product; return the command that orders three pieces of it."""
    await shop.execute(RegisterUserRequest(user_id=name, email=f"{name}@example.com", first_name=name.title()))
    await shop.execute(CreateProductRequest(product_id=f"{name}-tea", name="Tea", price=gbp(2), stock=10))
    return PlaceOrderRequest(
        order_id=f"{name}-1",
        customer_id=name,
        items=[PlacedItem(product_id=f"{name}-tea", quantity=3)],
        country="EIRE",
    )


async def test_an_order_goes_from_placed_to_delivered(shop: Connection) -> None:
    command = await begun(shop, "dora")
    await shop.execute(command)
    await shop.execute(ChangePriceRequest(product_id="dora-tea", price=gbp(9)))
    await last(shop, "fulfilments", ["dora-1"])
    order = await shop.query(GetOrderRequest(order_id="dora-1"))
    assert (order.status, order.total, order.customer_name) == (ORDER_STATUS_CONFIRMED, gbp(6), "Dora")
    for status in (ORDER_STATUS_SHIPPED, ORDER_STATUS_DELIVERED):
        await shop.execute(UpdateOrderStatusRequest(order_id="dora-1", status=status, reason=f"step {status}"))
    order = await shop.query(GetOrderRequest(order_id="dora-1"))
    assert [(step.status, step.reason) for step in order.status_history] == [
        (ORDER_STATUS_PENDING, ""),
        (ORDER_STATUS_CONFIRMED, ""),
        (ORDER_STATUS_SHIPPED, "step 3"),
        (ORDER_STATUS_DELIVERED, "step 4"),
    ]
    assert order.version == 4
    with pytest.raises(CallRefused) as refused:
        await shop.execute(CancelOrderRequest(order_id="dora-1"))
    assert refused.value.reason == "ORDER_NOT_CANCELLABLE"
    assert refused.value.metadata["current_status"] == "ORDER_STATUS_DELIVERED"


async def test_a_cancelled_order_is_taken_out_of_all_figures(shop: Connection) -> None:
    command = await begun(shop, "carl")
    await shop.execute(command)
    await last(shop, "fulfilments", ["carl-1"])
    placed = await shop.query(GetUserStatisticsRequest(user_id="carl"))
    assert (placed.order_count, list(placed.spent)) == (1, [gbp(6)])
    assert (await shop.query(GetProductStatisticsRequest(product_id="carl-tea"))).units_sold == 3

    answer = await shop.execute(CancelOrderRequest(order_id="carl-1", reason="too late"))
    again = await shop.execute(CancelOrderRequest(order_id="carl-1", reason="again"))
    assert (answer.result.version, again.result.version) == (3, 3)

    user = await shop.query(GetUserStatisticsRequest(user_id="carl"))
    assert (user.order_count, user.cancelled_order_count, list(user.spent)) == (0, 1, [])
    goods = await shop.query(GetProductStatisticsRequest(product_id="carl-tea"))
    assert (goods.order_count, goods.units_sold) == (0, 0)
    listed = await shop.query(ListOrdersRequest(customer_id="carl", status=ORDER_STATUS_CANCELLED))
    assert [one.order_id for one in listed.orders] == ["carl-1"]
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    query = GetOrderAnalyticsRequest(
        start_time=today - timedelta(days=1), end_time=today + timedelta(days=2), customer_id="carl"
    )
    (total,) = (await shop.query(query)).totals
    assert (total.gross, total.cancelled, total.net, total.orders, total.units) == (gbp(6), gbp(6), gbp(0), 1, 3)


async def test_a_deactivated_user_cannot_order_but_an_order_of_theirs_goes_on(shop: Connection) -> None:
    command = await begun(shop, "gone")
    await shop.execute(command)
    await shop.execute(DeactivateUserRequest(user_id="gone"))
    command.order_id = "gone-2"
    with pytest.raises(CallRefused) as refused:
        await shop.execute(command)
    assert refused.value.reason == "USER_DEACTIVATED"
    await last(shop, "fulfilments", ["gone-1"])
    await shop.execute(UpdateOrderStatusRequest(order_id="gone-1", status=ORDER_STATUS_SHIPPED))
    assert (await shop.query(GetOrderRequest(order_id="gone-1"))).status == ORDER_STATUS_SHIPPED


async def test_a_status_that_does_not_come_next_is_refused(shop: Connection) -> None:
    await shop.execute(await begun(shop, "hasty"))
    await last(shop, "fulfilments", ["hasty-1"])
    for status in (ORDER_STATUS_DELIVERED, ORDER_STATUS_CANCELLED):
        with pytest.raises(CallRefused) as refused:
            await shop.execute(UpdateOrderStatusRequest(order_id="hasty-1", status=status))
        assert refused.value.reason == "ORDER_STATUS_NOT_NEXT"
