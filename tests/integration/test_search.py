"""SearchProducts with real servers: filters, orders, pages, prices and text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from google.type.money_pb2 import Money

from diptych.client import CallRefused, Connection, with_context
from diptych.v1.commands_pb2 import CommandResult
from shop.v1.product_commands_pb2 import (
    ChangePriceRequest,
    CreateProductRequest,
    ReviewProductRequest,
    UpdateProductRequest,
)
from shop.v1.product_queries_pb2 import GetProductRequest, SearchProductsRequest
from shop.v1.products_pb2 import Product
from shop.v1.user_commands_pb2 import RegisterUserRequest
from tests.support.pair import Pair

PLENTY = 30


def gbp(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="GBP", units=units, nanos=nanos)


def eur(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="EUR", units=units, nanos=nanos)


def jpy(units: int) -> Money:
    return Money(currency_code="JPY", units=units)


HUGE = gbp(2**63 - 1, 999_999_999)


def catalogue() -> Iterator[Message]:
    """Five products that differ in every field, and many similar ones."""
    for user_id in ("ada", "bob"):
        yield RegisterUserRequest(user_id=user_id, email=f"{user_id}@example.com")
    for id, name, category, brand, price, stock in (
        ("tea", "Assam Tea", "Drinks", "Öz & Co.", gbp(2), 10),
        ("mug", "blue mug", "Kitchen", "Falcon", gbp(9, 500_000_000), 0),
        ("pot", "Teapot", "Kitchen", "Falcon", gbp(24), 1),
        ("vase", "100% glass_vase", "Home", "", eur(5), 2),
        ("crown", "Crown", "Jewels", "", HUGE, 1),
    ):
        yield CreateProductRequest(product_id=id, name=name, category=category, brand=brand, price=price, stock=stock)
    for id, user_id, rating in (("tea", "ada", 4), ("tea", "bob", 5), ("mug", "ada", 5), ("pot", "bob", 1)):
        yield ReviewProductRequest(product_id=id, user_id=user_id, rating=rating)
    for number in range(PLENTY):
        yield CreateProductRequest(
            product_id=f"peg-{number:02}", name=f"Peg {number % 3}", category="Pegs", price=gbp(number % 4), stock=1
        )


@pytest.fixture
async def shop(shared_pair: Pair) -> AsyncIterator[Connection]:
    """The module's shop with the catalogue. Request ids make it safe to load it again."""
    commands = [with_context(one, request_id=f"catalogue-{number}") for number, one in enumerate(catalogue())]
    async with shared_pair.connect(read_your_writes=True) as connection:
        async with connection.command_stream() as stream:
            outcomes = await (await stream.submit(commands))
        for outcome in outcomes:
            assert isinstance(outcome, CommandResult)
            connection.add_token(outcome.token)
        yield connection


async def ids(shop: Connection, **search: Any) -> str:
    found = await shop.query(SearchProductsRequest(**search))
    return " ".join(product.product_id for product in found.products)


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({"text": "TEA"}, "tea pot"),
        ({"text": "ÖZ"}, "tea"),
        ({"text": "0%"}, "vase"),
        ({"text": "s_v"}, "vase"),
        ({"text": "nothing"}, ""),
        ({"text": "mugfalcon"}, ""),
        ({"text": "falcon", "order_by": "name desc"}, "pot mug"),
        ({"category": "Kitchen"}, "mug pot"),
        ({"category": "kitchen"}, ""),
        ({"category": "Kitchen", "order_by": "rating"}, "pot mug"),
        ({"brand": "Falcon", "in_stock": True}, "pot"),
        ({"brand": "Öz & Co.", "category": "Drinks", "text": "ss", "in_stock": True, "min_price": gbp(2)}, "tea"),
        ({"min_price": gbp(4)}, "mug crown pot"),
        ({"min_price": gbp(2), "max_price": gbp(2), "order_by": "rating desc", "text": "as"}, "tea"),
        ({"min_price": gbp(9, 500_000_001), "order_by": "price desc"}, "crown pot"),
        ({"min_price": HUGE}, "crown"),
        ({"max_price": eur(5)}, "vase"),
        ({"max_price": eur(4, 999_999_999)}, ""),
        ({"max_price": Money(currency_code="USD")}, ""),
    ],
    ids=str,
)
async def test_products_are_found(shop: Connection, search: dict[str, Any], expected: str) -> None:
    assert await ids(shop, **search) == expected


