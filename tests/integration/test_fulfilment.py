"""Fulfilment with real servers and a payment provider: all ends of an order, and exact sums."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.type.money_pb2 import Money

from diptych.client import CallRefused, Connection
from diptych.v1.commands_pb2 import CommandContext
from shop.payments.v1.payments_pb2 import (
    CHARGE_STATUS_BARRED,
    CHARGE_STATUS_CHARGED,
    CHARGE_STATUS_DECLINED,
    CHARGE_STATUS_REFUNDED,
    FAULT_ANSWER_LATE,
    FAULT_ANSWER_TWICE,
    FAULT_DECLINE,
    FAULT_DELAY,
    FAULT_DIE_AFTER,
    FAULT_DIE_BEFORE,
    FAULT_UNSPECIFIED,
)
from shop.v1.fulfilment_queries_pb2 import GetFulfilmentRequest
from shop.v1.fulfilments_pb2 import (
    PAYMENT_STATUS_CHARGED,
    PAYMENT_STATUS_CHARGING,
    PAYMENT_STATUS_DECLINED,
    PAYMENT_STATUS_PENDING,
    PAYMENT_STATUS_VOIDED,
    RESERVATION_STATUS_REFUSED,
    RESERVATION_STATUS_RELEASED,
    RESERVATION_STATUS_RESERVED,
    RESERVATION_STATUS_SHIPPED,
    Fulfilment,
)
from shop.v1.order_commands_pb2 import (
    CancelOrderRequest,
    ImportedItem,
    ImportOrderRequest,
    PlacedItem,
    PlaceOrderRequest,
    UpdateOrderStatusRequest,
)
from shop.v1.order_queries_pb2 import GetOrderRequest
from shop.v1.orders_pb2 import (
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_CONFIRMED,
    ORDER_STATUS_PENDING,
    ORDER_STATUS_SHIPPED,
)
from shop.v1.processes_pb2 import PROCESS_STATUS_COMPLETED, PROCESS_STATUS_FAILED
from shop.v1.product_commands_pb2 import CreateProductRequest
from shop.v1.product_queries_pb2 import GetProductRequest
from shop.v1.user_commands_pb2 import RegisterUserRequest
from tests.history.clients import whole_log
from tests.support.order_rush import checked, open_rush, rush
from tests.support.pair import Pair, started_pair
from tests.support.polling import eventually
from tests.support.shop_processes import PaymentProvider, last, watched

PATIENT = {"SHOP_PAYMENT_SECONDS": "3600"}
IMPATIENT = {"SHOP_PAYMENT_SECONDS": "1.5"}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaymentProvider]:
    found = PaymentProvider(tmp_path_factory.mktemp("provider"))
    try:
        found.start()
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, provider: PaymentProvider) -> Iterator[Pair]:
    env = {**PATIENT, "SHOP_PAYMENTS": provider.address}
    with started_pair(tmp_path_factory.mktemp("fulfilment") / "data", env=env) as pair:
        yield pair


@pytest.fixture
async def shop(pair: Pair, provider: PaymentProvider) -> AsyncIterator[Connection]:
    """A client that reads its own writes. The provider has no fault unless a test sets one."""
    if not provider.running:
        await provider.restart()
    await provider.set_fault(FAULT_UNSPECIFIED)
    async with pair.connect(read_your_writes=True, retry_seconds=60) as connection:
        yield connection


async def begun(shop: Connection, name: str, **stock: int) -> None:
    """Create a customer, and products with this much stock."""
    await shop.execute(RegisterUserRequest(user_id=name, email=f"{name}@example.com"))
    for product, pieces in stock.items():
        price = Money(currency_code="GBP", units=3)
        await shop.execute(CreateProductRequest(product_id=f"{name}-{product}", price=price, stock=pieces))


async def place_order(shop: Connection, name: str, **items: int) -> None:
    """Place an order for these products under the customer's name."""
    placed = [PlacedItem(product_id=f"{name}-{product}", quantity=quantity) for product, quantity in items.items()]
    context = CommandContext(correlation_id=f"order-of-{name}")
    await shop.execute(PlaceOrderRequest(context=context, order_id=name, customer_id=name, items=placed))


async def end_of(shop: Connection, name: str) -> Fulfilment:
    row: Fulfilment = (await last(shop, "fulfilments", [name]))[name]
    return row


