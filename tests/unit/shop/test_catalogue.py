"""The catalogue as it is searched and rated, and orders as their statuses change."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from hypothesis import given as for_all
from hypothesis import strategies as st

from diptych.domain.aggregate import AggregateRef
from diptych.testing import LOG_START, NOW, ask, fold, recorded
from shop.money import money
from shop.order_views import order_rows, order_summaries, orders
from shop.product_views import product_rows, products, reviews
from shop.v1.order_events_pb2 import OrderCancelled, OrderPlaced, OrderStatusChanged
from shop.v1.order_queries_pb2 import ListOrdersRequest
from shop.v1.orders_pb2 import (
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_CONFIRMED,
    ORDER_STATUS_PENDING,
    Order,
    OrderItem,
    OrderStatusChange,
    OrderSummary,
)
from shop.v1.product_events_pb2 import PriceChanged, ProductCreated, ProductReviewed, ProductUpdated, StockAdjusted
from shop.v1.product_queries_pb2 import SearchProductsRequest
from shop.v1.products_pb2 import Review


def recorded_at(position: int) -> Timestamp:
    """When the event at a position was recorded."""
    time = Timestamp()
    time.FromDatetime(LOG_START + timedelta(seconds=position))
    return time


def gbp(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="GBP", units=units, nanos=nanos)


def eur(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="EUR", units=units, nanos=nanos)


def review(product_id: str, user_id: str, rating: int, previous_rating: int = 0, text: str = "") -> Message:
    """A review in its own stream, as the log has it."""
    event = ProductReviewed(
        product_id=product_id, user_id=user_id, rating=rating, text=text, previous_rating=previous_rating
    )
    return recorded(event, aggregate=AggregateRef("review", f"{product_id}/{user_id}"))


tea = ProductCreated(product_id="tea", name="Assam Tea", category="Drinks", brand="Öz & Co.", price=gbp(2), stock=10)
mug = ProductCreated(product_id="mug", name="blue mug", category="Kitchen", brand="Falcon", price=gbp(9, 5 * 10**8))
pot = ProductCreated(product_id="pot", name="Teapot", category="Kitchen", brand="Falcon", price=gbp(24), stock=1)
vase = ProductCreated(product_id="vase", name="100% glass_vase", category="Home", price=eur(5), stock=2)
new = ProductCreated(product_id="new", price=gbp(0))
OF_TEA = [review("tea", "ada", 4), review("tea", "bob", 5)]
CATALOGUE: list[Message] = [tea, mug, pot, vase, new, *OF_TEA, review("mug", "ada", 5), review("pot", "bob", 1)]


def test_a_product_shows_the_mean_of_its_ratings() -> None:
    row = fold(product_rows, tea, *OF_TEA)["tea"]
    assert (row.average_rating, row.review_count, row.rating_sum) == (4.5, 2, 9)
    again = fold(product_rows, tea, *OF_TEA, review("tea", "ada", 1, previous_rating=4))["tea"]
    assert (again.average_rating, again.review_count, again.rating_sum) == (3.0, 2, 6)


def test_a_review_leaves_the_version_and_the_time_of_its_product() -> None:
    row = fold(product_rows, tea, *OF_TEA, StockAdjusted(product_id="tea", delta=-1, stock=9))["tea"]
    assert (row.version, row.update_time) == (2, recorded_at(4))
    assert fold(product_rows, tea, *OF_TEA)["tea"].update_time == recorded_at(1)


def test_a_later_review_replaces_the_former() -> None:
    rows = fold(reviews, tea, review("tea", "ada", 4, text="Fine."), review("tea", "ada", 2, previous_rating=4))
    assert rows == {
        "tea/ada": Review(
            product_id="tea",
            user_id="ada",
            rating=2,
            version=2,
            create_time=recorded_at(2),
            update_time=recorded_at(3),
        )
    }


@for_all(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 5)), max_size=30))
def test_the_mean_is_exact(given: list[tuple[str, int]]) -> None:
    latest: dict[str, int] = {}
    events = []
    for user_id, rating in given:
        events.append(review("tea", user_id, rating, previous_rating=latest.get(user_id, 0)))
        latest[user_id] = rating
    row = fold(product_rows, tea, *events)["tea"]
    assert (row.review_count, row.rating_sum) == (len(latest), sum(latest.values()))
    assert row.average_rating == (sum(latest.values()) / len(latest) if latest else 0.0)


def search(*events: Message, **filters: Any) -> str:
    """Return the ids of the matching products, in order."""
    answer = ask(products, SearchProductsRequest(**filters), *events)
    return " ".join(product.product_id for product in answer.products)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "new vase tea mug pot"),
        ({"order_by": "name desc"}, "pot mug tea vase new"),
        ({"order_by": "price"}, "vase new tea mug pot"),
        ({"order_by": "price desc"}, "pot mug tea new vase"),
        ({"order_by": "rating"}, "new vase pot tea mug"),
        ({"order_by": "rating desc"}, "mug tea pot vase new"),
        ({"text": "TEA"}, "tea pot"),
        ({"text": "m T"}, "tea"),
        ({"text": "öz"}, "tea"),
        ({"text": "falcon"}, "mug pot"),
        ({"text": "mugfalcon"}, ""),
        ({"text": "0%"}, "vase"),
        ({"text": "s_v"}, "vase"),
        ({"text": "sxv"}, ""),
        ({"category": "Kitchen"}, "mug pot"),
        ({"category": "kitchen"}, ""),
        ({"brand": "Falcon", "in_stock": True}, "pot"),
        ({"in_stock": True}, "vase tea pot"),
        ({"in_stock": False}, "new vase tea mug pot"),
        ({"min_price": gbp(2)}, "tea mug pot"),
        ({"min_price": gbp(2, 1)}, "mug pot"),
        ({"max_price": gbp(9, 5 * 10**8)}, "new tea mug"),
        ({"max_price": gbp(9, 5 * 10**8 - 1)}, "new tea"),
        ({"min_price": gbp(2), "max_price": gbp(9, 5 * 10**8)}, "tea mug"),
        ({"min_price": eur(0)}, "vase"),
        ({"max_price": Money(currency_code="USD", units=2**63 - 1)}, ""),
        ({"category": "Kitchen", "max_price": gbp(20), "text": "mug", "order_by": "price desc"}, "mug"),
    ],
    ids=str,
)
def test_products_are_searched(filters: dict[str, Any], expected: str) -> None:
    assert search(*CATALOGUE, **filters) == expected


def test_a_search_follows_changes() -> None:
    changes = [
        PriceChanged(product_id="tea", price=eur(100), previous_price=gbp(2)),
        ProductUpdated(product_id="tea", changed_fields=FieldMask(paths=["name", "brand"]), name="Coffee"),
        StockAdjusted(product_id="tea", delta=-10, stock=0, previous_stock=10),
        review("tea", "ada", 1, previous_rating=4),
    ]
    assert search(*CATALOGUE, *changes, text="tea") == "pot"
    assert search(*CATALOGUE, *changes, text="coff") == "tea"
    assert search(*CATALOGUE, *changes, min_price=eur(0)) == "vase tea"
    assert search(*CATALOGUE, *changes, in_stock=True) == "vase pot"
    assert search(*CATALOGUE, *changes, order_by="rating desc") == "mug tea pot vase new"


def test_the_total_counts_all_that_match() -> None:
    assert ask(products, SearchProductsRequest(include_total=True, text="falcon"), *CATALOGUE).total_size == 2
    assert not ask(products, SearchProductsRequest(), *CATALOGUE).HasField("total_size")


MOST = (2**63 - 1) * 10**9 + 999_999_999


@for_all(
    st.lists(st.tuples(st.sampled_from(["EUR", "GBP"]), st.integers(0, MOST)), min_size=1, max_size=6),
    st.integers(0, MOST),
    st.integers(0, MOST),
)
def test_prices_of_any_size_are_compared_exactly(prices: list[tuple[str, int]], least: int, greatest: int) -> None:
    created = [
        ProductCreated(product_id=f"{number}", price=money(code, amount))
        for number, (code, amount) in enumerate(prices)
    ]
    in_order = sorted(range(len(prices)), key=lambda number: (*prices[number], f"{number}"))
    assert search(*created, order_by="price") == " ".join(map(str, in_order))
    least, greatest = sorted((least, greatest))
    answer = search(*created, order_by="price", min_price=money("GBP", least), max_price=money("GBP", greatest))
    expected = [n for n in in_order if prices[n][0] == "GBP" and least <= prices[n][1] <= greatest]
    assert answer == " ".join(map(str, expected))


placed = OrderPlaced(
    order_id="o1",
    customer_id="ada",
    customer_name="Ada",
    customer_email="ada@example.com",
    order_time=NOW,
    country="EIRE",
    items=[OrderItem(product_id="tea", product_name="Tea", quantity=2, unit_price=gbp(1), total=gbp(2))],
    total=gbp(2),
    shipping_address="Dublin",
    payment_method="PAYMENT_METHOD_CARD",
)
confirmed = OrderStatusChanged(
    order_id="o1", status=ORDER_STATUS_CONFIRMED, previous_status=ORDER_STATUS_PENDING, reason="paid"
)
cancelled = OrderCancelled(order_id="o1", previous_status=ORDER_STATUS_CONFIRMED, reason="too late")


def test_an_order_tells_how_it_came_to_its_status() -> None:
    pending = Order(
        order_id="o1",
        customer_id="ada",
        customer_name="Ada",
        customer_email="ada@example.com",
        items=placed.items,
        status=ORDER_STATUS_PENDING,
        status_history=[OrderStatusChange(status=ORDER_STATUS_PENDING, change_time=NOW)],
        total=gbp(2),
        country="EIRE",
        shipping_address="Dublin",
        payment_method="PAYMENT_METHOD_CARD",
        order_time=NOW,
        version=1,
        create_time=recorded_at(1),
        update_time=recorded_at(1),
    )
    assert fold(order_rows, placed) == {"o1": pending}
    row = fold(order_rows, placed, confirmed, cancelled)["o1"]
    assert list(row.status_history) == [
        OrderStatusChange(status=ORDER_STATUS_PENDING, change_time=NOW),
        OrderStatusChange(status=ORDER_STATUS_CONFIRMED, change_time=recorded_at(2), reason="paid"),
        OrderStatusChange(status=ORDER_STATUS_CANCELLED, change_time=recorded_at(3), reason="too late"),
    ]
    assert (row.status, row.version) == (ORDER_STATUS_CANCELLED, 3)
    assert (row.create_time, row.update_time) == (recorded_at(1), recorded_at(3))


def test_an_order_in_a_list_shows_its_status() -> None:
    rows = fold(order_summaries, placed, confirmed)
    assert rows == {
        "o1": OrderSummary(
            order_id="o1",
            customer_id="ada",
            customer_name="Ada",
            status=ORDER_STATUS_CONFIRMED,
            total=gbp(2),
            item_count=1,
            unit_count=2,
            country="EIRE",
            order_time=NOW,
            version=2,
            create_time=recorded_at(1),
            update_time=recorded_at(2),
        )
    }
    for status, answer in ((ORDER_STATUS_CONFIRMED, 0), (ORDER_STATUS_CANCELLED, 1)):
        assert len(ask(orders, ListOrdersRequest(status=status), placed, confirmed, cancelled).orders) == answer
