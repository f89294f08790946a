"""Orders, placed or imported. Their events contain names and emails, so that an order shows them as they were."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from diptych import Aggregate, AggregateRef, Deciding
from shop.items import at_catalogue_prices, products_of, record_items, units_by_product
from shop.refusals import (
    OrderExists,
    OrderNotCancellable,
    OrderNotFound,
    OrderStatusNotNext,
    UnknownUser,
    UserDeactivated,
)
from shop.text import typed
from shop.users import UserState, user
from shop.v1.order_commands_pb2 import (
    CancelOrderRequest,
    ImportOrderRequest,
    PlaceOrderRequest,
    UpdateOrderStatusRequest,
)
from shop.v1.order_events_pb2 import CancelledItem, OrderCancelled, OrderImported, OrderPlaced, OrderStatusChanged
from shop.v1.orders_pb2 import (
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_CONFIRMED,
    ORDER_STATUS_DELIVERED,
    ORDER_STATUS_PENDING,
    ORDER_STATUS_SHIPPED,
    ORDER_STATUS_UNSPECIFIED,
    OrderStatus,
)
from shop.v1.process_commands_pb2 import ConfirmOrderRequest
from shop.v1.users_pb2 import USER_STATUS_DEACTIVATED

NEXT: dict[OrderStatus, OrderStatus] = {
    ORDER_STATUS_PENDING: ORDER_STATUS_CONFIRMED,
    ORDER_STATUS_CONFIRMED: ORDER_STATUS_SHIPPED,
    ORDER_STATUS_SHIPPED: ORDER_STATUS_DELIVERED,
}
"""Next status of each status."""

CANCELLABLE = (ORDER_STATUS_PENDING, ORDER_STATUS_CONFIRMED)
"""Statuses from which an order can be cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sold:
    """Part of an order in the figures, which a cancellation subtracts again."""

    order_time: Timestamp
    total: Money
    units: tuple[tuple[str, int], ...]
    """Each product with its number of pieces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderState:
    """State of an order, with the fields that decisions and other aggregates' events need."""

    customer_id: str = ""
    country: str = ""
    status: OrderStatus = ORDER_STATUS_UNSPECIFIED
    sold: Sold | None = None
    """Set while the order can be cancelled."""


order = Aggregate[OrderState]("order", initial=OrderState(), id="order_id")


def _reads(command: ImportOrderRequest | PlaceOrderRequest) -> Iterator[AggregateRef]:
    if command.customer_id:
        yield user.ref(command.customer_id)
    yield from products_of(command.items)


@order.decides(ImportOrderRequest, reads=_reads)
def import_order(state: OrderState, command: ImportOrderRequest, at: Deciding) -> Sequence[OrderImported]:
    """Record a historic order with current names."""
    if at.version:
        raise OrderExists(order_id=at.id)
    customer = _customer(command.customer_id, at) if command.customer_id else UserState()
    items, total = record_items(command.items, at)
    return [
        OrderImported(
            order_id=at.id,
            customer_id=command.customer_id,
            customer_name=customer.display_name,
            customer_email=customer.email,
            order_time=command.order_time,
            country=typed(command.country),
            items=items,
            status=command.status or ORDER_STATUS_DELIVERED,
            total=total,
            shipping_address=command.shipping_address,
            payment_method=command.payment_method,
        )
    ]


@order.decides(PlaceOrderRequest, reads=_reads)
def place_order(state: OrderState, command: PlaceOrderRequest, at: Deciding) -> Sequence[OrderPlaced]:
    """Record an order with current prices and names. The stock is not checked here."""
    if at.version:
        raise OrderExists(order_id=at.id)
    customer = _customer(command.customer_id, at)
    if customer.status == USER_STATUS_DEACTIVATED:
        raise UserDeactivated(user_id=command.customer_id)
    items, total = record_items(at_catalogue_prices(command.items, at), at)
    return [
        OrderPlaced(
            order_id=at.id,
            customer_id=command.customer_id,
            customer_name=customer.display_name,
            customer_email=customer.email,
            order_time=at.now,
            country=typed(command.country),
            items=items,
            total=total,
            shipping_address=command.shipping_address,
            payment_method=command.payment_method,
        )
    ]


