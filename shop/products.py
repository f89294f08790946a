"""Products: the catalogue, with the price and the stock of now.

Stock is what can be sold. Pieces set aside for an order are no part of it any more: they leave when the order is
shipped, or come back.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from google.protobuf.field_mask_pb2 import FieldMask
from google.type.money_pb2 import Money

from diptych import Aggregate, Deciding
from shop.masks import fields_to_write
from shop.refusals import ProductExists, ProductNotFound, StockTooLow
from shop.v1.process_commands_pb2 import ReleaseStockRequest, ReserveStockRequest, ShipStockRequest
from shop.v1.product_commands_pb2 import (
    AdjustStockRequest,
    ChangePriceRequest,
    CreateProductRequest,
    UpdateProductRequest,
)
from shop.v1.product_events_pb2 import (
    PriceChanged,
    ProductCreated,
    ProductUpdated,
    StockAdjusted,
    StockReleased,
    StockReserved,
    StockShipped,
)

DESCRIPTION = ("name", "category", "brand")
"""The fields that UpdateProduct can write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductState:
    """A product, as far as decisions and other aggregates' events need it."""

    name: str = ""
    category: str = ""
    brand: str = ""
    price: Money | None = None
    stock: int = 0
    reserved: tuple[tuple[str, int], ...] = ()
    """The orders that pieces are set aside for, by id, and how many. An order stands here until it is shipped."""

    def reserved_for(self, order_id: str) -> int:
        """How many pieces are set aside for an order."""
        place = bisect_left(self.reserved, (order_id,))
        if place < len(self.reserved) and self.reserved[place][0] == order_id:
            return self.reserved[place][1]
        return 0


product = Aggregate[ProductState]("product", initial=ProductState(), id="product_id")


@product.decides(CreateProductRequest)
def create(state: ProductState, command: CreateProductRequest, at: Deciding) -> Sequence[ProductCreated]:
    """Adds a product to the catalogue."""
    if at.version:
        raise ProductExists(product_id=at.id)
    return [
        ProductCreated(
            product_id=at.id,
            name=command.name,
            category=command.category,
            brand=command.brand,
            price=command.price,
            stock=command.stock,
        )
    ]


@product.decides(UpdateProductRequest)
def update(state: ProductState, command: UpdateProductRequest, at: Deciding) -> Sequence[ProductUpdated]:
    """Changes what is named and differs."""
    _must_exist(at)
    asked: dict[str, str] = {field: getattr(command, field) for field in fields_to_write(command, DESCRIPTION)}
    changed = {field: value for field, value in asked.items() if value != getattr(state, field)}
    if not changed:
        return []
    return [
        ProductUpdated(
            product_id=at.id,
            changed_fields=FieldMask(paths=changed),
            **changed,
            **{f"previous_{field}": getattr(state, field) for field in changed},
        )
    ]


@product.decides(ChangePriceRequest)
def change_price(state: ProductState, command: ChangePriceRequest, at: Deciding) -> Sequence[PriceChanged]:
    """Sets the price, in any currency."""
    _must_exist(at)
    if command.price == state.price:
        return []
    return [PriceChanged(product_id=at.id, price=command.price, previous_price=state.price)]


@product.decides(AdjustStockRequest)
def adjust_stock(state: ProductState, command: AdjustStockRequest, at: Deciding) -> Sequence[StockAdjusted]:
    """Adds pieces or takes them out; never more than there are."""
    _must_exist(at)
    stock = state.stock + command.delta
    if stock < 0:
        raise StockTooLow(product_id=at.id, stock=state.stock, requested=-command.delta)
    return [
        StockAdjusted(
            product_id=at.id, delta=command.delta, stock=stock, previous_stock=state.stock, reason=command.reason
        )
    ]


@product.decides(ReserveStockRequest, internal=True)
def reserve_stock(state: ProductState, command: ReserveStockRequest, at: Deciding) -> Sequence[StockReserved]:
    """Sets pieces aside for an order, once; never more than there are."""
    _must_exist(at)
    if state.reserved_for(command.order_id):
        return []
    stock = state.stock - command.quantity
    if stock < 0:
        raise StockTooLow(product_id=at.id, stock=state.stock, requested=command.quantity)
    return [
        StockReserved(
            product_id=at.id,
            order_id=command.order_id,
            quantity=command.quantity,
            stock=stock,
            previous_stock=state.stock,
        )
    ]


@product.decides(ReleaseStockRequest, internal=True)
def release_stock(state: ProductState, command: ReleaseStockRequest, at: Deciding) -> Sequence[StockReleased]:
    """Puts back what is set aside for an order, and no more than that."""
    _must_exist(at)
    quantity = state.reserved_for(command.order_id)
    if not quantity:
        return []
    return [
        StockReleased(
            product_id=at.id,
            order_id=command.order_id,
            quantity=quantity,
            stock=state.stock + quantity,
            previous_stock=state.stock,
        )
    ]


@product.decides(ShipStockRequest, internal=True)
def ship_stock(state: ProductState, command: ShipStockRequest, at: Deciding) -> Sequence[StockShipped]:
    """Lets go what is set aside for an order. It was no part of the stock any more."""
    _must_exist(at)
    quantity = state.reserved_for(command.order_id)
    if not quantity:
        return []
    return [StockShipped(product_id=at.id, order_id=command.order_id, quantity=quantity, stock=state.stock)]


@product.evolves(ProductCreated)
def created(state: ProductState, event: ProductCreated) -> ProductState:
    """A new product."""
    return ProductState(
        name=event.name, category=event.category, brand=event.brand, price=event.price, stock=event.stock
    )


@product.evolves(ProductUpdated)
def updated(state: ProductState, event: ProductUpdated) -> ProductState:
    """The changed fields have their new values."""
    return replace(state, **{field: getattr(event, field) for field in event.changed_fields.paths})


@product.evolves(PriceChanged)
def price_changed(state: ProductState, event: PriceChanged) -> ProductState:
    """The price is the new one."""
    return replace(state, price=event.price)


@product.evolves(StockAdjusted)
def stock_adjusted(state: ProductState, event: StockAdjusted) -> ProductState:
    """The stock is the new one."""
    return replace(state, stock=event.stock)


@product.evolves(StockReserved)
def stock_reserved(state: ProductState, event: StockReserved) -> ProductState:
    """There is less to sell, and an order more that waits."""
    place = bisect_left(state.reserved, (event.order_id,))
    entry = (event.order_id, event.quantity)
    return replace(state, stock=event.stock, reserved=(*state.reserved[:place], entry, *state.reserved[place:]))


@product.evolves(StockReleased)
def stock_released(state: ProductState, event: StockReleased) -> ProductState:
    """There is more to sell."""
    return replace(state, stock=event.stock, reserved=_without(state.reserved, event.order_id))


@product.evolves(StockShipped)
def stock_shipped(state: ProductState, event: StockShipped) -> ProductState:
    """The order does not wait any more."""
    return replace(state, reserved=_without(state.reserved, event.order_id))


def _without(reserved: tuple[tuple[str, int], ...], order_id: str) -> tuple[tuple[str, int], ...]:
    place = bisect_left(reserved, (order_id,))
    return (*reserved[:place], *reserved[place + 1 :])


def _must_exist(at: Deciding) -> None:
    if not at.version:
        raise ProductNotFound(product_id=at.id)