async def stock_of(shop: Connection, name: str, product: str) -> tuple[int, int]:
    """Return a product's stock and its reserved pieces."""
    row = await shop.query(GetProductRequest(product_id=f"{name}-{product}"))
    return row.stock, row.reserved


async def order_of(shop: Connection, name: str) -> tuple[int, str]:
    order = await shop.query(GetOrderRequest(order_id=name))
    return order.status, order.status_history[-1].reason


async def test_an_order_is_fulfilled_under_one_correlation_id(
    pair: Pair, shop: Connection, provider: PaymentProvider
) -> None:
    await begun(shop, "ada", tea=5, mug=1)
    watching = asyncio.create_task(watched(shop, "fulfilments", ["ada"]))
    await place_order(shop, "ada", tea=2, mug=1)
    rows = (await watching)["ada"]
    end = await end_of(shop, "ada")
    assert rows[-1] == end == await shop.query(GetFulfilmentRequest(order_id="ada"))
    assert (end.status, end.payment_status) == (PROCESS_STATUS_COMPLETED, PAYMENT_STATUS_CHARGED)
    assert [item.status for item in end.items] == [RESERVATION_STATUS_RESERVED] * 2
    assert await order_of(shop, "ada") == (ORDER_STATUS_CONFIRMED, "")
    assert [await stock_of(shop, "ada", product) for product in ("tea", "mug")] == [(3, 2), (0, 1)]
    charge = (await provider.charges())["ada"]
    assert (charge.status, charge.charge_count, charge.amount.units) == (CHARGE_STATUS_CHARGED, 1, 9)
    assert (charge.payment_id, charge.customer_id) == (end.payment_id, "ada")
    mine = [event for event in await whole_log(pair.command.address) if event.metadata.correlation_id == "order-of-ada"]
    assert {event.event.TypeName().rpartition(".")[2] for event in mine} >= {
        "OrderPlaced",
        "FulfilmentStarted",
        "StockReserved",
        "PaymentRequested",
        "PaymentCharged",
        "OrderStatusChanged",
        "FulfilmentCompleted",
    }
    await shop.execute(UpdateOrderStatusRequest(order_id="ada", status=ORDER_STATUS_SHIPPED))
    shipped = await last(
        shop,
        "fulfilments",
        ["ada"],
        until=lambda row: all(item.status == RESERVATION_STATUS_SHIPPED for item in row.items),
    )
    assert shipped["ada"].status == PROCESS_STATUS_COMPLETED
    assert [await stock_of(shop, "ada", product) for product in ("tea", "mug")] == [(3, 0), (0, 0)]


async def test_an_order_is_cancelled_and_its_stock_released_when_one_item_is_sold_out(
    shop: Connection, provider: PaymentProvider
) -> None:
    await begun(shop, "bob", tea=5, mug=1)
    await place_order(shop, "bob", tea=2, mug=2)
    end = await end_of(shop, "bob")
    assert (end.status, end.reason, end.payment_status) == (
        PROCESS_STATUS_FAILED,
        "STOCK_TOO_LOW",
        PAYMENT_STATUS_PENDING,
    )
    assert [item.status for item in end.items] == [RESERVATION_STATUS_RELEASED, RESERVATION_STATUS_REFUSED]
    status, reason = await order_of(shop, "bob")
    assert (status, reason.partition(":")[0]) == (ORDER_STATUS_CANCELLED, "STOCK_TOO_LOW")
    assert [await stock_of(shop, "bob", product) for product in ("tea", "mug")] == [(5, 0), (1, 0)]
    assert "bob" not in await provider.charges()


async def test_an_order_whose_payment_is_declined_is_cancelled(shop: Connection, provider: PaymentProvider) -> None:
    await begun(shop, "cleo", tea=5)
    await provider.set_fault(FAULT_DECLINE, calls=1)
    await place_order(shop, "cleo", tea=2)
    end = await end_of(shop, "cleo")
    assert (end.status, end.reason, end.payment_status) == (
        PROCESS_STATUS_FAILED,
        "CARD_DECLINED",
        PAYMENT_STATUS_DECLINED,
    )
    assert await order_of(shop, "cleo") == (ORDER_STATUS_CANCELLED, "CARD_DECLINED: The card was declined.")
    assert await stock_of(shop, "cleo", "tea") == (5, 0)
    assert (await provider.charges())["cleo"].status == CHARGE_STATUS_DECLINED


