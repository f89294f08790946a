"""A small shop for trying out. `diptych up` loads it into an empty log and shows the calls.

Every command has its own request id, so that a second load changes nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from diptych.v1.commands_pb2 import CommandContext
from shop.v1.order_commands_pb2 import (
    CancelOrderRequest,
    ImportedItem,
    ImportOrderRequest,
    PlacedItem,
    PlaceOrderRequest,
    UpdateOrderStatusRequest,
)
from shop.v1.order_queries_pb2 import GetOrderRequest, ListOrdersRequest
from shop.v1.orders_pb2 import (
    ORDER_STATUS_CONFIRMED,
    ORDER_STATUS_DELIVERED,
    ORDER_STATUS_PENDING,
    ORDER_STATUS_SHIPPED,
    PAYMENT_METHOD_CARD,
    OrderStatus,
)
from shop.v1.product_commands_pb2 import AdjustStockRequest, CreateProductRequest, ReviewProductRequest
from shop.v1.product_queries_pb2 import GetProductRequest, SearchProductsRequest
from shop.v1.user_commands_pb2 import RecordLoginRequest, RegisterUserRequest
from shop.v1.user_queries_pb2 import GetUserRequest
from shop.v1.users_pb2 import USER_ROLE_ADMINISTRATOR, USER_ROLE_CUSTOMER, USER_ROLE_SELLER

_USERS = (
    ("ada", "Ada", "Lovelace", USER_ROLE_CUSTOMER),
    ("charles", "Charles", "Babbage", USER_ROLE_CUSTOMER),
    ("grace", "Grace", "Hopper", USER_ROLE_SELLER),
    ("alan", "Alan", "Turing", USER_ROLE_ADMINISTRATOR),
)
_PRODUCTS = (
    ("tea", "Assam tea, 250 g", "food", "Diptych", 450, 120),
    ("biscuits", "Ginger biscuits", "food", "Diptych", 225, 80),
    ("teapot", "Brown teapot", "kitchen", "Brown Betty", 2400, 12),
    ("mug", "Enamel mug", "kitchen", "Falcon", 950, 40),
    ("kettle", "Whistling kettle", "kitchen", "Falcon", 3900, 0),
)
_ORDERS: tuple[tuple[str, str, datetime, OrderStatus, tuple[tuple[str, int], ...]], ...] = (
    (
        "order-1",
        "ada",
        datetime(2025, 3, 3, 9, 15, tzinfo=UTC),
        ORDER_STATUS_DELIVERED,
        (("tea", 2), ("teapot", 1)),
    ),
    ("order-2", "charles", datetime(2025, 3, 3, 16, 40, tzinfo=UTC), ORDER_STATUS_DELIVERED, (("mug", 4),)),
    (
        "order-3",
        "ada",
        datetime(2025, 3, 5, 11, 5, tzinfo=UTC),
        ORDER_STATUS_SHIPPED,
        (("tea", 3), ("biscuits", 5)),
    ),
    ("order-4", "charles", datetime(2025, 3, 6, 8, 30, tzinfo=UTC), ORDER_STATUS_CONFIRMED, (("kettle", 1),)),
    ("order-5", "charles", datetime(2025, 3, 6, 8, 31, tzinfo=UTC), ORDER_STATUS_PENDING, (("kettle", 1),)),
)
_REVIEWS = (
    ("tea", "ada", 5, "Strong, as it should be."),
    ("tea", "charles", 4, ""),
    ("mug", "charles", 3, "Chips easily."),
    ("teapot", "ada", 5, "Does not drip."),
)
_PENCE = {product_id: pence for product_id, _, _, _, pence, _ in _PRODUCTS}


def _context(step: str) -> CommandContext:
    return CommandContext(request_id=f"sample-{step}")


def _pounds(pence: int) -> Money:
    return Money(currency_code="GBP", units=pence // 100, nanos=pence % 100 * 10_000_000)


def _commands() -> list[Message]:
    commands: list[Message] = [
        RegisterUserRequest(
            context=_context(f"user-{user_id}"),
            user_id=user_id,
            email=f"{user_id}@example.com",
            username=user_id,
            first_name=first_name,
            last_name=last_name,
            role=role,
            registration_source="sample",
        )
        for user_id, first_name, last_name, role in _USERS
    ]
    commands += [
        CreateProductRequest(
            context=_context(f"product-{product_id}"),
            product_id=product_id,
            name=name,
            category=category,
            brand=brand,
            price=_pounds(pence),
            stock=stock,
        )
        for product_id, name, category, brand, pence, stock in _PRODUCTS
    ]
    commands += [
        ImportOrderRequest(
            context=_context(order_id),
            order_id=order_id,
            customer_id=customer_id,
            order_time=Timestamp(seconds=int(time.timestamp())),
            country="United Kingdom",
            status=status,
            items=[
                ImportedItem(product_id=product_id, quantity=quantity, unit_price=_pounds(_PENCE[product_id]))
                for product_id, quantity in items
            ],
        )
        for order_id, customer_id, time, status, items in _ORDERS
    ]
    commands.append(RecordLoginRequest(context=_context("login-ada"), user_id="ada"))
    commands.append(
        AdjustStockRequest(context=_context("delivery-kettle"), product_id="kettle", delta=25, reason="delivery")
    )
    commands += [
        UpdateOrderStatusRequest(context=_context("order-4-shipped"), order_id="order-4", status=ORDER_STATUS_SHIPPED),
        CancelOrderRequest(context=_context("order-5-cancelled"), order_id="order-5", reason="ordered twice"),
        PlaceOrderRequest(
            context=_context("order-6"),
            order_id="order-6",
            customer_id="ada",
            items=[PlacedItem(product_id="mug", quantity=2), PlacedItem(product_id="biscuits", quantity=1)],
            shipping_address="12 St James's Square, London",
            payment_method=PAYMENT_METHOD_CARD,
            country="United Kingdom",
        ),
    ]
    commands += [
        ReviewProductRequest(
            context=_context(f"review-{product_id}-{user_id}"),
            product_id=product_id,
            user_id=user_id,
            rating=rating,
            text=text,
        )
        for product_id, user_id, rating, text in _REVIEWS
    ]
    return commands


COMMANDS: list[Message] = _commands()
"""Commands to load, in this order."""

CALLS: list[tuple[str, Any]] = [
    (
        "Register a user; a second time, the request id gets the first answer",
        RegisterUserRequest(context=CommandContext(request_id="try-1"), user_id="edsger", email="edsger@example.com"),
    ),
    ("Read a user", GetUserRequest(user_id="ada")),
    ("Read a product", GetProductRequest(product_id="tea")),
    ("Search the catalogue, the best first", SearchProductsRequest(category="kitchen", order_by="rating desc")),
    ("Read an order with its items and history", GetOrderRequest(order_id="order-1")),
    ("List what a user ordered", ListOrdersRequest(customer_id="ada")),
]
"""Calls to try: a title and a request."""
