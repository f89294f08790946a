"""Every rule of the contract that judges one message alone: messages that keep it, and messages that break it."""

from typing import Any

import pytest
from aiosmtplib.email import parse_address
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from diptych.contract.reasons import InvalidRequest
from diptych.contract.validation import check
from shop.email import is_address
from shop.settings import ADDRESS
from shop.v1 import (
    fulfilment_queries_pb2,
    order_commands_pb2,
    order_queries_pb2,
    process_commands_pb2,
    product_commands_pb2,
    product_queries_pb2,
    registration_commands_pb2,
    registration_queries_pb2,
    user_commands_pb2,
    user_queries_pb2,
)
from shop.v1.fulfilment_queries_pb2 import GetFulfilmentRequest
from shop.v1.order_commands_pb2 import (
    CancelOrderRequest,
    ImportedItem,
    ImportOrderRequest,
    ImportReturnRequest,
    PlacedItem,
    PlaceOrderRequest,
    UpdateOrderStatusRequest,
)
from shop.v1.order_queries_pb2 import GetOrderAnalyticsRequest, GetOrderRequest, ListOrdersRequest
from shop.v1.process_commands_pb2 import (
    ConfirmOrderRequest,
    ReleaseStockRequest,
    RemoveUserRequest,
    ReserveStockRequest,
    ShipStockRequest,
)
from shop.v1.product_commands_pb2 import (
    AdjustStockRequest,
    ChangePriceRequest,
    CreateProductRequest,
    ReviewProductRequest,
    UpdateProductRequest,
)
from shop.v1.product_queries_pb2 import GetProductRequest, GetProductStatisticsRequest, SearchProductsRequest
from shop.v1.registration_commands_pb2 import StartRegistrationRequest
from shop.v1.registration_queries_pb2 import GetRegistrationRequest
from shop.v1.user_commands_pb2 import (
    AssignRoleRequest,
    DeactivateUserRequest,
    ReactivateUserRequest,
    RecordLoginRequest,
    RegisterUserRequest,
    UpdateUserProfileRequest,
)
from shop.v1.user_queries_pb2 import (
    FindUsersByEmailRequest,
    GetRoleStatisticsRequest,
    GetUserRequest,
    GetUserStatisticsRequest,
    ListActiveUsersRequest,
    ListUsersRequest,
)

MODULES = (
    fulfilment_queries_pb2,
    order_commands_pb2,
    order_queries_pb2,
    process_commands_pb2,
    product_commands_pb2,
    product_queries_pb2,
    registration_commands_pb2,
    registration_queries_pb2,
    user_commands_pb2,
    user_queries_pb2,
)
EMAIL = "ada@example.com"
THEN = Timestamp(seconds=1_291_191_960)
YEAR_1900 = -2_208_988_800
YEAR_2200 = 7_258_118_400


def gbp(units: int = 2, nanos: int = 550_000_000, currency_code: str = "GBP") -> Money:
    return Money(currency_code=currency_code, units=units, nanos=nanos)


def mask(*paths: str) -> FieldMask:
    return FieldMask(paths=paths)


def day(number: int, **more: int) -> Timestamp:
    return Timestamp(seconds=86_400 * number, **more)


TEA = ImportedItem(product_id="85123A", quantity=6, unit_price=gbp())
MUG = PlacedItem(product_id="85123A", quantity=6)


def an_item(**fields: Any) -> ImportedItem:
    item = ImportedItem()
    item.CopyFrom(TEA)
    item.MergeFrom(ImportedItem(**fields))
    return item


