"""Fulfilment: a placed order's stock is reserved, its payment taken, and the order confirmed; or all of it is undone.

Stock is asked for at once for all items. When all of it is reserved, the payment is asked for, and when that is taken,
the order is confirmed. What goes wrong turns fulfilment back: the order is cancelled, and once it is, its stock is
released; a payment that was taken, or may have been, is voided. A customer who cancels the order, at any time before
it is shipped, turns fulfilment back as well. Stock that is reserved leaves when the order is shipped.

What to send and to call is not decided input by input: each state has its wants, and an input leads to what is wanted
then and was not before.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from google.protobuf.message import Message

from diptych import Accepted, After, Answered, Call, Deciding, Failed, Process, Refused, Send, Step, after, call, send
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
    PaymentStatus,
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
    ProcessStatus,
)

ORDER_WAS_CANCELLED = "ORDER_CANCELLED"
PAYMENT_HAD_ITS_TIME = "PAYMENT_TIMED_OUT"
"""Reasons to turn back that are nobody else's."""

_MESSAGE_CHARACTERS = 500
"""What of others' sentences is kept."""


class OrderFate(Enum):
    """What has become of the order, as far as its stock is concerned."""

    OPEN = "open"
    CANCELLED = "cancelled"
    SHIPPED = "shipped"


class Want(NamedTuple):
    """Something that a state wants done; the same want is the same output."""

    what: type[Message]
    product_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FulfilmentState:
    """How far a fulfilment has come."""

    status: ProcessStatus = PROCESS_STATUS_UNSPECIFIED
    asked: FulfilmentStarted | None = None
    """What to fulfil."""
    items: tuple[ReservationStatus, ...] = ()
    """How far the reservation of each item of `asked` has come."""
    payment: PaymentStatus = PAYMENT_STATUS_PENDING
    order: OrderFate = OrderFate.OPEN
    reason: str = ""
    """Why it turned back."""
    message: str = ""

    @property
    def wants(self) -> Iterator[Want]:
        """What is to be done in this state, in this order."""
        running = self.status == PROCESS_STATUS_RUNNING
        compensating = self.status == PROCESS_STATUS_COMPENSATING
        if self.payment == PAYMENT_STATUS_CHARGING:
            yield Want(ChargePaymentRequest)
            yield Want(PaymentTimedOut)
        if self.payment == PAYMENT_STATUS_CHARGED and running:
            yield Want(ConfirmOrderRequest)
        if self.payment == PAYMENT_STATUS_VOIDING:
            yield Want(VoidPaymentRequest)
        if compensating and self.order is OrderFate.OPEN:
            yield Want(CancelOrderRequest)
        for item, status in zip(self.asked.items if self.asked else (), self.items, strict=True):
            if status == RESERVATION_STATUS_RESERVING:
                yield Want(ReserveStockRequest, item.product_id)
            elif status == RESERVATION_STATUS_RESERVED and self.order is OrderFate.CANCELLED:
                yield Want(ReleaseStockRequest, item.product_id)
            elif status == RESERVATION_STATUS_RESERVED and self.order is OrderFate.SHIPPED and not running:
                yield Want(ShipStockRequest, item.product_id)

    @property
    def undone(self) -> bool:
        """Whether it has turned back, and nothing is left to undo."""
        return (
            self.status == PROCESS_STATUS_COMPENSATING
            and self.order is not OrderFate.OPEN
            and self.payment != PAYMENT_STATUS_VOIDING
            and RESERVATION_STATUS_RESERVING not in self.items
            and RESERVATION_STATUS_RESERVED not in self.items
        )


fulfilment = Process[FulfilmentState]("fulfilment", initial=FulfilmentState(), id="order_id")


# The order.


@fulfilment.reacts(OrderPlaced, key=lambda e: e.order_id)
def order_placed(state: FulfilmentState, event: OrderPlaced, at: Deciding) -> Step:
    """Begins, with all stock at once."""
    if state.status != PROCESS_STATUS_UNSPECIFIED:
        return []
    units = units_by_product(event.items)
    asked = FulfilmentStarted(
        order_id=event.order_id,
        customer_id=event.customer_id,
        items=[StockToReserve(product_id=id, quantity=quantity) for id, quantity in units.items()],
        amount=event.total,
        payment_method=event.payment_method,
    )
    return _step(state, asked)