async def test_a_payment_that_is_answered_twice_is_taken_once(shop: Connection, provider: PaymentProvider) -> None:
    await begun(shop, "dan", tea=5)
    await provider.set_fault(FAULT_ANSWER_TWICE, calls=2)
    await place_order(shop, "dan", tea=2)
    assert (await end_of(shop, "dan")).status == PROCESS_STATUS_COMPLETED
    charge = (await provider.charges())["dan"]
    assert (charge.status, charge.charge_count, charge.repeat_count) == (CHARGE_STATUS_CHARGED, 1, 2)


@pytest.mark.parametrize("fault", [FAULT_DIE_BEFORE, FAULT_DIE_AFTER])
async def test_a_payment_is_taken_once_when_the_provider_dies(
    shop: Connection, provider: PaymentProvider, fault: int
) -> None:
    name = f"eve{fault}"
    await begun(shop, name, tea=5)
    await provider.set_fault(fault, calls=1)  # type: ignore[arg-type]
    await place_order(shop, name, tea=2)
    await eventually(lambda: not provider.running, seconds=60)
    await provider.restart()
    assert (await end_of(shop, name)).status == PROCESS_STATUS_COMPLETED
    charge = (await provider.charges())[name]
    assert (charge.status, charge.charge_count) == (CHARGE_STATUS_CHARGED, 1)


async def test_a_customer_who_cancels_while_the_payment_is_under_way_pays_nothing(
    shop: Connection, provider: PaymentProvider
) -> None:
    await begun(shop, "fay", tea=5)
    await provider.set_fault(FAULT_DELAY, calls=1, seconds=3600)
    await place_order(shop, "fay", tea=2)
    await watched(shop, "fulfilments", ["fay"], until=lambda row: row.payment_status == PAYMENT_STATUS_CHARGING)
    await shop.execute(CancelOrderRequest(order_id="fay", reason="changed my mind"))
    end = await end_of(shop, "fay")
    assert (end.status, end.reason, end.payment_status) == (
        PROCESS_STATUS_FAILED,
        "ORDER_CANCELLED",
        PAYMENT_STATUS_VOIDED,
    )
    assert await order_of(shop, "fay") == (ORDER_STATUS_CANCELLED, "changed my mind")
    assert await stock_of(shop, "fay", "tea") == (5, 0)
    charge = (await provider.charges())["fay"]
    assert charge.charge_count == charge.refund_count


async def test_a_cancelled_order_is_refunded_once_when_the_provider_dies(
    shop: Connection, provider: PaymentProvider
) -> None:
    await begun(shop, "gus", tea=5)
    await place_order(shop, "gus", tea=5)
    assert (await end_of(shop, "gus")).status == PROCESS_STATUS_COMPLETED
    assert await stock_of(shop, "gus", "tea") == (0, 5)
    await provider.set_fault(FAULT_DIE_AFTER, calls=1, voids=True)
    await shop.execute(CancelOrderRequest(order_id="gus", reason="too late?"))
    await eventually(lambda: not provider.running, seconds=60)
    await provider.restart()
    end = (await last(shop, "fulfilments", ["gus"], until=lambda row: row.status == PROCESS_STATUS_FAILED))["gus"]
    assert (end.reason, end.payment_status) == ("ORDER_CANCELLED", PAYMENT_STATUS_VOIDED)
    assert await order_of(shop, "gus") == (ORDER_STATUS_CANCELLED, "too late?")
    assert await stock_of(shop, "gus", "tea") == (5, 0)
    charge = (await provider.charges())["gus"]
    assert (charge.status, charge.charge_count, charge.refund_count) == (CHARGE_STATUS_REFUNDED, 1, 1)


