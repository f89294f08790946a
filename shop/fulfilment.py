"""Fulfilment of a placed order: reserve its stock, take its payment and confirm it, or undo all of that.

1. All items request their stock at once.
2. When all stock is reserved, the payment is requested.
3. When the payment is taken, the order is confirmed.
4. A failed step turns the fulfilment back: the order is cancelled, then its stock is released. A payment that was or
   may have been taken is voided. A customer who cancels the order before it is shipped turns the fulfilment back too.
5. Reserved stock is shipped with the order.

The outputs are not decided input by input. Each state has its wants (`fulfilment_state`), and an input leads to the
wants of the new state that the old state did not have.
"""

from dataclasses import replace

from google.protobuf.message import Message

from diptych import Accepted, After, Answered, Call, Deciding, Failed, Process, Refused, Send, Step, after, call, send
from shop.fulfilment_state import FulfilmentState, OrderOutcome, Want
from shop.items import units_by_product
from shop.settings import settings
from shop.v1.effects_pb2 import (
    ChargePaymentRequest,
    ChargePaymentResponse,
    PaymentTimedOut,
    VoidPaymentRequest,
    VoidPaymentResponse,
)
from shop.v1.fulfilment_events_pb2 import (
    FulfilmentCompleted,
    FulfilmentFailed,
    FulfilmentItemRefused,
    FulfilmentItemReleased,
    FulfilmentItemReserved,
    FulfilmentItemShipped,
    FulfilmentOrderCancelled,
    FulfilmentShipped,
    FulfilmentStarted,
    FulfilmentTurnedBack,
    PaymentCharged,
    PaymentDeclined,
    PaymentRequested,
    PaymentVoided,
    StockToReserve,
)
from shop.v1.fulfilments_pb2 import (
    PAYMENT_STATUS_CHARGED,
    PAYMENT_STATUS_CHARGING,
    PAYMENT_STATUS_DECLINED,
    PAYMENT_STATUS_PENDING,
    PAYMENT_STATUS_VOIDED,
    PAYMENT_STATUS_VOIDING,
    RESERVATION_STATUS_REFUSED,
    RESERVATION_STATUS_RELEASED,
    RESERVATION_STATUS_RESERVED,
    RESERVATION_STATUS_RESERVING,
    RESERVATION_STATUS_SHIPPED,
    ReservationStatus,
)
from shop.v1.order_commands_pb2 import CancelOrderRequest
from shop.v1.order_events_pb2 import OrderCancelled, OrderPlaced, OrderStatusChanged
from shop.v1.orders_pb2 import ORDER_STATUS_SHIPPED
from shop.v1.process_commands_pb2 import (
    ConfirmOrderRequest,
    ReleaseStockRequest,
    ReserveStockRequest,
    ShipStockRequest,
)
from shop.v1.processes_pb2 import (
    PROCESS_STATUS_COMPENSATING,
    PROCESS_STATUS_COMPLETED,
    PROCESS_STATUS_FAILED,
    PROCESS_STATUS_RUNNING,
    PROCESS_STATUS_UNSPECIFIED,
)

ORDER_CANCELLED_REASON = "ORDER_CANCELLED"
PAYMENT_TIMED_OUT_REASON = "PAYMENT_TIMED_OUT"
"""Reasons for turning back that only the fulfilment has."""

_MESSAGE_CHARACTERS = 500
"""Length to which sentences of other systems are cut."""


fulfilment = Process[FulfilmentState]("fulfilment", initial=FulfilmentState(), id="order_id")


# Inputs about the order.


@fulfilment.reacts(OrderPlaced, key=lambda e: e.order_id)
def order_placed(state: FulfilmentState, event: OrderPlaced, at: Deciding) -> Step:
    """Start the fulfilment with all stock at once."""
    if state.status != PROCESS_STATUS_UNSPECIFIED:
        return []
    units = units_by_product(event.items)
    request = FulfilmentStarted(
        order_id=event.order_id,
        customer_id=event.customer_id,
        items=[StockToReserve(product_id=id, quantity=quantity) for id, quantity in units.items()],
        amount=event.total,
        payment_method=event.payment_method,
    )
    return _step(state, request)


