"""Imported orders: under the names of now, added up exactly, in one currency."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from hypothesis import given as for_all
from hypothesis import strategies as st

from diptych.testing import given
from shop.money import nanos
from shop.orders import order
from shop.products import product
from shop.refusals import AmountTooLarge, CurrenciesDiffer, OrderExists, UnknownProduct, UnknownUser
from shop.users import user
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest
from shop.v1.order_events_pb2 import OrderImported
from shop.v1.orders_pb2 import (
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_DELIVERED,
    PAYMENT_METHOD_CARD,
    OrderItem,
)
from shop.v1.product_events_pb2 import ProductCreated
from shop.v1.user_events_pb2 import UserDeactivated, UserRegistered

THEN = Timestamp(seconds=1_291_191_960)


def gbp(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="GBP", units=units, nanos=nanos)


tea = given(product, ProductCreated(product_id="tea", name="Tea", price=gbp(9)))
mug = given(product, ProductCreated(product_id="mug", price=gbp(9)))
registered = UserRegistered(
    user_id="ada", email="ada@example.com", first_name="Ada", last_name="Lovelace", role="USER_ROLE_CUSTOMER"
)
ada = given(user, registered)

imported = OrderImported(
    order_id="o1",
    order_time=THEN,
    items=[OrderItem(product_id="tea", product_name="Tea", quantity=1, unit_price=gbp(1), total=gbp(1))],
    status=ORDER_STATUS_DELIVERED,
    total=gbp(1),
)


def an_order(*items: ImportedItem, order_id: str = "o1", customer_id: str = "") -> ImportOrderRequest:
    return ImportOrderRequest(order_id=order_id, customer_id=customer_id, order_time=THEN, items=items)


def an_item(product_id: str = "tea", quantity: int = 1, price: Money | None = None) -> ImportedItem:
    return ImportedItem(product_id=product_id, quantity=quantity, unit_price=price or gbp(1))


def test_an_order_is_recorded_as_it_was_under_the_names_of_now() -> None:
    given(order).when(
        ImportOrderRequest(
            order_id="o1",
            customer_id="ada",
            order_time=THEN,
            country="United Kingdom",
            items=[an_item("tea", 3, gbp(2, 125_000_000)), an_item("mug", 2, gbp(0)), an_item("tea", 1, gbp(2))],
            status=ORDER_STATUS_CANCELLED,
            shipping_address="St James's Square",
            payment_method=PAYMENT_METHOD_CARD,
        ),
        also=[ada, tea, mug],
    ).then(
        OrderImported(
            order_id="o1",
            customer_id="ada",
            customer_name="Ada Lovelace",
            customer_email="ada@example.com",
            order_time=THEN,
            country="United Kingdom",
            items=[
                OrderItem(
                    product_id="tea",
                    product_name="Tea",
                    quantity=3,
                    unit_price=gbp(2, 125_000_000),
                    total=gbp(6, 375_000_000),
                ),
                OrderItem(product_id="mug", quantity=2, unit_price=gbp(0), total=gbp(0)),
                OrderItem(product_id="tea", product_name="Tea", quantity=1, unit_price=gbp(2), total=gbp(2)),
            ],
            status=ORDER_STATUS_CANCELLED,
            total=gbp(8, 375_000_000),
            shipping_address="St James's Square",
            payment_method=PAYMENT_METHOD_CARD,
        )
    )


def test_without_a_status_it_was_delivered_and_without_a_customer_it_has_none() -> None:
    given(order).when(an_order(an_item()), also=[tea]).then(imported)


def test_a_user_without_names_is_called_by_the_username() -> None:
    nick = given(user, UserRegistered(user_id="n", email="n@example.com", username="nick", role="USER_ROLE_CUSTOMER"))
    (event,) = given(order).when(an_order(an_item(), customer_id="n"), also=[nick, tea]).events
    assert isinstance(event, OrderImported)
    assert (event.customer_name, event.customer_email) == ("nick", "n@example.com")


def test_a_deactivated_user_has_historic_orders() -> None:
    gone = given(user, registered, UserDeactivated(user_id="ada", role="USER_ROLE_CUSTOMER"))
    decision = given(order).when(an_order(an_item(), customer_id="ada"), also=[gone, tea])
    assert decision.refusal is None


def test_an_order_is_imported_once() -> None:
    given(order, imported).when(an_order(an_item()), also=[tea]).refused(OrderExists(order_id="o1"))


def test_the_customer_must_be_registered() -> None:
    given(order).when(an_order(an_item(), customer_id="ada"), also=[tea]).refused(UnknownUser(user_id="ada"))


def test_every_product_must_be_in_the_catalogue() -> None:
    given(order).when(an_order(an_item(), an_item("mug")), also=[tea]).refused(UnknownProduct(product_id="mug"))


def test_an_order_has_one_currency() -> None:
    euro = Money(currency_code="EUR", units=1)
    given(order).when(an_order(an_item(), an_item("tea", 1, euro)), also=[tea]).refused(
        CurrenciesDiffer(currency_code="GBP", other_currency_code="EUR")
    )


def test_amounts_go_up_to_ten_thousand_million_million() -> None:
    most = 10_000_000_000
    (event,) = given(order).when(an_order(an_item("tea", 1_000_000, gbp(most))), also=[tea]).events
    assert isinstance(event, OrderImported)
    assert event.total == gbp(10**16)
    given(order).when(an_order(an_item("tea", 1_000_000, gbp(most, 1))), also=[tea]).refused(
        AmountTooLarge(product_id="tea", currency_code="GBP")
    )
    given(order).when(
        an_order(an_item("tea", 1_000_000, gbp(most)), an_item("mug", 1, gbp(0, 1))), also=[tea, mug]
    ).refused(AmountTooLarge(product_id="mug", currency_code="GBP"))
    given(order).when(an_order(an_item("tea", 1_000_000, gbp(2**63 - 1, 999_999_999))), also=[tea]).refused(
        AmountTooLarge(product_id="tea", currency_code="GBP")
    )


@for_all(
    st.lists(
        st.tuples(st.integers(1, 1_000_000), st.integers(0, 10**6), st.integers(0, 999_999_999)),
        min_size=1,
        max_size=20,
    )
)
def test_totals_are_exact(items: list[tuple[int, int, int]]) -> None:
    command = an_order(*(an_item("tea", quantity, gbp(units, rest)) for quantity, units, rest in items))
    (event,) = given(order).when(command, also=[tea]).events
    assert isinstance(event, OrderImported)
    assert [nanos(item.total) for item in event.items] == [q * (u * 10**9 + n) for q, u, n in items]
    assert nanos(event.total) == sum(q * (u * 10**9 + n) for q, u, n in items)


def test_an_order_of_two_thousand_items_is_accepted() -> None:
    decision = given(order).when(an_order(*[an_item()] * 2_000), also=[tea])
    (event,) = decision.events
    assert isinstance(event, OrderImported)
    assert event.total == gbp(2_000)


@pytest.mark.parametrize(
    ("command", "paths"),
    [
        (ImportOrderRequest(order_id="o1"), ["order_time", "items"]),
        (an_order(an_item("", 0)), ["items[0].product_id", "items[0].quantity"]),
    ],
)
def test_an_invalid_command_is_not_decided(command: ImportOrderRequest, paths: list[str]) -> None:
    given(order).when(command).invalid(*paths)
