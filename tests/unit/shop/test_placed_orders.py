"""Placed orders, and the steps that placed and imported orders take: priced by the catalogue, forward or called off."""

from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from diptych.testing import NOW, Given, given
from shop.orders import CANCELLABLE, NEXT, OrderState, order
from shop.products import product
from shop.refusals import (
    AmountTooLarge,
    CurrenciesDiffer,
    OrderExists,
    OrderNotCancellable,
    OrderNotFound,
    OrderStatusNotNext,
    UnknownProduct,
    UnknownUser,
    UserDeactivated,
)
from shop.users import user
from shop.v1.order_commands_pb2 import (
    CancelOrderRequest,
    PlacedItem,
    PlaceOrderRequest,
    UpdateOrderStatusRequest,
)
from shop.v1.order_events_pb2 import CancelledItem, OrderCancelled, OrderImported, OrderPlaced, OrderStatusChanged
from shop.v1.orders_pb2 import (
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_CONFIRMED,
    ORDER_STATUS_DELIVERED,
    ORDER_STATUS_PENDING,
    ORDER_STATUS_SHIPPED,
    PAYMENT_METHOD_WALLET,
    OrderItem,
    OrderStatus,
)
from shop.v1.product_events_pb2 import PriceChanged, ProductCreated
from shop.v1.user_events_pb2 import UserDeactivated as UserWasDeactivated
from shop.v1.user_events_pb2 import UserRegistered

THEN = Timestamp(seconds=1_291_191_960)


def gbp(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="GBP", units=units, nanos=nanos)


tea = given(
    product,
    ProductCreated(product_id="tea", name="Tea", price=gbp(9)),
    PriceChanged(product_id="tea", price=gbp(2, 125_000_000), previous_price=gbp(9)),
)
mug = given(product, ProductCreated(product_id="mug", name="Mug", price=gbp(0), stock=1))
vase = given(product, ProductCreated(product_id="vase", price=Money(currency_code="EUR", units=1)))
gold = given(product, ProductCreated(product_id="gold", price=gbp(10_000_000_000)))
registered = UserRegistered(
    user_id="ada", email="ada@example.com", first_name="Ada", last_name="Lovelace", role="USER_ROLE_CUSTOMER"
)
ada = given(user, registered)

placed = OrderPlaced(
    order_id="o1",
    customer_id="ada",
    customer_name="Ada Lovelace",
    customer_email="ada@example.com",
    order_time=NOW,
    country="EIRE",
    items=[
        OrderItem(
            product_id="tea", product_name="Tea", quantity=3, unit_price=gbp(2, 125_000_000), total=gbp(6, 375_000_000)
        ),
        OrderItem(product_id="mug", product_name="Mug", quantity=2, unit_price=gbp(0), total=gbp(0)),
        OrderItem(
            product_id="tea", product_name="Tea", quantity=1, unit_price=gbp(2, 125_000_000), total=gbp(2, 125_000_000)
        ),
    ],
    total=gbp(8, 500_000_000),
    shipping_address="St James's Square",
    payment_method=PAYMENT_METHOD_WALLET,
)


def an_order(*items: tuple[str, int], **fields: Any) -> PlaceOrderRequest:
    listed = [PlacedItem(product_id=product_id, quantity=quantity) for product_id, quantity in items]
    return PlaceOrderRequest(**{"order_id": "o1", "customer_id": "ada", "items": listed, **fields})


def imported(status: OrderStatus, customer_id: str = "") -> OrderImported:
    return OrderImported(
        order_id="o1",
        customer_id=customer_id,
        order_time=THEN,
        items=[OrderItem(product_id="tea", quantity=1, unit_price=gbp(1), total=gbp(1))],
        status=status,
        total=gbp(1),
    )


def to(status: OrderStatus, reason: str = "") -> UpdateOrderStatusRequest:
    return UpdateOrderStatusRequest(order_id="o1", status=OrderStatus.Name(status), reason=reason)