@fulfilment.reacts(OrderCancelled, key=lambda e: e.order_id)
def order_cancelled(state: FulfilmentState, event: OrderCancelled, at: Deciding) -> Step:
    """Turn back after a cancellation, by a caller or by this process. An imported order has no fulfilment."""
    if state.order is not OrderOutcome.OPEN or state.status == PROCESS_STATUS_UNSPECIFIED:
        return []
    cancelled = FulfilmentOrderCancelled(order_id=at.id)
    if state.status == PROCESS_STATUS_COMPENSATING:
        return _step(state, cancelled)
    return _step(state, _turned_back(ORDER_CANCELLED_REASON, "The order was cancelled.", at), cancelled)


@fulfilment.reacts(OrderStatusChanged, key=lambda e: e.order_id if e.status == ORDER_STATUS_SHIPPED else None)
def order_shipped(state: FulfilmentState, event: OrderStatusChanged, at: Deciding) -> Step:
    """Ship the stock now, or once no other step needs it."""
    if state.order is not OrderOutcome.OPEN or state.status == PROCESS_STATUS_UNSPECIFIED:
        return []
    return _step(state, FulfilmentShipped(order_id=at.id))


@fulfilment.accepted(ConfirmOrderRequest)
def order_confirmed(state: FulfilmentState, outcome: Accepted[ConfirmOrderRequest], at: Deciding) -> Step:
    """Complete the fulfilment, unless the order was cancelled since."""
    if state.status != PROCESS_STATUS_RUNNING:
        return []
    return _step(state, FulfilmentCompleted(order_id=at.id))


@fulfilment.refused(ConfirmOrderRequest)
def order_not_confirmed(state: FulfilmentState, outcome: Refused[ConfirmOrderRequest], at: Deciding) -> Step:
    """Ignore a refusal: the order was cancelled, and the event may not have reached this process yet."""
    if state.status != PROCESS_STATUS_RUNNING:
        return []
    return _step(state, _turned_back(ORDER_CANCELLED_REASON, "The order was cancelled.", at))


@fulfilment.accepted(CancelOrderRequest)
def cancellation_accepted(state: FulfilmentState, outcome: Accepted[CancelOrderRequest], at: Deciding) -> Step:
    """Release the stock: no operator can ship the order any more."""
    if state.order is not OrderOutcome.OPEN:
        return []
    return _step(state, FulfilmentOrderCancelled(order_id=at.id))


@fulfilment.refused(CancelOrderRequest)
def cancellation_refused(state: FulfilmentState, outcome: Refused[CancelOrderRequest], at: Deciding) -> Step:
    """Release no stock: an operator has shipped the order."""
    if state.order is not OrderOutcome.OPEN:
        return []
    return _step(state, FulfilmentShipped(order_id=at.id))


# Inputs about stock.


@fulfilment.accepted(ReserveStockRequest)
def item_reserved(state: FulfilmentState, outcome: Accepted[ReserveStockRequest], at: Deciding) -> Step:
    """Count one more reserved item."""
    return _step(state, FulfilmentItemReserved(order_id=at.id, product_id=outcome.command.product_id))


@fulfilment.refused(ReserveStockRequest)
def item_refused(state: FulfilmentState, outcome: Refused[ReserveStockRequest], at: Deciding) -> Step:
    """Turn back: one missing item is enough."""
    refused = FulfilmentItemRefused(
        order_id=at.id, product_id=outcome.command.product_id, reason=outcome.reason, message=outcome.message
    )
    if state.status != PROCESS_STATUS_RUNNING:
        return _step(state, refused)
    return _step(state, refused, _turned_back(outcome.reason, outcome.message, at))


@fulfilment.accepted(ReleaseStockRequest)
def item_released(state: FulfilmentState, outcome: Accepted[ReleaseStockRequest], at: Deciding) -> Step:
    """Count one item less to undo."""
    return _step(state, FulfilmentItemReleased(order_id=at.id, product_id=outcome.command.product_id))


@fulfilment.accepted(ShipStockRequest)
def item_shipped(state: FulfilmentState, outcome: Accepted[ShipStockRequest], at: Deciding) -> Step:
    """Count one shipped item."""
    return _step(state, FulfilmentItemShipped(order_id=at.id, product_id=outcome.command.product_id))


# Inputs about the payment.


@fulfilment.answered(ChargePaymentRequest)
def payment_charged(
    state: FulfilmentState, outcome: Answered[ChargePaymentRequest, ChargePaymentResponse], at: Deciding
) -> Step:
    """Record the payment. A late answer changes nothing, because the payment is being voided."""
    if state.payment != PAYMENT_STATUS_CHARGING:
        return []
    return _step(state, PaymentCharged(order_id=at.id, payment_id=outcome.answer.payment_id))