async def test_products_come_in_the_requested_order(shop: Connection) -> None:
    def names(products: list[Product]) -> list[str]:
        return [f"{product.name}\n{product.brand}".casefold() for product in products]

    def prices(products: list[Product]) -> list[tuple[str, int, int]]:
        return [(product.price.currency_code, product.price.units, product.price.nanos) for product in products]

    def ratings(products: list[Product]) -> list[float]:
        return [product.average_rating for product in products]

    for name, values in (("name", names), ("price", prices), ("rating", ratings)):
        for way in ("", " desc"):
            found = await shop.query(SearchProductsRequest(order_by=f"{name}{way}"))
            assert len(found.products) >= PLENTY + 5
            assert values(found.products) == sorted(values(found.products), reverse=bool(way))
    assert (await ids(shop)) == await ids(shop, order_by="name")


@pytest.mark.parametrize("order_by", ["", "name desc", "price", "price desc", "rating desc"])
@pytest.mark.parametrize(
    "search",
    [{}, {"category": "Pegs"}, {"text": "peg", "in_stock": True}, {"min_price": gbp(1), "max_price": gbp(2)}],
    ids=str,
)
async def test_all_pages_together_are_the_whole_answer(shop: Connection, search: dict[str, Any], order_by: str) -> None:
    whole = await shop.query(SearchProductsRequest(order_by=order_by, include_total=True, **search))
    assert whole.total_size == len(whole.products)
    token, found = "", []
    while True:
        query = SearchProductsRequest(order_by=order_by, page_size=4, page_token=token, **search)
        page = await shop.query(query)
        found += page.products
        token = page.next_page_token
        if not token:
            break
        assert len(page.products) == 4
    assert found == list(whole.products)


async def test_a_page_token_is_good_for_its_own_search_alone(shop: Connection) -> None:
    page = await shop.query(SearchProductsRequest(category="Pegs", page_size=2))
    for other in (
        SearchProductsRequest(category="Kitchen"),
        SearchProductsRequest(category="Pegs", order_by="price"),
        SearchProductsRequest(),
    ):
        other.page_token = page.next_page_token
        with pytest.raises(CallRefused) as refused:
            await shop.query(other)
        assert refused.value.reason == "PAGE_TOKEN_INVALID"


async def test_a_search_with_a_token_includes_the_change(shop: Connection) -> None:
    await shop.execute(CreateProductRequest(product_id="hat", name="Hat", category="Hats", price=gbp(3)))
    assert await ids(shop, category="Hats", text="hat", max_price=gbp(3)) == "hat"
    await shop.execute(ChangePriceRequest(product_id="hat", price=jpy(3)))
    assert await ids(shop, category="Hats", max_price=gbp(3)) == ""
    await shop.execute(UpdateProductRequest(product_id="hat", name="Bowler", category="Hats", brand="Lock"))
    assert await ids(shop, text="lock", brand="Lock", max_price=jpy(3)) == "hat"
    assert await ids(shop, text="hat") == ""
    await shop.execute(ReviewProductRequest(product_id="hat", user_id="ada", rating=2))
    await shop.execute(ReviewProductRequest(product_id="hat", user_id="bob", rating=5))
    answer = await shop.execute(ReviewProductRequest(product_id="hat", user_id="ada", rating=4))
    assert (answer.result.aggregate.type, answer.result.aggregate.id) == ("review", "hat/ada")
    assert answer.result.version == 2
    hat = await shop.query(GetProductRequest(product_id="hat"), token=answer.result.token)
    assert (hat.average_rating, hat.review_count, hat.version) == (4.5, 2, 3)