@fulfilment.reacts(OrderCancelled, key=lambda e: e.order_id)
def order_cancelled(state: FulfilmentState, event: OrderCancelled, at: Deciding) -> Step:
    """Somebody has cancelled the order, or this process has. An imported order is not fulfilled."""
    if state.order is not OrderFate.OPEN or state.status == PROCESS_STATUS_UNSPECIFIED:
        return []
    cancelled = FulfilmentOrderCancelled(order_id=at.id)
    if state.status == PROCESS_STATUS_COMPENSATING:
        return _step(state, cancelled)
    return _step(state, _turned_back(ORDER_WAS_CANCELLED, "The order was cancelled.", at), cancelled)


@fulfilment.reacts(OrderStatusChanged, key=lambda e: e.order_id if e.status == ORDER_STATUS_SHIPPED else None)
def order_shipped(state: FulfilmentState, event: OrderStatusChanged, at: Deciding) -> Step:
    """The goods leave: from now on, or once it is clear that nothing else is to be done with them."""
    if state.order is not OrderFate.OPEN or state.status == PROCESS_STATUS_UNSPECIFIED:
        return []
    return _step(state, FulfilmentShipped(order_id=at.id))


@fulfilment.accepted(ConfirmOrderRequest)
def order_confirmed(state: FulfilmentState, outcome: Accepted[ConfirmOrderRequest], at: Deciding) -> Step:
    """All is done, unless it was cancelled since."""
    if state.status != PROCESS_STATUS_RUNNING:
        return []
    return _step(state, FulfilmentCompleted(order_id=at.id))


@fulfilment.refused(ConfirmOrderRequest)
def order_not_confirmed(state: FulfilmentState, outcome: Refused[ConfirmOrderRequest], at: Deciding) -> Step:
    """It was cancelled before, which this process may not have heard yet."""
    if state.status != PROCESS_STATUS_RUNNING:
        return []
    return _step(state, _turned_back(ORDER_WAS_CANCELLED, "The order was cancelled.", at))


@fulfilment.accepted(CancelOrderRequest)
def cancellation_accepted(state: FulfilmentState, outcome: Accepted[CancelOrderRequest], at: Deciding) -> Step:
    """From now on nobody can ship it, so that its stock can be released."""
    if state.order is not OrderFate.OPEN:
        return []
    return _step(state, FulfilmentOrderCancelled(order_id=at.id))


@fulfilment.refused(CancelOrderRequest)
def cancellation_refused(state: FulfilmentState, outcome: Refused[CancelOrderRequest], at: Deciding) -> Step:
    """It was shipped by hand, so that there is no stock to release."""
    if state.order is not OrderFate.OPEN:
        return []
    return _step(state, FulfilmentShipped(order_id=at.id))


# Stock.


@fulfilment.accepted(ReserveStockRequest)
def item_reserved(state: FulfilmentState, outcome: Accepted[ReserveStockRequest], at: Deciding) -> Step:
    """One item more."""
    return _step(state, FulfilmentItemReserved(order_id=at.id, product_id=outcome.command.product_id))


@fulfilment.refused(ReserveStockRequest)
def item_refused(state: FulfilmentState, outcome: Refused[ReserveStockRequest], at: Deciding) -> Step:
    """One item that is not to be had is enough to turn back."""
    refused = FulfilmentItemRefused(
        order_id=at.id, product_id=outcome.command.product_id, reason=outcome.reason, message=outcome.message
    )
    if state.status != PROCESS_STATUS_RUNNING:
        return _step(state, refused)
    return _step(state, refused, _turned_back(outcome.reason, outcome.message, at))


@fulfilment.accepted(ReleaseStockRequest)
def item_released(state: FulfilmentState, outcome: Accepted[ReleaseStockRequest], at: Deciding) -> Step:
    """One item less to undo."""
    return _step(state, FulfilmentItemReleased(order_id=at.id, product_id=outcome.command.product_id))