@fulfilment.failed(ChargePaymentRequest)
def payment_declined(state: FulfilmentState, outcome: Failed[ChargePaymentRequest], at: Deciding) -> Step:
    """Turn back. There is no payment to void."""
    if state.payment != PAYMENT_STATUS_CHARGING:
        return []
    message = _sentence(outcome.message)
    declined = PaymentDeclined(order_id=at.id, reason=outcome.reason, message=message)
    return _step(state, declined, _turned_back(outcome.reason, message, at))


@fulfilment.times_out(PaymentTimedOut)
def payment_timed_out(state: FulfilmentState, timeout: PaymentTimedOut, at: Deciding) -> Step:
    """Undo the fulfilment and void the payment, which may have been taken."""
    if state.payment != PAYMENT_STATUS_CHARGING:
        return []
    return _step(state, _turned_back(PAYMENT_TIMED_OUT_REASON, "The payment was not answered in time.", at))


@fulfilment.answered(VoidPaymentRequest)
def payment_voided(
    state: FulfilmentState, outcome: Answered[VoidPaymentRequest, VoidPaymentResponse], at: Deciding
) -> Step:
    """Record that the payment is void."""
    return _step(state, PaymentVoided(order_id=at.id))


def _step(state: FulfilmentState, *events: Message) -> Step:
    """Record events and the facts that follow from them, and return the outputs of all new wants."""
    before = frozenset(state.wants)
    recorded = list(events)
    for event in events:
        state = fulfilment.evolve(state, event)
    follows = _follows(state)
    if follows is not None:
        recorded.append(follows)
        state = fulfilment.evolve(state, follows)
    request = state.request
    assert request is not None
    return [*recorded, *(_output(want, state, request) for want in state.wants if want not in before)]


def _follows(state: FulfilmentState) -> PaymentRequested | FulfilmentFailed | None:
    """Return the fact that follows when the last of several conditions is met; None if none does."""
    assert state.request is not None
    if _ready_to_pay(state):
        return PaymentRequested(order_id=state.request.order_id, amount=state.request.amount)
    if state.undone:
        return FulfilmentFailed(order_id=state.request.order_id, reason=state.reason)
    return None


def _ready_to_pay(state: FulfilmentState) -> bool:
    return (
        state.status == PROCESS_STATUS_RUNNING
        and state.payment == PAYMENT_STATUS_PENDING
        and all(status == RESERVATION_STATUS_RESERVED for status in state.items)
    )


def _output(
    want: Want, state: FulfilmentState, request: FulfilmentStarted
) -> (
    Send[ReserveStockRequest | ReleaseStockRequest | ShipStockRequest | ConfirmOrderRequest | CancelOrderRequest]
    | Call[ChargePaymentRequest | VoidPaymentRequest]
    | After[PaymentTimedOut]
):
    """Return the output of a want."""
    order_id = request.order_id
    if want.what is ReserveStockRequest:
        (quantity,) = (item.quantity for item in request.items if item.product_id == want.product_id)
        return send(ReserveStockRequest(product_id=want.product_id, order_id=order_id, quantity=quantity))
    if want.what is ReleaseStockRequest:
        return send(ReleaseStockRequest(product_id=want.product_id, order_id=order_id), compensates=True)
    if want.what is ShipStockRequest:
        return send(ShipStockRequest(product_id=want.product_id, order_id=order_id), compensates=True)
    if want.what is ConfirmOrderRequest:
        return send(ConfirmOrderRequest(order_id=order_id))
    if want.what is CancelOrderRequest:
        return send(CancelOrderRequest(order_id=order_id, reason=f"{state.reason}: {state.message}"))
    if want.what is VoidPaymentRequest:
        return call(VoidPaymentRequest(order_id=order_id, reason=state.reason), compensates=True)
    if want.what is PaymentTimedOut:
        return after(settings().payment_limit, PaymentTimedOut(order_id=order_id))
    return call(
        ChargePaymentRequest(
            order_id=order_id,
            customer_id=request.customer_id,
            amount=request.amount,
            payment_method=request.payment_method,
        )
    )


def _turned_back(reason: str, message: str, at: Deciding) -> FulfilmentTurnedBack:
    return FulfilmentTurnedBack(order_id=at.id, reason=reason, message=message)