async def test_an_imported_order_is_not_fulfilled(shop: Connection) -> None:
    await begun(shop, "hal", tea=5)
    item = ImportedItem(product_id="hal-tea", quantity=2, unit_price=Money(currency_code="GBP"))
    imported = ImportOrderRequest(order_id="hal-old", items=[item], status=ORDER_STATUS_PENDING)
    imported.order_time.GetCurrentTime()
    await shop.execute(imported)
    await shop.execute(CancelOrderRequest(order_id="hal-old"))
    await place_order(shop, "hal", tea=1)  # The process takes it after the import.
    await end_of(shop, "hal")
    with pytest.raises(CallRefused) as refused:
        await shop.query(GetFulfilmentRequest(order_id="hal-old"))
    assert refused.value.reason == "FULFILMENT_NOT_FOUND"
    assert await stock_of(shop, "hal", "tea") == (4, 1)


async def test_hundreds_of_concurrent_orders_leave_exact_sums(shop: Connection, provider: PaymentProvider) -> None:
    plan = await open_rush(shop, "rush", products=6, stock=40)
    told = await rush(shop, plan, orders=300, concurrency=64)
    assert await checked(shop, plan, told) == []
    assert told.confirmed + told.cancelled == 300
    assert min(told.confirmed, told.cancelled) > 0, "there was no contention"
    charges = await provider.charges()
    assert {id for id in plan.orders if id in charges and charges[id].status == CHARGE_STATUS_CHARGED} == told.paid


async def test_every_order_ends_after_kills_at_any_step(
    pair: Pair, shop: Connection, provider: PaymentProvider
) -> None:
    rng = random.Random(6)
    plan = await open_rush(shop, "killed", products=3, stock=30)
    for turn in range(3):
        rushing = asyncio.create_task(rush(shop, plan, orders=20, concurrency=20, wait=False))
        await asyncio.sleep(rng.uniform(0, 0.15))
        if turn % 2 == 0:
            pair.command.kill()
        else:
            provider.kill()
            pair.projector.kill()
            await asyncio.sleep(rng.uniform(0, 0.05))
            pair.command.kill()
            await pair.projector.restart()
            await provider.restart()
        await pair.command.restart()
        await rushing
        # A customer who does not wait for it.
        with_luck = rng.choice(plan.orders)
        await shop.execute(CancelOrderRequest(order_id=with_luck, reason="tired of waiting"))
        plan.cancelled.add(with_luck)
    told = await rush(shop, plan, orders=0, concurrency=1)
    assert await checked(shop, plan, told) == []
    charges = await provider.charges()
    for id in plan.orders:
        charge = charges.get(id)
        if charge is not None:
            assert charge.charge_count <= 1
            assert charge.charge_count - charge.refund_count == (1 if id in told.paid else 0), charge
        else:
            assert id not in told.paid


async def test_a_payment_that_is_silent_too_long_is_voided_whenever_it_was_taken(
    tmp_path_factory: pytest.TempPathFactory, provider: PaymentProvider
) -> None:
    env = {**IMPATIENT, "SHOP_PAYMENTS": provider.address}
    with started_pair(tmp_path_factory.mktemp("impatient") / "data", env=env) as pair:
        async with pair.connect(read_your_writes=True, retry_seconds=60) as shop:
            if not provider.running:
                await provider.restart()
            for name, fault in (("ivy", FAULT_DELAY), ("jan", FAULT_ANSWER_LATE), ("kim", FAULT_ANSWER_LATE)):
                await begun(shop, name, tea=5)
                await provider.set_fault(fault, calls=1, seconds=3600)
                await place_order(shop, name, tea=2)
                if name == "kim":  # And a provider that is not there to be asked for the money is asked until it is.
                    await eventually(lambda: _is_asked(provider, "kim"), seconds=60)
                    provider.kill()
                    await watched(shop, "fulfilments", ["kim"], until=lambda row: row.reason == "PAYMENT_TIMED_OUT")
                    await provider.restart()
                end = await end_of(shop, name)
                assert (end.status, end.reason, end.payment_status) == (
                    PROCESS_STATUS_FAILED,
                    "PAYMENT_TIMED_OUT",
                    PAYMENT_STATUS_VOIDED,
                )
                assert (await order_of(shop, name))[0] == ORDER_STATUS_CANCELLED
                assert await stock_of(shop, name, "tea") == (5, 0)
                charge = (await provider.charges())[name]
                assert charge.status in (CHARGE_STATUS_BARRED, CHARGE_STATUS_REFUNDED)
                assert charge.charge_count == charge.refund_count


async def _is_asked(provider: PaymentProvider, reference: str) -> Any:
    return reference in await provider.charges()