KEPT: list[Message] = [
    RegisterUserRequest(email=EMAIL),
    RegisterUserRequest(email="a.b.=c=d?.!#$%&'*+/^_`{|}~-@example.com"),
    RegisterUserRequest(user_id="x" * 64, email=EMAIL),
    RegisterUserRequest(
        user_id="Ad-a_1.x",
        email="17850@retail.invalid",
        username="ada",
        first_name="Ádá O'N",
        last_name="é" * 200,
        role="USER_ROLE_ADMINISTRATOR",
        registration_source="web",
    ),
    RegisterUserRequest(email=f"a@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}"),
    UpdateUserProfileRequest(user_id="a"),
    UpdateUserProfileRequest(
        user_id="a",
        email=EMAIL,
        bio="x" * 9_999 + "\n",
        avatar_uri="https://x.org/a.png",
        preferences={"theme": "v" * 200, "k" * 64: ""},
    ),
    UpdateUserProfileRequest(user_id="a", update_mask=mask("username", "bio", "avatar_uri", "preferences")),
    UpdateUserProfileRequest(
        user_id="a", email=EMAIL, update_mask=mask("email", "first_name", "last_name", "username")
    ),
    UpdateUserProfileRequest(user_id="a", preferences={str(number): "" for number in range(100)}),
    AssignRoleRequest(user_id="a", role="USER_ROLE_CUSTOMER"),
    DeactivateUserRequest(user_id="a"),
    DeactivateUserRequest(user_id="a", reason="y" * 10_000),
    ReactivateUserRequest(user_id="a"),
    RecordLoginRequest(user_id="a"),
    CreateProductRequest(price=gbp()),
    CreateProductRequest(product_id="85123A", name="WHITE HANGING HEART", price=gbp(0, 0), stock=10**9),
    CreateProductRequest(price=gbp(2**63 - 1, 999_999_999), name="x" * 200, category="y" * 200, brand="z" * 200),
    UpdateProductRequest(product_id="a"),
    UpdateProductRequest(product_id="a", update_mask=mask("name", "category", "brand")),
    ChangePriceRequest(product_id="a", price=gbp(0, 0)),
    AdjustStockRequest(product_id="a", delta=-(10**9)),
    AdjustStockRequest(product_id="a", delta=10**9, reason="x" * 10_000),
    ReviewProductRequest(product_id="a", user_id="b", rating=1),
    ReviewProductRequest(product_id="a", user_id="b", rating=5, text="x" * 9_999 + "\n"),
    PlaceOrderRequest(customer_id="a", items=[MUG]),
    PlaceOrderRequest(
        order_id="536365",
        customer_id="17850",
        items=[MUG] * 200,
        shipping_address="1\n2",
        payment_method="PAYMENT_METHOD_INVOICE",
        country="United Kingdom",
    ),
    PlaceOrderRequest(customer_id="a", items=[PlacedItem(product_id="a", quantity=1_000_000)]),
    *(
        UpdateOrderStatusRequest(order_id="a", status=f"ORDER_STATUS_{name}", reason="y" * 10_000)
        for name in ("PENDING", "CONFIRMED", "SHIPPED", "DELIVERED", "CANCELLED")
    ),
    CancelOrderRequest(order_id="a"),
    CancelOrderRequest(order_id="a", reason="y" * 10_000),
    ImportOrderRequest(order_time=THEN, items=[TEA]),
    ImportOrderRequest(
        order_id="536365",
        customer_id="17850",
        order_time=THEN,
        country="United Kingdom",
        items=[TEA] * 2_000,
        status="ORDER_STATUS_DELIVERED",
        shipping_address="1\n2",
        payment_method="PAYMENT_METHOD_CARD",
    ),
    ImportOrderRequest(order_time=Timestamp(seconds=YEAR_1900), items=[TEA]),
    ImportOrderRequest(order_time=Timestamp(seconds=YEAR_2200 - 1, nanos=999_999_999), items=[TEA]),
    ImportOrderRequest(order_time=THEN, items=[ImportedItem(product_id="a", quantity=1_000_000, unit_price=gbp(0, 0))]),
    ImportReturnRequest(return_time=THEN, items=[TEA]),
    ImportReturnRequest(
        return_id="C536379",
        order_id="o",
        customer_id="c",
        return_time=THEN,
        country="x",
        items=[TEA] * 2_000,
        reason="r",
    ),
    GetUserRequest(user_id="a"),
    GetUserStatisticsRequest(user_id="a"),
    GetRoleStatisticsRequest(),
    FindUsersByEmailRequest(email=EMAIL),
    ListUsersRequest(),
    ListUsersRequest(page_size=5_000, page_token="x" * 4_096, include_total=True),
    ListUsersRequest(
        order_by="email desc", role="USER_ROLE_CUSTOMER", status="USER_STATUS_ACTIVE", name="ad", email="@e"
    ),
    *(
        ListUsersRequest(order_by=name)
        for name in ("user_id", "email", "username", "create_time", "last_login_time desc")
    ),
    ListActiveUsersRequest(),
    ListActiveUsersRequest(active_since_time=THEN, order_by="last_login_time"),
    GetProductRequest(product_id="a"),
    GetProductStatisticsRequest(product_id="a"),
    SearchProductsRequest(),
    SearchProductsRequest(
        page_size=5_000,
        page_token="x" * 4_096,
        include_total=True,
        text="te",
        category="x" * 200,
        brand="Öz & Co.",
        in_stock=True,
        min_price=gbp(0, 0),
        max_price=gbp(2**63 - 1, 999_999_999),
    ),
    SearchProductsRequest(min_price=gbp(), max_price=gbp(), text="x" * 200),
    SearchProductsRequest(min_price=gbp(1, 999_999_999), max_price=gbp(2, 0)),
    SearchProductsRequest(min_price=gbp(1, 0, "EUR")),
    SearchProductsRequest(max_price=gbp(0, 0, "USD")),
    *(SearchProductsRequest(order_by=f"{name}{way}") for name in ("name", "price", "rating") for way in ("", " desc")),
    GetOrderRequest(order_id="a"),
    ListOrdersRequest(),
    ListOrdersRequest(order_by="order_time", customer_id="a", status="ORDER_STATUS_PENDING"),
    ListOrdersRequest(order_by="order_id desc", page_size=1_000),
    GetOrderAnalyticsRequest(start_time=day(100), end_time=day(101)),
    GetOrderAnalyticsRequest(
        start_time=day(-25_567), end_time=day(84_006), product_id="a", group_by="ANALYTICS_GROUPING_PRODUCT"
    ),
    GetOrderAnalyticsRequest(
        start_time=day(-1), end_time=day(1), country="x" * 200, group_by="ANALYTICS_GROUPING_COUNTRY"
    ),
    GetOrderAnalyticsRequest(start_time=day(0), end_time=day(1), status="ORDER_STATUS_CANCELLED"),
    GetOrderAnalyticsRequest(start_time=day(0), end_time=day(1), customer_id="x"),
    StartRegistrationRequest(email=EMAIL),
    StartRegistrationRequest(
        registration_id="x" * 64,
        user_id="Ad-a_1.x",
        email=EMAIL,
        username="ada",
        role="USER_ROLE_SELLER",
        bio="x" * 9_999 + "\n",
        avatar_uri="https://x.org/a.png",
        preferences={str(number): "v" * 200 for number in range(100)},
    ),
    GetRegistrationRequest(registration_id="a"),
    GetFulfilmentRequest(order_id="a"),
    ReserveStockRequest(product_id="a", order_id="b", quantity=10**9),
    ReleaseStockRequest(product_id="a", order_id="b"),
    ShipStockRequest(product_id="a", order_id="b"),
    ConfirmOrderRequest(order_id="a"),
    RemoveUserRequest(user_id="a", reason="x" * 10_000),
]