def changed(previous_status: OrderStatus, status: OrderStatus, customer_id: str = "ada") -> OrderStatusChanged:
    return OrderStatusChanged(order_id="o1", customer_id=customer_id, status=status, previous_status=previous_status)


def cancelled(previous_status: OrderStatus, reason: str = "") -> OrderCancelled:
    return OrderCancelled(
        order_id="o1",
        customer_id="ada",
        order_time=NOW,
        country="EIRE",
        items=[CancelledItem(product_id="tea", quantity=4), CancelledItem(product_id="mug", quantity=2)],
        total=gbp(8, 500_000_000),
        previous_status=previous_status,
        reason=reason,
    )


confirmed = changed(ORDER_STATUS_PENDING, ORDER_STATUS_CONFIRMED)
shipped = changed(ORDER_STATUS_CONFIRMED, ORDER_STATUS_SHIPPED)
delivered = changed(ORDER_STATUS_SHIPPED, ORDER_STATUS_DELIVERED)

# Each status, and how a placed order comes to it.
WAYS: dict[OrderStatus, list[Message]] = {
    ORDER_STATUS_PENDING: [placed],
    ORDER_STATUS_CONFIRMED: [placed, confirmed],
    ORDER_STATUS_SHIPPED: [placed, confirmed, shipped],
    ORDER_STATUS_DELIVERED: [placed, confirmed, shipped, delivered],
    ORDER_STATUS_CANCELLED: [placed, cancelled(ORDER_STATUS_PENDING)],
}
STATUSES = list(WAYS)


def orders_in(status: OrderStatus) -> list[Given[OrderState]]:
    """An order that was placed and has come to a status, and one that was imported in it."""
    return [given(order, *WAYS[status]), given(order, imported(status, "ada"))]


def test_a_placed_order_has_the_prices_and_names_of_now() -> None:
    given(order).when(
        an_order(
            ("tea", 3),
            ("mug", 2),
            ("tea", 1),
            country="EIRE",
            shipping_address="St James's Square",
            payment_method=PAYMENT_METHOD_WALLET,
        ),
        also=[ada, tea, mug],
    ).then(placed)


def test_without_an_id_an_order_gets_one() -> None:
    (event,) = given(order).when(an_order(("tea", 1), order_id=""), also=[ada, tea], new_id="0190").events
    assert isinstance(event, OrderPlaced)
    assert event.order_id == "0190"


def test_more_than_is_in_stock_can_be_ordered() -> None:
    assert given(order).when(an_order(("mug", 1_000_000)), also=[ada, mug]).refusal is None


def test_an_order_is_placed_once() -> None:
    for before in (placed, imported(ORDER_STATUS_DELIVERED)):
        given(order, before).when(an_order(("tea", 1)), also=[ada, tea]).refused(OrderExists(order_id="o1"))


def test_named_users_and_products_must_exist() -> None:
    given(order).when(an_order(("tea", 1)), also=[tea]).refused(UnknownUser(user_id="ada"))
    given(order).when(an_order(("tea", 1), ("mug", 1)), also=[ada, tea]).refused(UnknownProduct(product_id="mug"))


def test_a_deactivated_user_cannot_order() -> None:
    gone = given(user, registered, UserWasDeactivated(user_id="ada", role="USER_ROLE_CUSTOMER"))
    given(order).when(an_order(("tea", 1)), also=[gone, tea]).refused(UserDeactivated(user_id="ada"))


def test_an_order_has_one_currency_and_a_limit() -> None:
    given(order).when(an_order(("tea", 1), ("vase", 1)), also=[ada, tea, vase]).refused(
        CurrenciesDiffer(currency_code="GBP", other_currency_code="EUR")
    )
    assert given(order).when(an_order(("gold", 1_000_000)), also=[ada, gold]).refusal is None
    given(order).when(an_order(("gold", 1_000_000), ("tea", 1)), also=[ada, gold, tea]).refused(
        AmountTooLarge(product_id="tea", currency_code="GBP")
    )