def _sentence(text: str) -> str:
    """Return a sentence of another system, cut for an order's history."""
    return "".join(character for character in text if character.isprintable())[:_MESSAGE_CHARACTERS]


@fulfilment.evolves(FulfilmentStarted)
def started(state: FulfilmentState, event: FulfilmentStarted) -> FulfilmentState:
    """Request all items."""
    items = (RESERVATION_STATUS_RESERVING,) * len(event.items)
    return FulfilmentState(status=PROCESS_STATUS_RUNNING, request=event, items=items)


@fulfilment.evolves(FulfilmentItemReserved)
def reserved(state: FulfilmentState, event: FulfilmentItemReserved) -> FulfilmentState:
    """Set the item to reserved."""
    return _with_item(state, event.product_id, RESERVATION_STATUS_RESERVED)


@fulfilment.evolves(FulfilmentItemRefused)
def refused(state: FulfilmentState, event: FulfilmentItemRefused) -> FulfilmentState:
    """Set the item to refused."""
    return _with_item(state, event.product_id, RESERVATION_STATUS_REFUSED)


@fulfilment.evolves(FulfilmentItemReleased)
def released(state: FulfilmentState, event: FulfilmentItemReleased) -> FulfilmentState:
    """Set the item to released."""
    return _with_item(state, event.product_id, RESERVATION_STATUS_RELEASED)


@fulfilment.evolves(FulfilmentItemShipped)
def shipped(state: FulfilmentState, event: FulfilmentItemShipped) -> FulfilmentState:
    """Set the item to shipped."""
    return _with_item(state, event.product_id, RESERVATION_STATUS_SHIPPED)


@fulfilment.evolves(PaymentRequested)
def requested(state: FulfilmentState, event: PaymentRequested) -> FulfilmentState:
    """Set the payment to requested."""
    return replace(state, payment=PAYMENT_STATUS_CHARGING)


@fulfilment.evolves(PaymentCharged)
def charged(state: FulfilmentState, event: PaymentCharged) -> FulfilmentState:
    """Set the payment to taken."""
    return replace(state, payment=PAYMENT_STATUS_CHARGED)


@fulfilment.evolves(PaymentDeclined)
def declined(state: FulfilmentState, event: PaymentDeclined) -> FulfilmentState:
    """Set the payment to declined."""
    return replace(state, payment=PAYMENT_STATUS_DECLINED)


@fulfilment.evolves(PaymentVoided)
def voided(state: FulfilmentState, event: PaymentVoided) -> FulfilmentState:
    """Set the payment to void."""
    return replace(state, payment=PAYMENT_STATUS_VOIDED)


@fulfilment.evolves(FulfilmentTurnedBack)
def turned_back(state: FulfilmentState, event: FulfilmentTurnedBack) -> FulfilmentState:
    """Turn back, and void a payment that may have been taken."""
    paid = state.payment in (PAYMENT_STATUS_CHARGING, PAYMENT_STATUS_CHARGED)
    return replace(
        state,
        status=PROCESS_STATUS_COMPENSATING,
        payment=PAYMENT_STATUS_VOIDING if paid else state.payment,
        reason=event.reason,
        message=event.message,
    )


@fulfilment.evolves(FulfilmentOrderCancelled)
def cancelled(state: FulfilmentState, event: FulfilmentOrderCancelled) -> FulfilmentState:
    """Release reserved items."""
    return replace(state, order=OrderOutcome.CANCELLED)


@fulfilment.evolves(FulfilmentShipped)
def order_left(state: FulfilmentState, event: FulfilmentShipped) -> FulfilmentState:
    """Ship reserved items."""
    return replace(state, order=OrderOutcome.SHIPPED)


@fulfilment.evolves(FulfilmentCompleted)
def completed(state: FulfilmentState, event: FulfilmentCompleted) -> FulfilmentState:
    """Set the fulfilment to completed."""
    return replace(state, status=PROCESS_STATUS_COMPLETED)


@fulfilment.evolves(FulfilmentFailed)
def failed(state: FulfilmentState, event: FulfilmentFailed) -> FulfilmentState:
    """Set the fulfilment to failed."""
    return replace(state, status=PROCESS_STATUS_FAILED)


def _with_item(state: FulfilmentState, product_id: str, status: ReservationStatus) -> FulfilmentState:
    assert state.request is not None
    products = [item.product_id for item in state.request.items]
    place = products.index(product_id)
    return replace(state, items=(*state.items[:place], status, *state.items[place + 1 :]))
