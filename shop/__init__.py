"""Shop: the domain that comes with Diptych, in a distribution of its own.

Aggregates decide (`users`, `products`, `reviews`, `orders`, `returns`). Processes carry out work of several decisions
and effects (`registration`, `fulfilment`, with `ports` for emails and payments). Projections fold events into read
models and answer queries (`user_views`, `product_views`, `order_views`, `process_views`, `sales_views` with
`analytics`). The contract is the proto package `shop.v1`.
"""

from diptych import Domain
from shop import (
    analytics,
    fulfilment,
    order_views,
    orders,
    ports,
    process_views,
    product_views,
    products,
    registration,
    returns,
    reviews,
    user_views,
    users,
)
from shop.settings import settings

settings()  # A wrong setting fails the start of a server, and not the first order.

domain = Domain(
    "shop",
    aggregates=[users.user, products.product, reviews.review, orders.order, returns.goods_return],
    processes=[registration.registration, fulfilment.fulfilment],
    ports=[ports.email_sender, ports.charges, ports.voids],
    projections=[
        user_views.users,
        product_views.products,
        order_views.orders,
        analytics.analytics,
        process_views.processes,
    ],
)

__all__ = ["domain"]
