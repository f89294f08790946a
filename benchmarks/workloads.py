"""Workloads: requests by number. The same number gives the same request in any process.

Every command has a request id, so that the server remembers it, and all fields that the contract requires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message
from google.type.money_pb2 import Money

from diptych.v1.commands_pb2 import CommandContext, ExecuteRequest
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest, PlacedItem, PlaceOrderRequest
from shop.v1.orders_pb2 import ORDER_STATUS_DELIVERED
from shop.v1.product_commands_pb2 import (
    AdjustStockRequest,
    ChangePriceRequest,
    CreateProductRequest,
    ReviewProductRequest,
)
from shop.v1.product_queries_pb2 import GetProductRequest, SearchProductsRequest
from shop.v1.user_commands_pb2 import RecordLoginRequest, RegisterUserRequest

CATEGORIES = 50
BRANDS = 200
_DAY_SECONDS = 86_400
_START = 1_767_225_600  # 2026-01-01
_COUNTRIES = ("GB", "DE", "FR", "NL", "IE", "ES", "JP", "AU")
_STREETS = "Lime Tree Walk"


def price_of(n: int) -> Money:
    """Return a price between 1.00 and 100.99."""
    return Money(currency_code="GBP", units=1 + n % 100, nanos=n * 7919 % 100 * 10_000_000)


def create_product(n: int) -> Message:
    """Return a command that creates a product."""
    return CreateProductRequest(
        context=CommandContext(request_id=f"create-product-{n:09d}"),
        product_id=f"product-{n:09d}",
        name=f"A product that is called number {n}",
        category=f"category {n % CATEGORIES}",
        brand=f"brand {n % BRANDS}",
        price=price_of(n),
        stock=1_000_000,
    )


def anonymous_product(n: int) -> Message:
    """Return a command that creates a product under an id of the server, without a request id: it can be repeated."""
    product = create_product(n)
    product.ClearField("product_id")
    product.ClearField("context")
    return product


def adjust_stock(n: int, products: int = 1, start: int = 0) -> Message:
    """Return a command that removes a piece of a random one of `products` products from the stock."""
    return AdjustStockRequest(
        context=CommandContext(request_id=f"adjust-stock-{start}-{n:09d}"),
        product_id=f"product-{start + _spread(n) % products:09d}",
        delta=-1,
        reason="sold",
    )


def adjust_in_turn(n: int, products: int = 1, start: int = 0) -> Message:
    """Return a command that removes a piece of one product after the other from the stock."""
    return AdjustStockRequest(
        context=CommandContext(request_id=f"adjust-turn-{start}-{n:09d}"),
        product_id=f"product-{start + n % products:09d}",
        delta=-1,
        reason="sold",
    )


def place_order(n: int, products: int = 50, start: int = 0) -> Message:
    """Return an order of customer 0 for one to three of a few products."""
    first = _spread(n)
    return PlaceOrderRequest(
        context=CommandContext(request_id=f"place-order-{n:09d}"),
        order_id=f"order-{n:09d}",
        customer_id=f"user-{0:09d}",
        items=[
            PlacedItem(product_id=f"product-{start + (first + offset) % products:09d}", quantity=1 + n % 2)
            for offset in range(1 + n % 3)
        ],
    )


def get_product(n: int, products: int = 1) -> Message:
    """Return a query for one of `products` products."""
    return GetProductRequest(product_id=f"product-{_spread(n) % products:09d}")


def create_scattered(n: int) -> Message:
    """Return a command that creates a product under random ids, which lie anywhere in the indexes."""
    product = create_product(n)
    assert isinstance(product, CreateProductRequest)
    product.product_id = f"{_spread(n):010x}-{n}"
    product.context.request_id = f"{_spread(n + 1):010x}-{n}"
    return product


def search_products(n: int, categories: int = CATEGORIES, page_tokens: Sequence[str] = (), text: str = "") -> Message:
    """Return a query for a page of twenty products of a category by name, or of those whose name contains a text."""
    if text:
        return SearchProductsRequest(page_size=20, text=text)
    category = n % categories
    token = page_tokens[category] if page_tokens else ""
    return SearchProductsRequest(page_size=20, category=f"category {category}", page_token=token)


def register_user(n: int) -> Message:
    """Return a command that registers a user."""
    return RegisterUserRequest(
        context=CommandContext(request_id=f"register-user-{n:09d}"),
        user_id=f"user-{n:09d}",
        email=f"user-{n:09d}@example.com",
        username=f"user-{n:09d}",
        first_name="Ada",
        last_name=f"Lovelace {n}",
    )


def record_login(n: int, users: int = 1) -> Message:
    """Return a login of one of `users` users."""
    return RecordLoginRequest(
        context=CommandContext(request_id=f"record-login-{n:09d}"), user_id=f"user-{_spread(n) % users:09d}"
    )


def shop_event(n: int) -> Message:
    """Return a shop's mixed commands: of twenty, three register users, four change products, and so on.

    Each is accepted and records one event, if those of all lower numbers came before it.
    """
    turn, kind = divmod(n, 20)
    users, products = 3 * turn + 3, 3 * turn + 3  # The first six commands of this turn make them.
    if kind < 3:
        return register_user(3 * turn + kind)
    if kind < 6:
        return create_product(3 * turn + kind - 3)
    some = _spread(n)
    context = CommandContext(request_id=f"shop-{n:09d}")
    if kind < 10:
        return RecordLoginRequest(context=context, user_id=f"user-{some % users:09d}")
    if kind < 13:
        return AdjustStockRequest(context=context, product_id=f"product-{some % products:09d}", delta=-1, reason="sold")
    if kind == 13:
        price = Money(currency_code="GBP", units=200 + n % 100_000)
        return ChangePriceRequest(context=context, product_id=f"product-{some % products:09d}", price=price)
    if kind < 18:
        return ReviewProductRequest(
            context=context,
            product_id=f"product-{some % products:09d}",
            user_id=f"user-{turn * 3 + kind % 3:09d}",
            rating=1 + n % 5,
            text=f"I have had it for {n} days, and it does what it says.",
        )
    return _import_order(n, some, users, products, context)


def _import_order(n: int, some: int, users: int, products: int, context: CommandContext) -> Message:
    order = ImportOrderRequest(
        context=context,
        order_id=f"order-{n:09d}",
        customer_id=f"user-{some % users:09d}",
        country=_COUNTRIES[n % len(_COUNTRIES)],
        items=[
            ImportedItem(
                product_id=f"product-{_spread(n + item) % products:09d}",
                quantity=1 + item,
                unit_price=price_of(n + item),
            )
            for item in range(3)
        ],
        status=ORDER_STATUS_DELIVERED,
        shipping_address=f"{n} {_STREETS}",
    )
    order.order_time.seconds = _START + n * 61 % (365 * _DAY_SECONDS)
    return order


WORKLOADS: dict[str, Callable[..., Message]] = {
    made.__name__: made
    for made in (
        create_product,
        anonymous_product,
        create_scattered,
        search_products,
        adjust_stock,
        adjust_in_turn,
        place_order,
        get_product,
        register_user,
        record_login,
        shop_event,
    )
}


def requests(workload: str, first: int, count: int, **options: Any) -> list[bytes]:
    """Return requests of a workload, from number `first` on."""
    make = WORKLOADS[workload]
    return [make(n, **options).SerializeToString() for n in range(first, first + count)]


def envelopes(workload: str, first: int, messages: int, commands: int, **options: Any) -> list[bytes]:
    """Return messages of `Execute`, each with `batch` commands of a workload."""
    make = WORKLOADS[workload]
    packed: list[bytes] = []
    for start in range(first, first + messages * commands, commands):
        message = ExecuteRequest()
        for n in range(start, start + commands):
            command = make(n, **options)
            envelope = message.commands.add()
            envelope.context.CopyFrom(command.context)  # type: ignore[attr-defined]
            command.ClearField("context")
            envelope.command.Pack(command)
        packed.append(message.SerializeToString())
    return packed


def _spread(n: int) -> int:
    """Return a fixed pseudo-random number for a number."""
    return (n * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 24
