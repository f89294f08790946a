"""Projection `orders`: orders one by one and in lists."""

from datetime import UTC, datetime

from diptych import Find, Projection, Recorded
from shop.refusals import OrderNotFound
from shop.resources import mark_changed
from shop.v1.order_events_pb2 import OrderCancelled, OrderImported, OrderPlaced, OrderStatusChanged
from shop.v1.order_queries_pb2 import GetOrderRequest, ListOrdersRequest, ListOrdersResponse
from shop.v1.orders_pb2 import (
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_PENDING,
    Order,
    OrderStatus,
    OrderStatusChange,
    OrderSummary,
)

orders = Projection("orders", version=1)

# View `orders`: the complete document.

order_rows = orders.view("orders", Order)
order_rows.get(GetOrderRequest, key=lambda q: q.order_id, missing=lambda q: OrderNotFound(order_id=q.order_id))


@order_rows.on(OrderImported, key=lambda e: e.order_id)
def imported(row: Order | None, event: OrderImported, at: Recorded) -> Order:
    """Add a document. The statuses before the imported one are not known, only `order_time`."""
    return _document(event, event.status, at)


@order_rows.on(OrderPlaced, key=lambda e: e.order_id)
def placed(row: Order | None, event: OrderPlaced, at: Recorded) -> Order:
    """Add a pending document."""
    return _document(event, ORDER_STATUS_PENDING, at)


@order_rows.on(OrderStatusChanged, key=lambda e: e.order_id)
def status_changed(row: Order | None, event: OrderStatusChanged, at: Recorded) -> Order:
    """Append the new status to the document."""
    assert row is not None
    return _step(row, event.status, event.reason, at)


@order_rows.on(OrderCancelled, key=lambda e: e.order_id)
def cancelled(row: Order | None, event: OrderCancelled, at: Recorded) -> Order:
    """Append the cancellation, the last status."""
    assert row is not None
    return _step(row, ORDER_STATUS_CANCELLED, event.reason, at)


def _document(event: OrderImported | OrderPlaced, status: OrderStatus, at: Recorded) -> Order:
    return Order(
        order_id=event.order_id,
        customer_id=event.customer_id,
        customer_name=event.customer_name,
        customer_email=event.customer_email,
        items=event.items,
        status=status,
        status_history=[OrderStatusChange(status=status, change_time=event.order_time)],
        total=event.total,
        country=event.country,
        shipping_address=event.shipping_address,
        payment_method=event.payment_method,
        order_time=event.order_time,
        version=at.version,
        create_time=at.record_time,
        update_time=at.record_time,
    )


def _step(row: Order, status: OrderStatus, reason: str, at: Recorded) -> Order:
    row.status = status
    row.status_history.add(status=status, change_time=at.record_time, reason=reason)
    mark_changed(row, at)
    return row


# View `order_summaries`: the columns of lists.

order_summaries = orders.view("order_summaries", OrderSummary)
order_id = order_summaries.column("order_id", lambda row: row.order_id)
customer_id = order_summaries.column("customer_id", lambda row: row.customer_id, indexed=False)
status = order_summaries.column("status", lambda row: int(row.status), indexed=False)
order_time = order_summaries.column("order_time", lambda row: row.order_time.ToDatetime(UTC))
order_summaries.index_on(customer_id, order_time)
order_summaries.index_on(status, order_time)


@order_summaries.on(OrderImported, key=lambda e: e.order_id)
def summary_imported(row: OrderSummary | None, event: OrderImported, at: Recorded) -> OrderSummary:
    """Add a line."""
    return _summary(event, event.status, at)


@order_summaries.on(OrderPlaced, key=lambda e: e.order_id)
def summary_placed(row: OrderSummary | None, event: OrderPlaced, at: Recorded) -> OrderSummary:
    """Add a pending line."""
    return _summary(event, ORDER_STATUS_PENDING, at)


@order_summaries.on(OrderStatusChanged, key=lambda e: e.order_id)
def summary_status_changed(row: OrderSummary | None, event: OrderStatusChanged, at: Recorded) -> OrderSummary:
    """Set the new status."""
    assert row is not None
    row.status = event.status
    mark_changed(row, at)
    return row


@order_summaries.on(OrderCancelled, key=lambda e: e.order_id)
def summary_cancelled(row: OrderSummary | None, event: OrderCancelled, at: Recorded) -> OrderSummary:
    """Set the last status."""
    assert row is not None
    row.status = ORDER_STATUS_CANCELLED
    mark_changed(row, at)
    return row


def _summary(event: OrderImported | OrderPlaced, status: OrderStatus, at: Recorded) -> OrderSummary:
    return OrderSummary(
        order_id=event.order_id,
        customer_id=event.customer_id,
        customer_name=event.customer_name,
        status=status,
        total=event.total,
        item_count=len(event.items),
        unit_count=sum(item.quantity for item in event.items),
        country=event.country,
        order_time=event.order_time,
        version=at.version,
        create_time=at.record_time,
        update_time=at.record_time,
    )


@order_summaries.find(ListOrdersRequest, ListOrdersResponse, order_by={"order_time": order_time, "order_id": order_id})
def list_orders(query: ListOrdersRequest, now: datetime) -> Find:
    """Select all orders, those of a customer, or those in a status; the latest first."""
    return Find(
        customer_id.eq(query.customer_id) if query.customer_id else None,
        status.eq(query.status) if query.status else None,
        order=order_time.descending(),
    )
