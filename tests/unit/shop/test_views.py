"""The projections `users`, `products` and `orders`: rows after events, and what queries answer from them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from diptych.testing import LOG_START, ask, fold
from shop.order_views import order_rows, order_summaries, orders
from shop.product_views import product_rows, products
from shop.refusals import OrderNotFound, ProductNotFound, UserNotFound
from shop.user_views import PERMISSIONS, role_statistics, user_rows, user_summaries, users
from shop.v1.order_events_pb2 import OrderImported
from shop.v1.order_queries_pb2 import GetOrderRequest, ListOrdersRequest
from shop.v1.orders_pb2 import (
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_DELIVERED,
    PAYMENT_METHOD_CARD,
    Order,
    OrderItem,
    OrderStatus,
    OrderStatusChange,
    OrderSummary,
)
from shop.v1.product_events_pb2 import PriceChanged, ProductCreated, ProductUpdated, StockAdjusted
from shop.v1.product_queries_pb2 import GetProductRequest
from shop.v1.products_pb2 import Product
from shop.v1.user_events_pb2 import (
    LoginRecorded,
    RoleAssigned,
    UserDeactivated,
    UserProfileUpdated,
    UserReactivated,
    UserRegistered,
)
from shop.v1.user_queries_pb2 import (
    FindUsersByEmailRequest,
    GetRoleStatisticsRequest,
    GetUserRequest,
    ListActiveUsersRequest,
    ListUsersRequest,
)
from shop.v1.users_pb2 import (
    USER_ROLE_ADMINISTRATOR,
    USER_ROLE_CUSTOMER,
    USER_ROLE_SELLER,
    USER_ROLE_SUPPORT,
    USER_STATUS_ACTIVE,
    USER_STATUS_DEACTIVATED,
    RoleCount,
    RoleStatistics,
    User,
    UserRole,
    UserSummary,
)


def recorded_at(position: int) -> Timestamp:
    """When the event at a position was recorded."""
    time = Timestamp()
    time.FromDatetime(LOG_START + timedelta(seconds=position))
    return time


def gbp(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="GBP", units=units, nanos=nanos)


def login(user_id: str, second: int) -> LoginRecorded:
    return LoginRecorded(user_id=user_id, login_time=datetime(2026, 2, 1, 0, 0, second, tzinfo=UTC))


ada = UserRegistered(
    user_id="ada",
    email="Ada@Example.com",
    username="Countess",
    first_name="Ada",
    last_name="Lovelace",
    role=USER_ROLE_CUSTOMER,
    registration_source="web",
)
bob = UserRegistered(user_id="bob", email="bob@example.com", username="bobby", role=USER_ROLE_SELLER)
cyd = UserRegistered(user_id="cyd", email="cyd@shop.org", first_name="Cyd", last_name="Öz", role=USER_ROLE_CUSTOMER)


def test_a_user_row_has_all_fields() -> None:
    assert fold(user_rows, ada) == {
        "ada": User(
            user_id="ada",
            email="Ada@Example.com",
            username="Countess",
            first_name="Ada",
            last_name="Lovelace",
            role=USER_ROLE_CUSTOMER,
            permissions=["orders.cancel", "orders.place", "products.review"],
            status=USER_STATUS_ACTIVE,
            registration_source="web",
            version=1,
            create_time=recorded_at(1),
            update_time=recorded_at(1),
        )
    }


def test_a_user_takes_over_all_that_happens() -> None:
    updated = UserProfileUpdated(
        user_id="ada",
        changed_fields=FieldMask(paths=["username", "bio", "preferences"]),
        bio="Analyst",
        email="not@named.example",
        preferences={"theme": "dark"},
    )
    promoted = RoleAssigned(
        user_id="ada", role=USER_ROLE_SUPPORT, previous_role=USER_ROLE_CUSTOMER, status=USER_STATUS_ACTIVE
    )
    deactivated = UserDeactivated(user_id="ada", reason="left", role=USER_ROLE_SUPPORT)
    history = [ada, bob, updated, promoted, login("ada", 1), login("ada", 2), deactivated]
    row = fold(user_rows, *history)["ada"]
    assert row == User(
        user_id="ada",
        email="Ada@Example.com",
        first_name="Ada",
        last_name="Lovelace",
        bio="Analyst",
        preferences={"theme": "dark"},
        role=USER_ROLE_SUPPORT,
        permissions=["orders.read", "orders.update", "users.read"],
        status=USER_STATUS_DEACTIVATED,
        deactivation_reason="left",
        deactivation_time=recorded_at(7),
        registration_source="web",
        login_count=2,
        last_login_time=login("ada", 2).login_time,
        version=6,
        create_time=recorded_at(1),
        update_time=recorded_at(7),
    )
    active = fold(user_rows, *history, UserReactivated(user_id="ada", role=USER_ROLE_SUPPORT))["ada"]
    assert active.status == USER_STATUS_ACTIVE
    assert (active.deactivation_reason, active.HasField("deactivation_time"), active.version) == ("", False, 7)


def test_preferences_are_replaced_in_the_row() -> None:
    def preferring(**preferences: str) -> UserProfileUpdated:
        return UserProfileUpdated(
            user_id="ada", changed_fields=FieldMask(paths=["preferences"]), preferences=preferences
        )

    row = fold(user_rows, ada, preferring(theme="dark", lang="en"), preferring(theme="light"))["ada"]
    assert dict(row.preferences) == {"theme": "light"}


def test_every_role_has_its_permissions_in_alphabetical_order() -> None:
    assert set(PERMISSIONS) == set(UserRole.values()) - {0}
    for permissions in PERMISSIONS.values():
        assert list(permissions) == sorted(set(permissions))
    everything = set().union(*PERMISSIONS.values())
    assert set(PERMISSIONS[USER_ROLE_ADMINISTRATOR]) == everything
    assert set(PERMISSIONS[USER_ROLE_CUSTOMER]) < set(PERMISSIONS[USER_ROLE_SELLER])


def test_get_user_answers_the_row_or_refuses() -> None:
    assert ask(users, GetUserRequest(user_id="ada"), ada).email == "Ada@Example.com"
    with pytest.raises(UserNotFound) as refusal:
        ask(users, GetUserRequest(user_id="bob"), ada)
    assert refusal.value == UserNotFound(user_id="bob")


def test_a_summary_follows_its_user() -> None:
    renamed = UserProfileUpdated(
        user_id="ada", changed_fields=FieldMask(paths=["email", "last_name", "bio"]), email="a@b.example", last_name="K"
    )
    assigned = RoleAssigned(
        user_id="ada", role=USER_ROLE_SELLER, previous_role=USER_ROLE_CUSTOMER, status=USER_STATUS_ACTIVE
    )
    gone = UserDeactivated(user_id="ada", role=USER_ROLE_SELLER)
    rows = fold(user_summaries, ada, renamed, assigned, login("ada", 5), gone)
    assert rows == {
        "ada": UserSummary(
            user_id="ada",
            email="a@b.example",
            username="Countess",
            first_name="Ada",
            last_name="K",
            role=USER_ROLE_SELLER,
            status=USER_STATUS_DEACTIVATED,
            last_login_time=login("ada", 5).login_time,
            version=5,
            create_time=recorded_at(1),
            update_time=recorded_at(5),
        )
    }


HISTORY: list[Message] = [
    bob,
    ada,
    cyd,
    login("cyd", 1),
    login("ada", 3),
    UserDeactivated(user_id="bob", role=USER_ROLE_SELLER),
]


def ids(response: Any) -> str:
    return " ".join(user.user_id for user in response.users)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (ListUsersRequest(), "ada bob cyd"),
        (ListUsersRequest(role=USER_ROLE_CUSTOMER), "ada cyd"),
        (ListUsersRequest(status=USER_STATUS_DEACTIVATED), "bob"),
        (ListUsersRequest(name="COUNT"), "ada"),
        (ListUsersRequest(name="da love"), "ada"),
        (ListUsersRequest(name="öz"), "cyd"),
        (ListUsersRequest(name="ÖZ"), "cyd"),
        (ListUsersRequest(name="zz"), ""),
        (ListUsersRequest(email="EXAMPLE"), "ada bob"),
        (ListUsersRequest(email="@e", role=USER_ROLE_SELLER), "bob"),
        (ListUsersRequest(order_by="user_id desc"), "cyd bob ada"),
        (ListUsersRequest(order_by="email"), "ada bob cyd"),
        (ListUsersRequest(order_by="username"), "cyd bob ada"),
        (ListUsersRequest(order_by="username desc"), "ada bob cyd"),
        (ListUsersRequest(order_by="create_time"), "bob ada cyd"),
        (ListUsersRequest(order_by="last_login_time"), "bob cyd ada"),
        (ListUsersRequest(order_by="last_login_time desc"), "ada cyd bob"),
        (FindUsersByEmailRequest(email="ADA@example.com"), "ada"),
        (FindUsersByEmailRequest(email="da@example.com"), ""),
        (ListActiveUsersRequest(), "ada cyd"),
        (ListActiveUsersRequest(active_since_time=login("ada", 2).login_time), "ada"),
        (ListActiveUsersRequest(active_since_time=login("ada", 3).login_time), "ada"),
        (ListActiveUsersRequest(active_since_time=Timestamp(seconds=login("ada", 3).login_time.seconds, nanos=1)), ""),
        (ListActiveUsersRequest(order_by="create_time"), "ada cyd"),
    ],
    ids=lambda value: f"{value}".strip().replace("\n", ", ") or "all",
)
def test_users_are_listed(query: Message, expected: str) -> None:
    assert ids(ask(users, query, *HISTORY)) == expected


def test_a_user_without_login_is_listed_only_without_a_time() -> None:
    assert ids(ask(users, ListActiveUsersRequest(), ada)) == "ada"
    earliest = Timestamp(seconds=-2_208_988_800)
    assert ids(ask(users, ListActiveUsersRequest(active_since_time=earliest), ada)) == ""
    assert ids(ask(users, ListActiveUsersRequest(active_since_time=earliest), ada, login("ada", 1))) == "ada"


def test_the_total_is_returned_on_request() -> None:
    assert not ask(users, ListUsersRequest(), *HISTORY).HasField("total_size")
    assert ask(users, ListUsersRequest(include_total=True, email="nobody"), *HISTORY).total_size == 0
    assert ask(users, ListUsersRequest(include_total=True), *HISTORY).total_size == 3


def test_roles_are_counted() -> None:
    assigned = RoleAssigned(
        user_id="bob", role=USER_ROLE_SUPPORT, previous_role=USER_ROLE_SELLER, status=USER_STATUS_DEACTIVATED
    )
    back = UserReactivated(user_id="bob", role=USER_ROLE_SUPPORT)
    assert fold(role_statistics, *HISTORY) == {
        "USER_ROLE_CUSTOMER": RoleCount(role=USER_ROLE_CUSTOMER, user_count=2, active_user_count=2),
        "USER_ROLE_SELLER": RoleCount(role=USER_ROLE_SELLER, user_count=1),
    }
    assert ask(users, GetRoleStatisticsRequest(), *HISTORY, assigned) == RoleStatistics(
        roles=[
            RoleCount(role=USER_ROLE_CUSTOMER, user_count=2, active_user_count=2),
            RoleCount(role=USER_ROLE_SELLER),
            RoleCount(role=USER_ROLE_SUPPORT, user_count=1),
        ],
        user_count=3,
        active_user_count=2,
    )
    assert ask(users, GetRoleStatisticsRequest(), *HISTORY, assigned, back).active_user_count == 3
    assert ask(users, GetRoleStatisticsRequest()) == RoleStatistics()


created = ProductCreated(product_id="tea", name="Tea", category="Drinks", brand="Assam", price=gbp(2, 5 * 10**8))


def test_a_product_is_shown_with_its_price_for_people() -> None:
    assert fold(product_rows, created) == {
        "tea": Product(
            product_id="tea",
            name="Tea",
            category="Drinks",
            brand="Assam",
            price=gbp(2, 5 * 10**8),
            price_formatted="GBP 2.50",
            version=1,
            create_time=recorded_at(1),
            update_time=recorded_at(1),
        )
    }


def test_a_product_takes_over_all_that_happens() -> None:
    row = fold(
        product_rows,
        created,
        ProductUpdated(product_id="tea", changed_fields=FieldMask(paths=["name", "brand"]), name="Green", category="x"),
        PriceChanged(product_id="tea", price=gbp(0, 125_000_000), previous_price=gbp(2, 5 * 10**8)),
        StockAdjusted(product_id="tea", delta=3, stock=3),
    )["tea"]
    assert row == Product(
        product_id="tea",
        name="Green",
        category="Drinks",
        price=gbp(0, 125_000_000),
        price_formatted="GBP 0.125",
        stock=3,
        in_stock=True,
        version=4,
        create_time=recorded_at(1),
        update_time=recorded_at(4),
    )
    emptied = StockAdjusted(product_id="tea", delta=-3, stock=0, previous_stock=3)
    assert not fold(product_rows, created, emptied)["tea"].in_stock


def test_get_product_answers_the_row_or_refuses() -> None:
    assert ask(products, GetProductRequest(product_id="tea"), created).name == "Tea"
    with pytest.raises(ProductNotFound) as refusal:
        ask(products, GetProductRequest(product_id="TEA"), created)
    assert refusal.value == ProductNotFound(product_id="TEA")


def imported(
    order_id: str, *, day: int = 1, customer_id: str = "", status: OrderStatus = ORDER_STATUS_DELIVERED
) -> OrderImported:
    item = OrderItem(product_id="tea", product_name="Tea", quantity=2, unit_price=gbp(1), total=gbp(2))
    return OrderImported(
        order_id=order_id,
        customer_id=customer_id,
        customer_name=customer_id.title(),
        customer_email=f"{customer_id}@example.com" if customer_id else "",
        order_time=datetime(2010, 12, day, tzinfo=UTC),
        country="EIRE",
        items=[item, item],
        status=status,
        total=gbp(4),
        shipping_address="Dublin",
        payment_method=PAYMENT_METHOD_CARD,
    )


def test_an_order_is_shown_as_it_was() -> None:
    event = imported("o1", customer_id="ada", status=ORDER_STATUS_CANCELLED)
    assert fold(order_rows, event) == {
        "o1": Order(
            order_id="o1",
            customer_id="ada",
            customer_name="Ada",
            customer_email="ada@example.com",
            items=event.items,
            status=ORDER_STATUS_CANCELLED,
            status_history=[OrderStatusChange(status=ORDER_STATUS_CANCELLED, change_time=event.order_time)],
            total=gbp(4),
            country="EIRE",
            shipping_address="Dublin",
            payment_method=PAYMENT_METHOD_CARD,
            order_time=event.order_time,
            version=1,
            create_time=recorded_at(1),
            update_time=recorded_at(1),
        )
    }
    assert fold(order_summaries, event) == {
        "o1": OrderSummary(
            order_id="o1",
            customer_id="ada",
            customer_name="Ada",
            status=ORDER_STATUS_CANCELLED,
            total=gbp(4),
            item_count=2,
            unit_count=4,
            country="EIRE",
            order_time=event.order_time,
            version=1,
            create_time=recorded_at(1),
            update_time=recorded_at(1),
        )
    }


def test_get_order_answers_the_row_or_refuses() -> None:
    assert ask(orders, GetOrderRequest(order_id="o1"), imported("o1")).total == gbp(4)
    with pytest.raises(OrderNotFound) as refusal:
        ask(orders, GetOrderRequest(order_id="o2"), imported("o1"))
    assert refusal.value == OrderNotFound(order_id="o2")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (ListOrdersRequest(), "o3 o1 o2"),
        (ListOrdersRequest(customer_id="ada"), "o3 o2"),
        (ListOrdersRequest(customer_id="nobody"), ""),
        (ListOrdersRequest(status=ORDER_STATUS_CANCELLED), "o1"),
        (ListOrdersRequest(customer_id="ada", status=ORDER_STATUS_CANCELLED), ""),
        (ListOrdersRequest(order_by="order_time"), "o2 o1 o3"),
        (ListOrdersRequest(order_by="order_id"), "o1 o2 o3"),
        (ListOrdersRequest(order_by="order_id desc"), "o3 o2 o1"),
    ],
    ids=lambda value: f"{value}".strip().replace("\n", ", ") or "all",
)
def test_orders_are_listed(query: ListOrdersRequest, expected: str) -> None:
    history = [
        imported("o1", day=2, status=ORDER_STATUS_CANCELLED),
        imported("o2", day=1, customer_id="ada"),
        imported("o3", day=3, customer_id="ada"),
    ]
    assert " ".join(order.order_id for order in ask(orders, query, *history).orders) == expected