BAD_ID = ("a b", "a\n", "é", "a/b", "x" * 65)
BAD_ADDRESS = ("=?utf-8?q?victim?=@example.com", "a=?b@x.y", ".a@x.y", "a.@x.y", "a..b@x.y", "a b@x.y", "a@x.y\nB: c")
BAD_NAME = ("x" * 201, "a\0b", "a\nb", "ab\n", "\x7f")
BAD_TEXT = ("x" * 10_001, "a\0b")
BAD_PRICES = (
    Money(),
    gbp(currency_code="gbp"),
    gbp(currency_code="GBPX"),
    gbp(currency_code="GBP\n"),
    gbp(-1, 0),
    gbp(0, -1),
    gbp(0, 10**9),
    gbp(1, -1),
)
BAD_TIMES = (
    Timestamp(seconds=YEAR_1900 - 1),
    Timestamp(seconds=YEAR_2200),
    Timestamp(seconds=-(2**62)),
    Timestamp(seconds=2**62),
    Timestamp(seconds=0, nanos=-1),
    Timestamp(seconds=0, nanos=10**9),
)


def bad(kind: type[Message], field: str, *values: Any, **rest: Any) -> list[tuple[Message, str]]:
    """Messages that would be good but for one value."""
    return [(kind(**{field: value}, **rest), field) for value in values]