@order.decides(UpdateOrderStatusRequest)
def update_status(state: OrderState, command: UpdateOrderStatusRequest, at: Deciding) -> Sequence[OrderStatusChanged]:
    """Move the order to its next status."""
    _must_exist(at)
    if command.status == state.status:
        return []
    if command.status != NEXT.get(state.status):
        raise _not_next(state, command.status, at)
    return [
        OrderStatusChanged(
            order_id=at.id,
            customer_id=state.customer_id,
            status=command.status,
            previous_status=state.status,
            reason=command.reason,
        )
    ]


@order.decides(ConfirmOrderRequest, internal=True)
def confirm(state: OrderState, command: ConfirmOrderRequest, at: Deciding) -> Sequence[OrderStatusChanged]:
    """Confirm the order, unless an operator has confirmed it."""
    _must_exist(at)
    if state.status == ORDER_STATUS_CANCELLED:
        raise _not_next(state, ORDER_STATUS_CONFIRMED, at)
    if state.status != ORDER_STATUS_PENDING:
        return []
    return [
        OrderStatusChanged(
            order_id=at.id,
            customer_id=state.customer_id,
            status=ORDER_STATUS_CONFIRMED,
            previous_status=ORDER_STATUS_PENDING,
        )
    ]


@order.decides(CancelOrderRequest)
def cancel(state: OrderState, command: CancelOrderRequest, at: Deciding) -> Sequence[OrderCancelled]:
    """Cancel the order. A repeat records nothing, and the first reason stays."""
    _must_exist(at)
    if state.status == ORDER_STATUS_CANCELLED:
        return []
    if state.sold is None:
        raise OrderNotCancellable(order_id=at.id, current_status=OrderStatus.Name(state.status))
    return [
        OrderCancelled(
            order_id=at.id,
            customer_id=state.customer_id,
            order_time=state.sold.order_time,
            country=state.country,
            items=[CancelledItem(product_id=id, quantity=units) for id, units in state.sold.units],
            total=state.sold.total,
            previous_status=state.status,
            reason=command.reason,
        )
    ]


@order.evolves(OrderImported)
def imported(state: OrderState, event: OrderImported) -> OrderState:
    """Start with the imported status."""
    return _recorded(event, event.status)


@order.evolves(OrderPlaced)
def placed(state: OrderState, event: OrderPlaced) -> OrderState:
    """Start as pending."""
    return _recorded(event, ORDER_STATUS_PENDING)


@order.evolves(OrderStatusChanged)
def status_changed(state: OrderState, event: OrderStatusChanged) -> OrderState:
    """Set the next status. From SHIPPED on the order cannot be cancelled."""
    return replace(state, status=event.status, sold=state.sold if event.status in CANCELLABLE else None)


@order.evolves(OrderCancelled)
def cancelled(state: OrderState, event: OrderCancelled) -> OrderState:
    """Set the last status."""
    return replace(state, status=ORDER_STATUS_CANCELLED, sold=None)


def _recorded(event: OrderImported | OrderPlaced, status: OrderStatus) -> OrderState:
    """Return the state of a new order. Its returns take their customer and country from it."""
    sold = None
    if status in CANCELLABLE:
        units = tuple(units_by_product(event.items).items())
        sold = Sold(order_time=event.order_time, total=event.total, units=units)
    return OrderState(customer_id=event.customer_id, country=event.country, status=status, sold=sold)


def _customer(id: str, at: Deciding) -> UserState:
    customer = at.state(user, id)
    if not customer.exists:
        raise UnknownUser(user_id=id)
    return customer


def _not_next(state: OrderState, requested: OrderStatus, at: Deciding) -> OrderStatusNotNext:
    return OrderStatusNotNext(
        order_id=at.id,
        current_status=OrderStatus.Name(state.status),
        requested_status=OrderStatus.Name(requested),
    )


def _must_exist(at: Deciding) -> None:
    if not at.version:
        raise OrderNotFound(order_id=at.id)
