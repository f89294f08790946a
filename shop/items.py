"""The items of orders and returns: named as the catalogue names them now, and added up."""

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
"""The most that the items of one order can come to, in nanos: sums of orders must fit a Money."""


class OfProduct(Protocol):
    """Whatever names a product."""

    @property
    def product_id(self) -> str:
        """The product."""
        ...


class Counted(OfProduct, Protocol):
    """Pieces of a product."""

    @property
    def quantity(self) -> int:
        """How many."""
        ...


class Priced(Counted, Protocol):
    """Pieces of a product at a price each."""

    @property
    def unit_price(self) -> Money:
        """What one costs."""
        ...


class PricedItem(NamedTuple):
    """A placed item with its price."""

    product_id: str
    quantity: int
    unit_price: Money


class RecordedItems(NamedTuple):
    """Items as an event holds them, and their sum."""

    items: list[OrderItem]
    total: Money


def products_of(items: Iterable[OfProduct]) -> Iterable[AggregateRef]:
    """The products that the items name, each once."""
    return map(product.ref, dict.fromkeys(item.product_id for item in items))


def units_by_product(items: Iterable[Counted]) -> dict[str, int]:
    """How many pieces there are of each product, in the order in which the items name them."""
    units: dict[str, int] = {}
    for item in items:
        units[item.product_id] = units.get(item.product_id, 0) + item.quantity
    return units


def at_catalogue_prices(items: Iterable[PlacedItem], at: Deciding) -> list[PricedItem]:
    """Puts the prices of now to the items."""
    priced = []
    for item in items:
        price = at.state(product, item.product_id).price
        if price is None:
            raise UnknownProduct(product_id=item.product_id)
        priced.append(PricedItem(item.product_id, item.quantity, price))
    return priced


def record_items(items: Sequence[Priced], at: Deciding) -> RecordedItems:
    """Puts names and totals to the items, of which there is at least one."""
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
