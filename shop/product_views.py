"""Projection `products`: the current catalogue, its search, and the reviews."""

from datetime import datetime

from google.type.money_pb2 import Money

from diptych import Find, Projection, Recorded
from shop.money import formatted
from shop.refusals import ProductNotFound
from shop.resources import mark_changed
from shop.reviews import id_of
from shop.text import comparable, typed
from shop.v1.product_events_pb2 import (
    PriceChanged,
    ProductCreated,
    ProductReviewed,
    ProductUpdated,
    StockAdjusted,
    StockReleased,
    StockReserved,
    StockShipped,
)
from shop.v1.product_queries_pb2 import GetProductRequest, SearchProductsRequest, SearchProductsResponse
from shop.v1.products_pb2 import Product, Review

products = Projection("products", version=3)


def _price_key(price: Money) -> str:
    """Return a price as text. Such texts sort by currency code and then exactly by amount."""
    return f"{price.currency_code}{price.units:019d}{price.nanos:09d}"


# View `products`.

product_rows = products.view("products", Product)
# Names and brands have no line breaks. So these texts sort by name and then by brand, and no search text matches across
# the two.
names = product_rows.text("names", lambda row: f"{comparable(row.name)}\n{comparable(row.brand)}", indexed=True)
price = product_rows.column("price", lambda row: _price_key(row.price))
rating = product_rows.column("rating", lambda row: row.average_rating)
category = product_rows.column("category", lambda row: typed(row.category), indexed=False)
brand = product_rows.column("brand", lambda row: typed(row.brand), indexed=False)
in_stock = product_rows.column("in_stock", lambda row: row.in_stock, indexed=False)
product_rows.index_on(category, names)
product_rows.index_on(category, price)
product_rows.index_on(category, rating)
product_rows.index_on(brand, names)
product_rows.get(
    GetProductRequest,
    key=lambda q: q.product_id,
    missing=lambda q: ProductNotFound(product_id=q.product_id),
)


@product_rows.on(ProductCreated, key=lambda e: e.product_id)
def created(row: Product | None, event: ProductCreated, at: Recorded) -> Product:
    """Add a product without reviews."""
    return Product(
        product_id=event.product_id,
        name=event.name,
        category=event.category,
        brand=event.brand,
        price=event.price,
        price_formatted=formatted(event.price),
        stock=event.stock,
        in_stock=event.stock > 0,
        version=at.version,
        create_time=at.record_time,
        update_time=at.record_time,
    )


@product_rows.on(ProductUpdated, key=lambda e: e.product_id)
def updated(row: Product | None, event: ProductUpdated, at: Recorded) -> Product:
    """Set the changed fields."""
    assert row is not None
    for field in event.changed_fields.paths:
        setattr(row, field, getattr(event, field))
    mark_changed(row, at)
    return row


@product_rows.on(PriceChanged, key=lambda e: e.product_id)
def price_changed(row: Product | None, event: PriceChanged, at: Recorded) -> Product:
    """Set the new price."""
    assert row is not None
    row.price.CopyFrom(event.price)
    row.price_formatted = formatted(event.price)
    mark_changed(row, at)
    return row


@product_rows.on(StockAdjusted, key=lambda e: e.product_id)
def stock_adjusted(row: Product | None, event: StockAdjusted, at: Recorded) -> Product:
    """Set the new stock."""
    assert row is not None
    return _with_stock(row, event.stock, 0, at)


@product_rows.on(StockReserved, key=lambda e: e.product_id)
def stock_reserved(row: Product | None, event: StockReserved, at: Recorded) -> Product:
    """Reduce the stock by reserved pieces."""
    assert row is not None
    return _with_stock(row, event.stock, event.quantity, at)


@product_rows.on(StockReleased, key=lambda e: e.product_id)
def stock_released(row: Product | None, event: StockReleased, at: Recorded) -> Product:
    """Increase the stock by released pieces."""
    assert row is not None
    return _with_stock(row, event.stock, -event.quantity, at)


@product_rows.on(StockShipped, key=lambda e: e.product_id)
def stock_shipped(row: Product | None, event: StockShipped, at: Recorded) -> Product:
    """Remove reserved pieces. The stock does not change."""
    assert row is not None
    return _with_stock(row, event.stock, -event.quantity, at)


def _with_stock(row: Product, stock: int, reserved: int, at: Recorded) -> Product:
    row.stock = stock
    row.in_stock = stock > 0
    row.reserved += reserved
    mark_changed(row, at)
    return row


@product_rows.on(ProductReviewed, key=lambda e: e.product_id)
def rated(row: Product | None, event: ProductReviewed, at: Recorded) -> Product:
    """Replace the rating's predecessor in the mean. The product itself has not changed."""
    assert row is not None
    row.rating_sum += event.rating - event.previous_rating
    if not event.previous_rating:
        row.review_count += 1
    row.average_rating = row.rating_sum / row.review_count
    return row


@product_rows.find(
    SearchProductsRequest, SearchProductsResponse, order_by={"name": names, "price": price, "rating": rating}
)
def search(query: SearchProductsRequest, now: datetime) -> Find:
    """Select all products, or those that meet all given conditions."""
    text, of_category, of_brand = comparable(query.text), typed(query.category), typed(query.brand)
    bounds = _price_bounds(query)
    return Find(
        names.contains(text) if text else None,
        category.eq(of_category) if of_category else None,
        brand.eq(of_brand) if of_brand else None,
        in_stock.eq(True) if query.in_stock else None,
        price.ge(bounds[0]) if bounds else None,
        price.le(bounds[1]) if bounds else None,
        order=names,
    )


def _price_bounds(query: SearchProductsRequest) -> tuple[str, str] | None:
    """Return the bounds of a price, both included; None: any price. One bound alone requires its currency too."""
    if not query.HasField("min_price") and not query.HasField("max_price"):
        return None
    currency_code = query.min_price.currency_code or query.max_price.currency_code
    least = _price_key(query.min_price) if query.HasField("min_price") else currency_code
    greatest = _price_key(query.max_price) if query.HasField("max_price") else f"{currency_code}~"
    return least, greatest


# View `reviews`.

reviews = products.view("reviews", Review)


@reviews.on(ProductReviewed, key=id_of)
def reviewed(row: Review | None, event: ProductReviewed, at: Recorded) -> Review:
    """Replace the review."""
    row = row or Review(product_id=event.product_id, user_id=event.user_id, create_time=at.record_time)
    row.rating = event.rating
    row.text = event.text
    mark_changed(row, at)
    return row