@pytest.mark.parametrize("status", STATUSES, ids=OrderStatus.Name)
@pytest.mark.parametrize("requested", STATUSES, ids=OrderStatus.Name)
def test_an_order_goes_one_step_at_a_time(status: OrderStatus, requested: OrderStatus) -> None:
    for one in orders_in(status):
        decision = one.when(to(requested, "because"))
        if requested == status:
            decision.then_nothing()
        elif requested == NEXT.get(status):
            event = changed(status, requested)
            event.reason = "because"
            decision.then(event)
            assert decision.state.status == requested
        else:
            decision.refused(
                OrderStatusNotNext(
                    order_id="o1",
                    current_status=OrderStatus.Name(status),
                    requested_status=OrderStatus.Name(requested),
                )
            )


def test_the_steps_are_pending_confirmed_shipped_delivered() -> None:
    assert list(NEXT.items()) == [
        (ORDER_STATUS_PENDING, ORDER_STATUS_CONFIRMED),
        (ORDER_STATUS_CONFIRMED, ORDER_STATUS_SHIPPED),
        (ORDER_STATUS_SHIPPED, ORDER_STATUS_DELIVERED),
    ]
    assert set(STATUSES) == set(OrderStatus.values()) - {0}
    assert CANCELLABLE == (ORDER_STATUS_PENDING, ORDER_STATUS_CONFIRMED)


@pytest.mark.parametrize("status", [ORDER_STATUS_PENDING, ORDER_STATUS_CONFIRMED], ids=OrderStatus.Name)
def test_a_cancellation_names_all_that_was_ordered(status: OrderStatus) -> None:
    decision = given(order, *WAYS[status]).when(CancelOrderRequest(order_id="o1", reason="too late"))
    decision.then(cancelled(status, "too late"))
    assert decision.state.status == ORDER_STATUS_CANCELLED


def test_an_imported_order_is_cancelled_as_of_its_own_time() -> None:
    given(order, imported(ORDER_STATUS_PENDING)).when(CancelOrderRequest(order_id="o1")).then(
        OrderCancelled(
            order_id="o1",
            order_time=THEN,
            items=[CancelledItem(product_id="tea", quantity=1)],
            total=gbp(1),
            previous_status=ORDER_STATUS_PENDING,
        )
    )


@pytest.mark.parametrize("status", [ORDER_STATUS_SHIPPED, ORDER_STATUS_DELIVERED], ids=OrderStatus.Name)
def test_a_shipped_or_delivered_order_cannot_be_cancelled(status: OrderStatus) -> None:
    for one in orders_in(status):
        one.when(CancelOrderRequest(order_id="o1")).refused(
            OrderNotCancellable(order_id="o1", current_status=OrderStatus.Name(status))
        )


def test_cancelling_twice_adds_nothing() -> None:
    for one in orders_in(ORDER_STATUS_CANCELLED):
        one.when(CancelOrderRequest(order_id="o1", reason="again")).then_nothing()


def test_a_state_holds_items_only_while_they_are_needed() -> None:
    for status in STATUSES:
        for one in orders_in(status):
            assert (one.state.sold is not None) == (status in CANCELLABLE)


@pytest.mark.parametrize(
    "command",
    [to(ORDER_STATUS_CONFIRMED), to(ORDER_STATUS_CANCELLED), CancelOrderRequest(order_id="o1")],
    ids=lambda command: f"{command.DESCRIPTOR.name}",
)
def test_nothing_is_there_to_be_moved(command: Message) -> None:
    given(order).when(command).refused(OrderNotFound(order_id="o1"))


@pytest.mark.parametrize(
    ("command", "paths"),
    [
        (PlaceOrderRequest(), ["customer_id", "items"]),
        (an_order(("", 0)), ["items[0].product_id", "items[0].quantity"]),
        (UpdateOrderStatusRequest(), ["order_id", "status"]),
        (CancelOrderRequest(), ["order_id"]),
    ],
)
def test_an_invalid_command_is_not_decided(command: Message, paths: list[str]) -> None:
    given(order).when(command).invalid(*paths)
