"""Products: for each command the right events, the right refusals, and silence where nothing changes."""

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.type.money_pb2 import Money

from diptych.testing import given
from shop.products import product
from shop.refusals import ProductExists, ProductNotFound, StockTooLow
from shop.v1.product_commands_pb2 import (
    AdjustStockRequest,
    ChangePriceRequest,
    CreateProductRequest,
    UpdateProductRequest,
)
from shop.v1.product_events_pb2 import PriceChanged, ProductCreated, ProductUpdated, StockAdjusted

PRICE = Money(currency_code="GBP", units=2, nanos=550_000_000)
created = ProductCreated(product_id="tea", name="Tea", category="Drinks", brand="Assam", price=PRICE, stock=10)


def test_a_product_is_created_with_the_given_fields() -> None:
    given(product).when(
        CreateProductRequest(product_id="tea", name="Tea", category="Drinks", brand="Assam", price=PRICE, stock=10)
    ).then(created)


def test_without_an_id_a_product_gets_one() -> None:
    given(product).when(CreateProductRequest(price=PRICE), new_id="0190").then(
        ProductCreated(product_id="0190", price=PRICE)
    )


def test_zero_is_a_price() -> None:
    free = Money(currency_code="GBP")
    given(product).when(CreateProductRequest(product_id="p", price=free)).then(
        ProductCreated(product_id="p", price=free)
    )
    given(product, created).when(ChangePriceRequest(product_id="tea", price=free)).then(
        PriceChanged(product_id="tea", price=free, previous_price=PRICE)
    )


def test_an_id_is_in_the_catalogue_once() -> None:
    given(product, created).when(CreateProductRequest(product_id="tea", price=PRICE)).refused(
        ProductExists(product_id="tea")
    )


def test_an_update_records_changed_and_previous_values() -> None:
    given(product, created).when(UpdateProductRequest(product_id="tea", name="Green tea", category="Drinks")).then(
        ProductUpdated(
            product_id="tea", changed_fields=FieldMask(paths=["name"]), name="Green tea", previous_name="Tea"
        )
    )


def test_an_empty_field_in_the_mask_is_cleared() -> None:
    given(product, created).when(
        UpdateProductRequest(product_id="tea", name="ignored", update_mask=FieldMask(paths=["brand", "category"]))
    ).then(
        ProductUpdated(
            product_id="tea",
            changed_fields=FieldMask(paths=["category", "brand"]),
            previous_category="Drinks",
            previous_brand="Assam",
        )
    )


def test_a_price_can_change_its_currency() -> None:
    euros = Money(currency_code="EUR", units=2, nanos=550_000_000)
    given(product, created).when(ChangePriceRequest(product_id="tea", price=euros)).then(
        PriceChanged(product_id="tea", price=euros, previous_price=PRICE)
    )


@pytest.mark.parametrize(
    "command",
    [
        UpdateProductRequest(product_id="tea"),
        UpdateProductRequest(product_id="tea", name="Tea", brand="Assam"),
        ChangePriceRequest(product_id="tea", price=PRICE),
    ],
    ids=lambda command: f"{command.DESCRIPTOR.name}",
)
def test_an_equal_value_records_nothing(command: Message) -> None:
    given(product, created).when(command).then_nothing()


def test_stock_is_added_and_taken_out() -> None:
    given(product, created).when(AdjustStockRequest(product_id="tea", delta=5, reason="delivery")).then(
        StockAdjusted(product_id="tea", delta=5, stock=15, previous_stock=10, reason="delivery")
    )
    given(product, created).when(AdjustStockRequest(product_id="tea", delta=-10)).then(
        StockAdjusted(product_id="tea", delta=-10, stock=0, previous_stock=10)
    )


def test_no_more_goes_out_than_there_is() -> None:
    given(product, created).when(AdjustStockRequest(product_id="tea", delta=-11)).refused(
        StockTooLow(product_id="tea", stock=10, requested=11)
    )
    emptied = StockAdjusted(product_id="tea", delta=-10, stock=0, previous_stock=10)
    given(product, created, emptied).when(AdjustStockRequest(product_id="tea", delta=-1)).refused(
        StockTooLow(product_id="tea", stock=0, requested=1)
    )


@pytest.mark.parametrize(
    "command",
    [
        UpdateProductRequest(product_id="tea", name="x"),
        ChangePriceRequest(product_id="tea", price=PRICE),
        AdjustStockRequest(product_id="tea", delta=1),
    ],
    ids=lambda command: f"{command.DESCRIPTOR.name}",
)
def test_nothing_is_there_to_be_changed(command: Message) -> None:
    given(product).when(command).refused(ProductNotFound(product_id="tea"))
