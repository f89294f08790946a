"""Stock that orders reserve, and what else only processes ask for: orders confirmed, and users removed."""

from typing import Any

import pytest
from google.protobuf.message import Message
from google.type.money_pb2 import Money

from diptych.testing import NOW, ask, fold, given
from shop.orders import order
from shop.product_views import product_rows
from shop.products import product
from shop.refusals import OrderNotFound, OrderStatusNotNext, ProductNotFound, StockTooLow, UnknownUser, UserNotFound
from shop.reviews import review
from shop.sales_views import analytics, user_statistics
from shop.user_views import role_statistics, user_rows, user_summaries, users
from shop.users import user
from shop.v1.order_commands_pb2 import PlacedItem, PlaceOrderRequest
from shop.v1.order_events_pb2 import OrderCancelled, OrderPlaced, OrderStatusChanged
from shop.v1.orders_pb2 import (
    ORDER_STATUS_CONFIRMED,
    ORDER_STATUS_PENDING,
    ORDER_STATUS_SHIPPED,
    OrderItem,
)
from shop.v1.process_commands_pb2 import (
    ConfirmOrderRequest,
    ReleaseStockRequest,
    RemoveUserRequest,
    ReserveStockRequest,
    ShipStockRequest,
)
from shop.v1.product_commands_pb2 import AdjustStockRequest, ReviewProductRequest
from shop.v1.product_events_pb2 import ProductCreated, StockReleased, StockReserved, StockShipped
from shop.v1.products_pb2 import Product
from shop.v1.user_commands_pb2 import DeactivateUserRequest, RecordLoginRequest, RegisterUserRequest
from shop.v1.user_events_pb2 import UserRegistered, UserRemoved
from shop.v1.user_queries_pb2 import GetUserStatisticsRequest
from shop.v1.users_pb2 import USER_ROLE_CUSTOMER, USER_STATUS_ACTIVE, RoleCount

GBP = Money(currency_code="GBP", units=2)
created = ProductCreated(product_id="tea", price=GBP, stock=5)


def reserved(order_id: str, quantity: int, previous_stock: int) -> StockReserved:
    return StockReserved(
        product_id="tea",
        order_id=order_id,
        quantity=quantity,
        stock=previous_stock - quantity,
        previous_stock=previous_stock,
    )


def released(order_id: str, quantity: int, previous_stock: int) -> StockReleased:
    return StockReleased(
        product_id="tea",
        order_id=order_id,
        quantity=quantity,
        stock=previous_stock + quantity,
        previous_stock=previous_stock,
    )


def reserve(order_id: str, quantity: int) -> ReserveStockRequest:
    return ReserveStockRequest(product_id="tea", order_id=order_id, quantity=quantity)


def release(order_id: str) -> ReleaseStockRequest:
    return ReleaseStockRequest(product_id="tea", order_id=order_id)


def ship(order_id: str) -> ShipStockRequest:
    return ShipStockRequest(product_id="tea", order_id=order_id)


def test_stock_is_reserved_down_to_nothing_and_no_further() -> None:
    given(product, created).when(reserve("o1", 5)).then(reserved("o1", 5, 5))
    given(product, created).when(reserve("o1", 6)).refused(StockTooLow(product_id="tea", stock=5, requested=6))
    given(product, created, reserved("o1", 4, 5)).when(reserve("o2", 2)).refused(
        StockTooLow(product_id="tea", stock=1, requested=2)
    )


def test_an_order_reserves_a_product_once() -> None:
    given(product, created, reserved("o1", 2, 5)).when(reserve("o1", 2)).then_nothing()


def test_a_reservation_is_released_once() -> None:
    history = (created, reserved("o2", 1, 5), reserved("o1", 3, 4))
    given(product, *history).when(release("o1")).then(released("o1", 3, 1))
    given(product, *history, released("o1", 3, 1)).when(release("o1")).then_nothing()
    given(product, *history).when(release("o3")).then_nothing()
    given(product, *history, released("o1", 3, 1)).when(reserve("o1", 4)).then(reserved("o1", 4, 4))


def test_shipped_pieces_cannot_be_released() -> None:
    shipped = StockShipped(product_id="tea", order_id="o1", quantity=3, stock=2)
    given(product, created, reserved("o1", 3, 5)).when(ship("o1")).then(shipped)
    given(product, created, reserved("o1", 3, 5), shipped).when(ship("o1")).then_nothing()
    given(product, created, reserved("o1", 3, 5), shipped).when(release("o1")).then_nothing()


def test_reserved_pieces_cannot_be_removed_by_an_adjustment() -> None:
    given(product, created, reserved("o1", 3, 5)).when(AdjustStockRequest(product_id="tea", delta=-3)).refused(
        StockTooLow(product_id="tea", stock=2, requested=3)
    )


@pytest.mark.parametrize(
    "command", [reserve("o1", 1), release("o1"), ship("o1")], ids=lambda each: each.DESCRIPTOR.name
)
def test_a_product_that_is_not_there_has_no_stock(command: Message) -> None:
    given(product).when(command).refused(ProductNotFound(product_id="tea"))


