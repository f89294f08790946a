"""Many concurrent orders of few products, and the check that the sums are exact."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from google.type.money_pb2 import Money

from diptych.client import Connection
from shop.v1.fulfilments_pb2 import PAYMENT_STATUS_CHARGED
from shop.v1.order_commands_pb2 import PlacedItem, PlaceOrderRequest
from shop.v1.order_queries_pb2 import GetOrderRequest
from shop.v1.orders_pb2 import ORDER_STATUS_CANCELLED, ORDER_STATUS_CONFIRMED
from shop.v1.processes_pb2 import PROCESS_STATUS_COMPLETED
from shop.v1.product_commands_pb2 import CreateProductRequest
from shop.v1.product_queries_pb2 import GetProductRequest
from shop.v1.user_commands_pb2 import RegisterUserRequest
from tests.support.shop_processes import ended, last


@dataclass
class Plan:
    """A customer, products, and the orders so far."""

    name: str
    stock: dict[str, int]
    """Initial stock of each product."""
    rng: random.Random
    orders: list[str] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    """Orders that a client has cancelled."""


@dataclass
class Rushed:
    """Ends of the orders."""

    confirmed: int = 0
    cancelled: int = 0
    reserved: dict[str, int] = field(default_factory=dict)
    """Pieces of each product that confirmed orders hold."""
    paid: set[str] = field(default_factory=set)


async def open_rush(shop: Connection, name: str, *, products: int, stock: int) -> Plan:
    """Register a customer and create products."""
    await shop.execute(RegisterUserRequest(user_id=name, email=f"{name}@example.com"))
    plan = Plan(name, {f"{name}-{number}": stock for number in range(products)}, random.Random(products))
    for product_id in plan.stock:
        price = Money(currency_code="GBP", units=1)
        await shop.execute(CreateProductRequest(product_id=product_id, price=price, stock=stock))
    return plan


async def rush(shop: Connection, plan: Plan, *, orders: int, concurrency: int, wait: bool = True) -> Rushed:
    """Place orders of one to three products each, `concurrency` at a time; wait until all orders so far have ended."""
    slots = asyncio.Semaphore(concurrency)

    async def place_one(order_id: str, items: list[PlacedItem]) -> None:
        async with slots:
            await shop.execute(PlaceOrderRequest(order_id=order_id, customer_id=plan.name, items=items))

    placing = []
    for _ in range(orders):
        order_id = f"{plan.name}-order-{len(plan.orders)}"
        plan.orders.append(order_id)
        chosen = plan.rng.sample(sorted(plan.stock), plan.rng.randint(1, min(3, len(plan.stock))))
        items = [PlacedItem(product_id=each, quantity=plan.rng.randint(1, 3)) for each in chosen]
        placing.append(place_one(order_id, items))
    await asyncio.gather(*placing)
    ends = Rushed(reserved=dict.fromkeys(plan.stock, 0))
    if not wait:
        return ends
    rows = await last(shop, "fulfilments", plan.orders, until=lambda row: ended(row) and _final(plan, row))
    for order_id, row in rows.items():
        if row.status != PROCESS_STATUS_COMPLETED:
            ends.cancelled += 1
            continue
        ends.confirmed += 1
        if row.payment_status == PAYMENT_STATUS_CHARGED:
            ends.paid.add(order_id)
        for item in row.items:
            ends.reserved[item.product_id] += item.quantity
    return ends


def _final(plan: Plan, row: object) -> bool:
    """Return True if the order cannot change any more: a cancelled order may have been fulfilled before."""
    order_id, status = row.order_id, row.status  # type: ignore[attr-defined]
    return order_id not in plan.cancelled or status != PROCESS_STATUS_COMPLETED


async def checked(shop: Connection, plan: Plan, ends: Rushed) -> list[str]:
    """Return the errors in the sums over all products, and in the orders' statuses."""
    wrong = []
    for product_id, stock in plan.stock.items():
        row = await shop.query(GetProductRequest(product_id=product_id))
        if row.stock < 0 or row.stock + row.reserved != stock:
            wrong.append(f"of {product_id} there were {stock}; {row.stock} are left, {row.reserved} reserved")
        if row.reserved != ends.reserved[product_id]:
            wrong.append(f"orders hold {ends.reserved[product_id]} of {product_id}, and {row.reserved} are reserved")
    statuses = {id: (await shop.query(GetOrderRequest(order_id=id))).status for id in plan.orders}
    for order_id, status in statuses.items():
        if status != (ORDER_STATUS_CONFIRMED if order_id in ends.paid else ORDER_STATUS_CANCELLED):
            wrong.append(f"{order_id} is {status}, and was {'' if order_id in ends.paid else 'not '}paid")
    return wrong
