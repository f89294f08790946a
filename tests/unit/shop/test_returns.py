"""Imported returns: of a known order or not; they change no order and no stock."""

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from diptych.testing import given
from shop.orders import order
from shop.products import product
from shop.refusals import (
    AmountTooLarge,
    CurrenciesDiffer,
    ReturnExists,
    UnknownOrder,
    UnknownProduct,
    UnknownUser,
)
from shop.returns import goods_return
from shop.users import user
from shop.v1.order_commands_pb2 import ImportedItem, ImportReturnRequest
from shop.v1.order_events_pb2 import OrderImported, ReturnImported
from shop.v1.orders_pb2 import ORDER_STATUS_DELIVERED, OrderItem
from shop.v1.product_events_pb2 import ProductCreated
from shop.v1.user_events_pb2 import UserRegistered

THEN = Timestamp(seconds=1_291_191_960)
ONE = Money(currency_code="GBP", units=1)

tea = given(product, ProductCreated(product_id="tea", name="Tea", price=ONE))
ada = given(user, UserRegistered(user_id="ada", email="ada@example.com", role="USER_ROLE_CUSTOMER"))
grace = given(user, UserRegistered(user_id="grace", email="grace@example.com", role="USER_ROLE_CUSTOMER"))
of_ada = given(
    order,
    OrderImported(
        order_id="o1",
        customer_id="ada",
        order_time=THEN,
        country="EIRE",
        items=[OrderItem(product_id="tea", quantity=1, unit_price=ONE, total=ONE)],
        status=ORDER_STATUS_DELIVERED,
        total=ONE,
    ),
)
two_teas = ImportedItem(product_id="tea", quantity=2, unit_price=ONE)
recorded_teas = OrderItem(
    product_id="tea",
    product_name="Tea",
    quantity=2,
    unit_price=ONE,
    total=Money(currency_code="GBP", units=2),
)
TWO = Money(currency_code="GBP", units=2)


def test_a_return_without_an_order_has_the_given_fields() -> None:
    given(goods_return).when(
        ImportReturnRequest(
            return_id="C1", customer_id="ada", return_time=THEN, country="France", items=[two_teas], reason="broken"
        ),
        also=[ada, tea],
    ).then(
        ReturnImported(
            return_id="C1",
            customer_id="ada",
            return_time=THEN,
            country="France",
            items=[recorded_teas],
            total=TWO,
            reason="broken",
        )
    )


def test_missing_fields_of_a_return_are_those_of_the_order() -> None:
    given(goods_return).when(
        ImportReturnRequest(return_id="C1", order_id="o1", return_time=THEN, items=[two_teas]), also=[of_ada, tea]
    ).then(
        ReturnImported(
            return_id="C1",
            order_id="o1",
            customer_id="ada",
            return_time=THEN,
            country="EIRE",
            items=[recorded_teas],
            total=TWO,
        )
    )


def test_given_fields_of_a_return_win_over_the_order() -> None:
    (event,) = (
        given(goods_return)
        .when(
            ImportReturnRequest(
                return_id="C1", order_id="o1", customer_id="grace", country="France", return_time=THEN, items=[two_teas]
            ),
            also=[of_ada, tea, grace],
        )
        .events
    )
    assert isinstance(event, ReturnImported)
    assert (event.customer_id, event.country) == ("grace", "France")


def test_a_return_without_id_and_customer_gets_an_id() -> None:
    given(goods_return).when(ImportReturnRequest(return_time=THEN, items=[two_teas]), also=[tea], new_id="0190").then(
        ReturnImported(return_id="0190", return_time=THEN, items=[recorded_teas], total=TWO)
    )


def test_a_return_is_imported_once() -> None:
    before = ReturnImported(return_id="C1", return_time=THEN, items=[recorded_teas], total=TWO)
    given(goods_return, before).when(
        ImportReturnRequest(return_id="C1", return_time=THEN, items=[two_teas]), also=[tea]
    ).refused(ReturnExists(return_id="C1"))


def test_named_users_and_products_must_exist() -> None:
    def when(command: ImportReturnRequest) -> ImportReturnRequest:
        command.return_id = "C1"
        command.return_time.CopyFrom(THEN)
        command.items.append(two_teas)
        return command

    nothing = given(goods_return)
    nothing.when(when(ImportReturnRequest(order_id="o9")), also=[tea]).refused(UnknownOrder(order_id="o9"))
    nothing.when(when(ImportReturnRequest(customer_id="ada")), also=[tea]).refused(UnknownUser(user_id="ada"))
    nothing.when(when(ImportReturnRequest())).refused(UnknownProduct(product_id="tea"))


def test_a_return_has_one_currency_and_a_limit() -> None:
    euro = ImportedItem(product_id="tea", quantity=1, unit_price=Money(currency_code="EUR"))
    huge = ImportedItem(product_id="tea", quantity=1, unit_price=Money(currency_code="GBP", units=10**16, nanos=1))
    nothing = given(goods_return)
    nothing.when(ImportReturnRequest(return_time=THEN, items=[two_teas, euro]), also=[tea]).refused(
        CurrenciesDiffer(currency_code="GBP", other_currency_code="EUR")
    )
    nothing.when(ImportReturnRequest(return_time=THEN, items=[huge]), also=[tea]).refused(
        AmountTooLarge(product_id="tea", currency_code="GBP")
    )