def test_reservations_are_found_in_any_order_of_their_ids() -> None:
    history: list[Message] = [ProductCreated(product_id="tea", price=GBP, stock=100)]
    history += [reserved(order_id, 1, 100 - place) for place, order_id in enumerate(("m", "b", "z", "a", "n"))]
    after = given(product, *history)
    assert [order_id for order_id, _ in after.state.reserved] == ["a", "b", "m", "n", "z"]
    for order_id in "mbzan":
        after.when(release(order_id)).then(released(order_id, 1, 95))


def test_the_catalogue_shows_stock_and_reserved_pieces() -> None:
    def row(*events: Message) -> Product:
        return fold(product_rows, created, *events)["tea"]

    def stock(product: Product) -> tuple[int, int, bool, int]:
        return product.stock, product.reserved, product.in_stock, product.version

    assert stock(row(reserved("o1", 5, 5))) == (0, 5, False, 2)
    assert stock(row(reserved("o1", 5, 5), released("o1", 5, 0))) == (5, 0, True, 3)
    shipped = StockShipped(product_id="tea", order_id="o1", quantity=5, stock=0)
    assert stock(row(reserved("o1", 5, 5), shipped)) == (0, 0, False, 3)


# Orders.

placed = OrderPlaced(
    order_id="o1",
    customer_id="ada",
    order_time=NOW,
    items=[OrderItem(product_id="tea", quantity=1, unit_price=GBP, total=GBP)],
    total=GBP,
)


def changed(status: Any, previous_status: Any) -> OrderStatusChanged:
    return OrderStatusChanged(order_id="o1", customer_id="ada", status=status, previous_status=previous_status)


def test_an_order_is_confirmed_unless_that_was_done_by_hand() -> None:
    confirmed = changed(ORDER_STATUS_CONFIRMED, ORDER_STATUS_PENDING)
    shipped = changed(ORDER_STATUS_SHIPPED, ORDER_STATUS_CONFIRMED)
    given(order, placed).when(ConfirmOrderRequest(order_id="o1")).then(confirmed)
    given(order, placed, confirmed).when(ConfirmOrderRequest(order_id="o1")).then_nothing()
    given(order, placed, confirmed, shipped).when(ConfirmOrderRequest(order_id="o1")).then_nothing()


def test_a_cancelled_order_is_not_confirmed() -> None:
    cancelled = OrderCancelled(order_id="o1", customer_id="ada", previous_status=ORDER_STATUS_PENDING)
    given(order, placed, cancelled).when(ConfirmOrderRequest(order_id="o1")).refused(
        OrderStatusNotNext(
            order_id="o1", current_status="ORDER_STATUS_CANCELLED", requested_status="ORDER_STATUS_CONFIRMED"
        )
    )
    given(order).when(ConfirmOrderRequest(order_id="o1")).refused(OrderNotFound(order_id="o1"))


# Users.

registered = UserRegistered(user_id="ada", email="ada@example.com", username="ada", role=USER_ROLE_CUSTOMER)
removed = UserRemoved(user_id="ada", reason="USERNAME_TAKEN", role=USER_ROLE_CUSTOMER, status=USER_STATUS_ACTIVE)


def test_a_user_is_removed_once() -> None:
    command = RemoveUserRequest(user_id="ada", reason="USERNAME_TAKEN")
    given(user, registered).when(command).then(removed)
    given(user, registered, removed).when(command).then_nothing()
    given(user).when(command).then_nothing()


def test_a_removed_user_does_not_exist() -> None:
    gone = given(user, registered, removed)
    for command in (DeactivateUserRequest(user_id="ada"), RecordLoginRequest(user_id="ada")):
        gone.when(command).refused(UserNotFound(user_id="ada"))
    given(order).when(
        PlaceOrderRequest(order_id="o1", customer_id="ada", items=[PlacedItem(product_id="tea", quantity=1)]),
        also=[gone, given(product, created)],
    ).refused(UnknownUser(user_id="ada"))
    given(review).when(
        ReviewProductRequest(product_id="tea", user_id="ada", rating=5), also=[gone, given(product, created)]
    ).refused(UnknownUser(user_id="ada"))


def test_email_username_and_id_of_a_removed_user_are_free() -> None:
    gone = given(user, registered, removed)
    for user_id in ("ada", "eve"):
        command = RegisterUserRequest(user_id=user_id, email="ADA@example.com", username="Ada")
        (gone if user_id == "ada" else given(user)).when(command, also=[gone]).then(
            UserRegistered(user_id=user_id, email="ADA@example.com", username="Ada", role=USER_ROLE_CUSTOMER)
        )


def test_a_removed_user_is_in_no_list_and_in_no_count() -> None:
    rows = fold(users, registered, removed)
    assert rows[user_rows.name] == rows[user_summaries.name] == {}
    assert rows[role_statistics.name] == {"USER_ROLE_CUSTOMER": RoleCount(role=USER_ROLE_CUSTOMER)}
    with pytest.raises(UserNotFound):
        ask(analytics, GetUserStatisticsRequest(user_id="ada"), registered, removed)


def test_bug_an_order_that_a_removed_user_left_can_still_be_cancelled() -> None:
    cancelled = OrderCancelled(
        order_id="o1", customer_id="ada", order_time=NOW, total=GBP, previous_status=ORDER_STATUS_PENDING
    )
    rows = fold(user_statistics, registered, placed, removed, cancelled)
    assert (rows["ada"].order_count, rows["ada"].cancelled_order_count) == (0, 1)
