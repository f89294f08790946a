"""The shop: the domain that ships with Diptych.

Aggregates decide (`users`, `products`, `reviews`, `orders`, `returns`); projections fold what they decided into read
models and answer queries (`user_views`, `product_views`, `order_views`, `sales_views` with `analytics`). Its contract
is the proto package `shop.v1`.
"""

from diptych import Domain
from shop import analytics, order_views, orders, product_views, products, returns, reviews, user_views, users

domain = Domain(
    "shop",
    aggregates=[users.user, products.product, reviews.review, orders.order, returns.goods_return],
    projections=[user_views.users, product_views.products, order_views.orders, analytics.analytics],
)

__all__ = ["domain"]
