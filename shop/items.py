"""Items of orders and returns: their names in the catalogue, and their totals."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from google.type.money_pb2 import Money

from diptych import AggregateRef, Deciding
from shop.money import NANOS_PER_UNIT, money, nanos
from shop.products import product
from shop.refusals import AmountTooLarge, CurrenciesDiffer, UnknownProduct
from shop.v1.order_commands_pb2 import PlacedItem
from shop.v1.orders_pb2 import OrderItem

LARGEST_TOTAL = 10_000_000_000_000_000 * NANOS_PER_UNIT
"""Greatest total of the items of one order, in nanos: sums of orders must fit a Money."""


class OfProduct(Protocol):
    """A message that names a product."""

    @property
    def product_id(self) -> str:
        """Id of the product."""
        ...


class Counted(OfProduct, Protocol):
    """Pieces of a product."""

    @property
    def quantity(self) -> int:
        """Number of pieces."""
        ...


class Priced(Counted, Protocol):
    """Pieces of a product with a price each."""

    @property
    def unit_price(self) -> Money:
        """Price of one piece."""
        ...


class PricedItem(NamedTuple):
    """A placed item with its price."""

    product_id: str
    quantity: int
    unit_price: Money


class RecordedItems(NamedTuple):
    """Items of an event, and their sum."""

    items: list[OrderItem]
    total: Money


def products_of(items: Iterable[OfProduct]) -> Iterable[AggregateRef]:
    """Return the products that the items name, each once."""
    return map(product.ref, dict.fromkeys(item.product_id for item in items))


def units_by_product(items: Iterable[Counted]) -> dict[str, int]:
    """Return the number of pieces of each product, in the order of the items."""
    units: dict[str, int] = {}
    for item in items:
        units[item.product_id] = units.get(item.product_id, 0) + item.quantity
    return units


def at_catalogue_prices(items: Iterable[PlacedItem], at: Deciding) -> list[PricedItem]:
    """Return the items with the current prices of the catalogue."""
    priced = []
    for item in items:
        price = at.state(product, item.product_id).price
        if price is None:
            raise UnknownProduct(product_id=item.product_id)
        priced.append(PricedItem(item.product_id, item.quantity, price))
    return priced


def record_items(items: Sequence[Priced], at: Deciding) -> RecordedItems:
    """Return the items, at least one, with names and totals."""
    currency_code = items[0].unit_price.currency_code
    recorded: list[OrderItem] = []
    sum_of_all = 0
    for item in items:
        price = item.unit_price
        if not at.version_of(product, item.product_id):
            raise UnknownProduct(product_id=item.product_id)
        if price.currency_code != currency_code:
            raise CurrenciesDiffer(currency_code=currency_code, other_currency_code=price.currency_code)
        total = item.quantity * nanos(price)
        sum_of_all += total
        if sum_of_all > LARGEST_TOTAL:
            raise AmountTooLarge(product_id=item.product_id, currency_code=currency_code)
        recorded.append(
            OrderItem(
                product_id=item.product_id,
                product_name=at.state(product, item.product_id).name,
                quantity=item.quantity,
                unit_price=price,
                total=money(currency_code, total),
            )
        )
    return RecordedItems(recorded, money(currency_code, sum_of_all))