@fulfilment.accepted(ShipStockRequest)
def item_shipped(state: FulfilmentState, outcome: Accepted[ShipStockRequest], at: Deciding) -> Step:
    """One item has left."""
    return _step(state, FulfilmentItemShipped(order_id=at.id, product_id=outcome.command.product_id))


# The payment.


@fulfilment.answered(ChargePaymentRequest)
def payment_charged(
    state: FulfilmentState, outcome: Answered[ChargePaymentRequest, ChargePaymentResponse], at: Deciding
) -> Step:
    """Paid. An answer that comes too late changes nothing: the payment is being voided."""
    if state.payment != PAYMENT_STATUS_CHARGING:
        return []
    return _step(state, PaymentCharged(order_id=at.id, payment_id=outcome.answer.payment_id))


@fulfilment.failed(ChargePaymentRequest)
def payment_declined(state: FulfilmentState, outcome: Failed[ChargePaymentRequest], at: Deciding) -> Step:
    """Not paid, and there is nothing to void."""
    if state.payment != PAYMENT_STATUS_CHARGING:
        return []
    message = _sentence(outcome.message)
    declined = PaymentDeclined(order_id=at.id, reason=outcome.reason, message=message)
    return _step(state, declined, _turned_back(outcome.reason, message, at))


@fulfilment.times_out(PaymentTimedOut)
def payment_timed_out(state: FulfilmentState, timeout: PaymentTimedOut, at: Deciding) -> Step:
    """Whether it was taken is not known, so it is voided."""
    if state.payment != PAYMENT_STATUS_CHARGING:
        return []
    return _step(state, _turned_back(PAYMENT_HAD_ITS_TIME, "The payment was not answered in time.", at))


@fulfilment.answered(VoidPaymentRequest)
def payment_voided(
    state: FulfilmentState, outcome: Answered[VoidPaymentRequest, VoidPaymentResponse], at: Deciding
) -> Step:
    """Nothing is taken, and nothing will be."""
    return _step(state, PaymentVoided(order_id=at.id))


def _step(state: FulfilmentState, *events: Message) -> Step:
    """Records events and what follows from them, and begins what is wanted from now on."""
    before = frozenset(state.wants)
    recorded = list(events)
    for event in events:
        state = fulfilment.evolve(state, event)
    follows = _follows(state)
    if follows is not None:
        recorded.append(follows)
        state = fulfilment.evolve(state, follows)
    asked = state.asked
    assert asked is not None
    return [*recorded, *(_output(want, state, asked) for want in state.wants if want not in before)]


def _follows(state: FulfilmentState) -> PaymentRequested | FulfilmentFailed | None:
    """What is a fact as soon as the last of several things has happened."""
    assert state.asked is not None
    if _ready_to_pay(state):
        return PaymentRequested(order_id=state.asked.order_id, amount=state.asked.amount)
    if state.undone:
        return FulfilmentFailed(order_id=state.asked.order_id, reason=state.reason)
    return None


def _ready_to_pay(state: FulfilmentState) -> bool:
    return (
        state.status == PROCESS_STATUS_RUNNING
        and state.payment == PAYMENT_STATUS_PENDING
        and all(status == RESERVATION_STATUS_RESERVED for status in state.items)
    )


def _output(
    want: Want, state: FulfilmentState, asked: FulfilmentStarted
) -> (
    Send[ReserveStockRequest | ReleaseStockRequest | ShipStockRequest | ConfirmOrderRequest | CancelOrderRequest]
    | Call[ChargePaymentRequest | VoidPaymentRequest]
    | After[PaymentTimedOut]
):
    """What does that."""
    order_id = asked.order_id
    if want.what is ReserveStockRequest:
        (quantity,) = (item.quantity for item in asked.items if item.product_id == want.product_id)
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
            customer_id=asked.customer_id,
            amount=asked.amount,
            payment_method=asked.payment_method,
        )
    )