def bad_item(field: str, *values: Any) -> list[tuple[Message, str]]:
    items = [(an_item(**{field: value}), value) for value in values]
    return [
        (kind(**{time: THEN}, items=[TEA, item]), f"items[1].{field}")  # type: ignore[arg-type]
        for kind, time in ((ImportOrderRequest, "order_time"), (ImportReturnRequest, "return_time"))
        for item, _ in items
    ]


ANALYTICS = {"start_time": day(0), "end_time": day(1)}

BROKEN: list[tuple[Message, str]] = [
    *bad(StartRegistrationRequest, "email", "", "nope", "ada@x\0y", *BAD_ADDRESS),
    *bad(StartRegistrationRequest, "registration_id", *BAD_ID, email=EMAIL),
    *bad(StartRegistrationRequest, "user_id", *BAD_ID, email=EMAIL),
    *(
        broken
        for field in ("username", "first_name", "last_name", "registration_source")
        for broken in bad(StartRegistrationRequest, field, *BAD_NAME, email=EMAIL)
    ),
    *bad(StartRegistrationRequest, "role", 9, email=EMAIL),
    *bad(StartRegistrationRequest, "bio", *BAD_TEXT, email=EMAIL),
    *bad(StartRegistrationRequest, "avatar_uri", "not a uri", "https://x/" + "a" * 2_000, email=EMAIL),
    *bad(StartRegistrationRequest, "preferences", {str(number): "" for number in range(101)}, email=EMAIL),
    (StartRegistrationRequest(email=EMAIL, preferences={"k": "v" * 201}), 'preferences["k"]'),
    *bad(GetRegistrationRequest, "registration_id", "", *BAD_ID),
    *bad(GetFulfilmentRequest, "order_id", "", *BAD_ID),
    *bad(ReserveStockRequest, "product_id", "", *BAD_ID, order_id="b", quantity=1),
    *bad(ReserveStockRequest, "order_id", "", *BAD_ID, product_id="a", quantity=1),
    *bad(ReserveStockRequest, "quantity", 0, -1, 10**9 + 1, product_id="a", order_id="b"),
    *(
        broken
        for command in (ReleaseStockRequest, ShipStockRequest)
        for broken in (
            *bad(command, "product_id", "", *BAD_ID, order_id="b"),
            *bad(command, "order_id", "", *BAD_ID, product_id="a"),
        )
    ),
    *bad(ConfirmOrderRequest, "order_id", "", *BAD_ID),
    *bad(RemoveUserRequest, "user_id", "", *BAD_ID),
    *bad(RemoveUserRequest, "reason", *BAD_TEXT, user_id="a"),
    *bad(RegisterUserRequest, "email", "", "nope", "ada@x\0y", f"a@{'.'.join(['b' * 60] * 5)}", *BAD_ADDRESS),
    *bad(RegisterUserRequest, "user_id", *BAD_ID, email=EMAIL),
    *(
        broken
        for field in ("username", "first_name", "last_name", "registration_source")
        for broken in bad(RegisterUserRequest, field, *BAD_NAME, email=EMAIL)
    ),
    *bad(RegisterUserRequest, "role", 9, email=EMAIL),
    *bad(UpdateUserProfileRequest, "user_id", "", *BAD_ID),
    *bad(UpdateUserProfileRequest, "email", "zz", *BAD_ADDRESS, user_id="a"),
    *(
        broken
        for field in ("username", "first_name", "last_name")
        for broken in bad(UpdateUserProfileRequest, field, *BAD_NAME, user_id="a")
    ),
    *bad(UpdateUserProfileRequest, "bio", *BAD_TEXT, user_id="a"),
    *bad(UpdateUserProfileRequest, "avatar_uri", "not a uri", "https://x/" + "a" * 2_000, user_id="a"),
    *bad(UpdateUserProfileRequest, "preferences", {str(number): "" for number in range(101)}, user_id="a"),
    (UpdateUserProfileRequest(user_id="a", preferences={"": "x"}), 'preferences[""]'),
    (UpdateUserProfileRequest(user_id="a", preferences={"k": "v" * 201}), 'preferences["k"]'),
    (UpdateUserProfileRequest(user_id="a", preferences={"k" * 65: ""}), f'preferences["{"k" * 65}"]'),
    *bad(
        UpdateUserProfileRequest,
        "update_mask",
        mask("role"),
        mask("*"),
        mask("preferences.theme"),
        mask("firstName"),
        user_id="a",
    ),
    (UpdateUserProfileRequest(user_id="a", update_mask=mask("email")), ""),
    *bad(AssignRoleRequest, "user_id", "", *BAD_ID, role="USER_ROLE_CUSTOMER"),
    *bad(AssignRoleRequest, "role", 0, 8, user_id="a"),
    *bad(DeactivateUserRequest, "user_id", "", *BAD_ID),
    *bad(DeactivateUserRequest, "reason", *BAD_TEXT, user_id="a"),
    *bad(ReactivateUserRequest, "user_id", "", *BAD_ID),
    *bad(RecordLoginRequest, "user_id", "", *BAD_ID),
    *bad(CreateProductRequest, "product_id", *BAD_ID, price=gbp()),
    *(
        broken
        for field in ("name", "category", "brand")
        for kind in (CreateProductRequest, UpdateProductRequest)
        for broken in bad(
            kind, field, *BAD_NAME, **({"price": gbp()} if kind is CreateProductRequest else {"product_id": "a"})
        )
    ),
    *bad(CreateProductRequest, "price", None, *BAD_PRICES),
    *bad(CreateProductRequest, "stock", -1, 10**9 + 1, price=gbp()),
    *bad(UpdateProductRequest, "product_id", "", *BAD_ID),
    *bad(UpdateProductRequest, "update_mask", mask("price"), mask("name", "stock"), product_id="a"),
    *bad(ChangePriceRequest, "product_id", "", *BAD_ID, price=gbp()),
    *bad(ChangePriceRequest, "price", None, *BAD_PRICES, product_id="a"),
    *bad(AdjustStockRequest, "product_id", "", *BAD_ID, delta=1),
    *bad(AdjustStockRequest, "delta", 0, 10**9 + 1, -(10**9) - 1, product_id="a"),
    *bad(AdjustStockRequest, "reason", *BAD_TEXT, product_id="a", delta=1),
    *bad(ReviewProductRequest, "product_id", "", *BAD_ID, user_id="b", rating=1),
    *bad(ReviewProductRequest, "user_id", "", *BAD_ID, product_id="a", rating=1),
    *bad(ReviewProductRequest, "rating", -1, 0, 6, product_id="a", user_id="b"),
    *bad(ReviewProductRequest, "text", *BAD_TEXT, product_id="a", user_id="b", rating=1),
    *bad(PlaceOrderRequest, "order_id", *BAD_ID, customer_id="a", items=[MUG]),
    *bad(PlaceOrderRequest, "customer_id", "", *BAD_ID, items=[MUG]),
    *bad(PlaceOrderRequest, "items", [], [MUG] * 201, customer_id="a"),
    *bad(PlaceOrderRequest, "shipping_address", *BAD_TEXT, customer_id="a", items=[MUG]),
    *bad(PlaceOrderRequest, "payment_method", 9, customer_id="a", items=[MUG]),
    *bad(PlaceOrderRequest, "country", *BAD_NAME, customer_id="a", items=[MUG]),
    *(
        (PlaceOrderRequest(customer_id="a", items=[MUG, PlacedItem(product_id=id, quantity=1)]), "items[1].product_id")
        for id in ("", *BAD_ID)
    ),
    *(
        (PlaceOrderRequest(customer_id="a", items=[PlacedItem(product_id="a", quantity=some)]), "items[0].quantity")
        for some in (-1, 0, 1_000_001)
    ),
    *bad(UpdateOrderStatusRequest, "order_id", "", *BAD_ID, status="ORDER_STATUS_SHIPPED"),
    *bad(UpdateOrderStatusRequest, "status", 0, 9, order_id="a"),
    *bad(UpdateOrderStatusRequest, "reason", *BAD_TEXT, order_id="a", status="ORDER_STATUS_SHIPPED"),
    *bad(CancelOrderRequest, "order_id", "", *BAD_ID),
    *bad(CancelOrderRequest, "reason", *BAD_TEXT, order_id="a"),
    *(
        broken
        for field in ("order_id", "customer_id")
        for broken in bad(ImportOrderRequest, field, *BAD_ID, order_time=THEN, items=[TEA])
    ),
    *bad(ImportOrderRequest, "order_time", None, *BAD_TIMES, items=[TEA]),
    *bad(ImportOrderRequest, "country", *BAD_NAME, order_time=THEN, items=[TEA]),
    *bad(ImportOrderRequest, "items", [], [TEA] * 2_001, order_time=THEN),
    *bad(ImportOrderRequest, "status", 9, order_time=THEN, items=[TEA]),
    *bad(ImportOrderRequest, "shipping_address", *BAD_TEXT, order_time=THEN, items=[TEA]),
    *bad(ImportOrderRequest, "payment_method", 9, order_time=THEN, items=[TEA]),
    *(
        broken
        for field in ("return_id", "order_id", "customer_id")
        for broken in bad(ImportReturnRequest, field, *BAD_ID, return_time=THEN, items=[TEA])
    ),
    *bad(ImportReturnRequest, "return_time", None, *BAD_TIMES, items=[TEA]),
    *bad(ImportReturnRequest, "country", *BAD_NAME, return_time=THEN, items=[TEA]),
    *bad(ImportReturnRequest, "items", [], [TEA] * 2_001, return_time=THEN),
    *bad(ImportReturnRequest, "reason", *BAD_TEXT, return_time=THEN, items=[TEA]),
    *bad_item("product_id", *BAD_ID),
    *bad_item("quantity", -1, 1_000_001),
    *bad_item("unit_price", gbp(-1, 0), gbp(currency_code="x"), gbp(0, 10**9)),
    (
        ImportOrderRequest(order_time=THEN, items=[ImportedItem(product_id="a", unit_price=gbp())]),
        "items[0].quantity",
    ),
    (
        ImportReturnRequest(return_time=THEN, items=[ImportedItem(product_id="a", quantity=1)]),
        "items[0].unit_price",
    ),
    (
        ImportOrderRequest(order_time=THEN, items=[ImportedItem(quantity=1, unit_price=gbp())]),
        "items[0].product_id",
    ),
    *bad(GetUserRequest, "user_id", "", *BAD_ID),
    *bad(GetUserStatisticsRequest, "user_id", "", *BAD_ID),
    *bad(FindUsersByEmailRequest, "email", "", "nope"),
    *(
        broken
        for kind in (ListUsersRequest, ListActiveUsersRequest, ListOrdersRequest, SearchProductsRequest)
        for broken in (
            *bad(kind, "page_size", -1),
            *bad(kind, "page_token", "x" * 4_097),
            *bad(kind, "order_by", "nonsense", " desc", "email descending", "order_id,order_time"),
        )
    ),
    *bad(ListUsersRequest, "role", 9),
    *bad(ListUsersRequest, "status", 9),
    *bad(ListUsersRequest, "name", "a", *BAD_NAME),
    *bad(ListUsersRequest, "email", "b", *BAD_NAME),
    *bad(ListActiveUsersRequest, "active_since_time", *BAD_TIMES),
    *bad(GetProductRequest, "product_id", "", *BAD_ID),
    *bad(GetProductStatisticsRequest, "product_id", "", *BAD_ID),
    *bad(SearchProductsRequest, "order_by", "average_rating", "price asc", "name,price", "rating  desc"),
    *bad(SearchProductsRequest, "text", "a", *BAD_NAME),
    *bad(SearchProductsRequest, "category", *BAD_NAME),
    *bad(SearchProductsRequest, "brand", *BAD_NAME),
    *bad(SearchProductsRequest, "min_price", *BAD_PRICES),
    *bad(SearchProductsRequest, "max_price", *BAD_PRICES),
    (SearchProductsRequest(min_price=gbp(), max_price=gbp(3, 0, "EUR")), ""),
    (SearchProductsRequest(min_price=gbp(2, 1), max_price=gbp(2, 0)), ""),
    (SearchProductsRequest(min_price=gbp(3, 0), max_price=gbp(2, 999_999_999)), ""),
    *bad(GetOrderRequest, "order_id", "", *BAD_ID),
    *bad(ListOrdersRequest, "customer_id", *BAD_ID),
    *bad(ListOrdersRequest, "status", 7),
    *bad(GetOrderAnalyticsRequest, "start_time", None, end_time=day(1)),
    *bad(GetOrderAnalyticsRequest, "end_time", None, start_time=day(1)),
    *bad(
        GetOrderAnalyticsRequest,
        "start_time",
        Timestamp(seconds=1),
        Timestamp(seconds=-86_401),
        day(0, nanos=1),
        day(-25_568),
        end_time=day(2),
    ),
    *bad(GetOrderAnalyticsRequest, "end_time", Timestamp(seconds=1), day(1, nanos=1), day(84_007), start_time=day(0)),
    (GetOrderAnalyticsRequest(start_time=day(1), end_time=day(1)), ""),
    (GetOrderAnalyticsRequest(start_time=day(2), end_time=day(1)), ""),
    *bad(GetOrderAnalyticsRequest, "product_id", "", *BAD_ID, **ANALYTICS),
    *bad(GetOrderAnalyticsRequest, "customer_id", "", *BAD_ID, **ANALYTICS),
    *bad(GetOrderAnalyticsRequest, "country", "", "x" * 201, **ANALYTICS),
    *bad(GetOrderAnalyticsRequest, "status", 0, 9, **ANALYTICS),
    *bad(GetOrderAnalyticsRequest, "group_by", 9, **ANALYTICS),
]


