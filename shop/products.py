"""Products: the catalogue, with the current price and stock.

Stock is the number of pieces that can be sold. Pieces reserved for an order are not part of it: they are shipped with
the order or released.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from google.protobuf.field_mask_pb2 import FieldMask
from google.type.money_pb2 import Money

from diptych import Aggregate, Deciding
from shop.masks import fields_to_write
from shop.refusals import ProductExists, ProductNotFound, StockTooLow
from shop.text import typed, with_typed
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
"""Fields that UpdateProduct can write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductState:
    """State of a product, with the fields that decisions and other aggregates' events need."""

    name: str = ""
    category: str = ""
    brand: str = ""
    price: Money | None = None
    stock: int = 0
    reserved: tuple[tuple[str, int], ...] = ()
    """Orders with reserved pieces, by id, and the number of pieces. An order is in the list until it is shipped."""

    def reserved_for(self, order_id: str) -> int:
        """Return the number of pieces that are reserved for an order."""
        place = bisect_left(self.reserved, (order_id,))
        if place < len(self.reserved) and self.reserved[place][0] == order_id:
            return self.reserved[place][1]
        return 0


product = Aggregate[ProductState]("product", initial=ProductState(), id="product_id")


@product.decides(CreateProductRequest)
def create(state: ProductState, command: CreateProductRequest, at: Deciding) -> Sequence[ProductCreated]:
    """Add a product to the catalogue."""
    if at.version:
        raise ProductExists(product_id=at.id)
    return [
        ProductCreated(
            product_id=at.id,
            name=typed(command.name),
            category=typed(command.category),
            brand=typed(command.brand),
            price=command.price,
            stock=command.stock,
        )
    ]


@product.decides(UpdateProductRequest)
def update(state: ProductState, command: UpdateProductRequest, at: Deciding) -> Sequence[ProductUpdated]:
    """Change the given fields that differ."""
    _must_exist(at)
    command = with_typed(command, DESCRIPTION)
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
    """Set the price, in any currency."""
    _must_exist(at)
    if command.price == state.price:
        return []
    return [PriceChanged(product_id=at.id, price=command.price, previous_price=state.price)]


@product.decides(AdjustStockRequest)
def adjust_stock(state: ProductState, command: AdjustStockRequest, at: Deciding) -> Sequence[StockAdjusted]:
    """Add pieces to the stock or remove them, at most the pieces in stock."""
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
    """Reserve pieces for an order, once and at most the pieces in stock."""
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
    """Release the pieces that are reserved for an order."""
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
    """Ship the pieces that are reserved for an order. They are not part of the stock."""
    _must_exist(at)
    quantity = state.reserved_for(command.order_id)
    if not quantity:
        return []
    return [StockShipped(product_id=at.id, order_id=command.order_id, quantity=quantity, stock=state.stock)]


@product.evolves(ProductCreated)
def created(state: ProductState, event: ProductCreated) -> ProductState:
    """Start with the given fields."""
    return ProductState(
        name=event.name, category=event.category, brand=event.brand, price=event.price, stock=event.stock
    )


@product.evolves(ProductUpdated)
def updated(state: ProductState, event: ProductUpdated) -> ProductState:
    """Set the changed fields."""
    return replace(state, **{field: getattr(event, field) for field in event.changed_fields.paths})


@product.evolves(PriceChanged)
def price_changed(state: ProductState, event: PriceChanged) -> ProductState:
    """Set the new price."""
    return replace(state, price=event.price)


@product.evolves(StockAdjusted)
def stock_adjusted(state: ProductState, event: StockAdjusted) -> ProductState:
    """Set the new stock."""
    return replace(state, stock=event.stock)


@product.evolves(StockReserved)
def stock_reserved(state: ProductState, event: StockReserved) -> ProductState:
    """Reduce the stock, and add the order to the reservations."""
    place = bisect_left(state.reserved, (event.order_id,))
    entry = (event.order_id, event.quantity)
    return replace(state, stock=event.stock, reserved=(*state.reserved[:place], entry, *state.reserved[place:]))


@product.evolves(StockReleased)
def stock_released(state: ProductState, event: StockReleased) -> ProductState:
    """Increase the stock, and remove the order from the reservations."""
    return replace(state, stock=event.stock, reserved=_without(state.reserved, event.order_id))


@product.evolves(StockShipped)
def stock_shipped(state: ProductState, event: StockShipped) -> ProductState:
    """Remove the order from the reservations."""
    return replace(state, reserved=_without(state.reserved, event.order_id))


def _without(reserved: tuple[tuple[str, int], ...], order_id: str) -> tuple[tuple[str, int], ...]:
    place = bisect_left(reserved, (order_id,))
    return (*reserved[:place], *reserved[place + 1 :])


def _must_exist(at: Deciding) -> None:
    if not at.version:
        raise ProductNotFound(product_id=at.id)