def _turned_back(reason: str, message: str, at: Deciding) -> FulfilmentTurnedBack:
    return FulfilmentTurnedBack(order_id=at.id, reason=reason, message=message)


def _sentence(text: str) -> str:
    """What somebody outside says, so that it can stand in an order's history."""
    return "".join(character for character in text if character.isprintable())[:_MESSAGE_CHARACTERS]


@fulfilment.evolves(FulfilmentStarted)
def started(state: FulfilmentState, event: FulfilmentStarted) -> FulfilmentState:
    """All items are being reserved."""
    items = (RESERVATION_STATUS_RESERVING,) * len(event.items)
    return FulfilmentState(status=PROCESS_STATUS_RUNNING, asked=event, items=items)


@fulfilment.evolves(FulfilmentItemReserved)
def reserved(state: FulfilmentState, event: FulfilmentItemReserved) -> FulfilmentState:
    """The item is reserved."""
    return _with_item(state, event.product_id, RESERVATION_STATUS_RESERVED)


@fulfilment.evolves(FulfilmentItemRefused)
def refused(state: FulfilmentState, event: FulfilmentItemRefused) -> FulfilmentState:
    """The item is not to be had."""
    return _with_item(state, event.product_id, RESERVATION_STATUS_REFUSED)


@fulfilment.evolves(FulfilmentItemReleased)
def released(state: FulfilmentState, event: FulfilmentItemReleased) -> FulfilmentState:
    """The item is back in stock."""
    return _with_item(state, event.product_id, RESERVATION_STATUS_RELEASED)


@fulfilment.evolves(FulfilmentItemShipped)
def shipped(state: FulfilmentState, event: FulfilmentItemShipped) -> FulfilmentState:
    """The item has left."""
    return _with_item(state, event.product_id, RESERVATION_STATUS_SHIPPED)


@fulfilment.evolves(PaymentRequested)
def requested(state: FulfilmentState, event: PaymentRequested) -> FulfilmentState:
    """The provider is asked."""
    return replace(state, payment=PAYMENT_STATUS_CHARGING)


@fulfilment.evolves(PaymentCharged)
def charged(state: FulfilmentState, event: PaymentCharged) -> FulfilmentState:
    """It is paid."""
    return replace(state, payment=PAYMENT_STATUS_CHARGED)


@fulfilment.evolves(PaymentDeclined)
def declined(state: FulfilmentState, event: PaymentDeclined) -> FulfilmentState:
    """It is not paid."""
    return replace(state, payment=PAYMENT_STATUS_DECLINED)


@fulfilment.evolves(PaymentVoided)
def voided(state: FulfilmentState, event: PaymentVoided) -> FulfilmentState:
    """It is not paid any more."""
    return replace(state, payment=PAYMENT_STATUS_VOIDED)


@fulfilment.evolves(FulfilmentTurnedBack)
def turned_back(state: FulfilmentState, event: FulfilmentTurnedBack) -> FulfilmentState:
    """What may have been paid is to be voided."""
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
    """What is reserved is to be released."""
    return replace(state, order=OrderFate.CANCELLED)


@fulfilment.evolves(FulfilmentShipped)
def order_left(state: FulfilmentState, event: FulfilmentShipped) -> FulfilmentState:
    """What is reserved leaves."""
    return replace(state, order=OrderFate.SHIPPED)


@fulfilment.evolves(FulfilmentCompleted)
def completed(state: FulfilmentState, event: FulfilmentCompleted) -> FulfilmentState:
    """The order is confirmed."""
    return replace(state, status=PROCESS_STATUS_COMPLETED)


@fulfilment.evolves(FulfilmentFailed)
def failed(state: FulfilmentState, event: FulfilmentFailed) -> FulfilmentState:
    """Nothing follows."""
    return replace(state, status=PROCESS_STATUS_FAILED)


def _with_item(state: FulfilmentState, product_id: str, status: ReservationStatus) -> FulfilmentState:
    assert state.asked is not None
    products = [item.product_id for item in state.asked.items]
    place = products.index(product_id)
    return replace(state, items=(*state.items[:place], status, *state.items[place + 1 :]))