def named(value: object) -> str:
    return value.DESCRIPTOR.name if isinstance(value, Message) else str(value)[:40]


@pytest.mark.parametrize("message", KEPT, ids=named)
def test_a_good_message_is_accepted(message: Message) -> None:
    check(message)


@pytest.mark.parametrize(("message", "path"), BROKEN, ids=named)
def test_a_violation_names_its_field(message: Message, path: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check(message)
    assert {broken for broken, _ in refusal.value.rules} == {path}


def test_all_violations_are_returned_together() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check(RegisterUserRequest(email="x", user_id="!", role=77))  # type: ignore[arg-type]
    assert sorted(path for path, _ in refusal.value.rules) == ["email", "role", "user_id"]


def test_every_request_and_each_of_its_fields_is_tried_here() -> None:
    requests = {
        f"{name}.{field.name}"
        for module in MODULES
        for name, message in module.DESCRIPTOR.message_types_by_name.items()
        if name.endswith("Request")
        for field in message.fields
        if field.GetOptions().ListFields()
    }
    tried = {f"{message.DESCRIPTOR.name}.{path.partition('[')[0]}" for message, path in BROKEN if path}
    assert requests - tried == set()


@given(st.from_regex(ADDRESS, fullmatch=True) | st.text(st.sampled_from("ab.=?@-\n é<"), max_size=12))
def test_the_contract_takes_the_addresses_that_emails_can_be_sent_to(address: str) -> None:
    try:
        check(RegisterUserRequest(email=address))
        accepted = True
    except InvalidRequest:
        accepted = False
    assert accepted == is_address(address)
    if accepted:
        assert parse_address(address) == address
