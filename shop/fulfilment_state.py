"""State of a fulfilment, and the commands, effects and timeouts that each state wants."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from google.protobuf.message import Message

from shop.v1.effects_pb2 import ChargePaymentRequest, PaymentTimedOut, VoidPaymentRequest
from shop.v1.fulfilment_events_pb2 import FulfilmentStarted
from shop.v1.fulfilments_pb2 import (
    PAYMENT_STATUS_CHARGED,
    PAYMENT_STATUS_CHARGING,
    PAYMENT_STATUS_PENDING,
    PAYMENT_STATUS_VOIDING,
    RESERVATION_STATUS_RESERVED,
    RESERVATION_STATUS_RESERVING,
    PaymentStatus,
    ReservationStatus,
)
from shop.v1.order_commands_pb2 import CancelOrderRequest
from shop.v1.process_commands_pb2 import (
    ConfirmOrderRequest,
    ReleaseStockRequest,
    ReserveStockRequest,
    ShipStockRequest,
)
from shop.v1.processes_pb2 import (
    PROCESS_STATUS_COMPENSATING,
    PROCESS_STATUS_RUNNING,
    PROCESS_STATUS_UNSPECIFIED,
    ProcessStatus,
)


class OrderOutcome(Enum):
    """Outcome of the order, as far as its stock is concerned."""

    OPEN = "open"
    CANCELLED = "cancelled"
    SHIPPED = "shipped"


class Want(NamedTuple):
    """A command, an effect or a timeout that a state requires. The same want is the same output."""

    what: type[Message]
    product_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FulfilmentState:
    """State of a fulfilment."""

    status: ProcessStatus = PROCESS_STATUS_UNSPECIFIED
    request: FulfilmentStarted | None = None
    """Items, amount and customer of the fulfilment."""
    items: tuple[ReservationStatus, ...] = ()
    """Reservation status of each item of `request`."""
    payment: PaymentStatus = PAYMENT_STATUS_PENDING
    order: OrderOutcome = OrderOutcome.OPEN
    reason: str = ""
    """Cause of turning back."""
    message: str = ""

    @property
    def wants(self) -> Iterator[Want]:
        """Yield the wants of this state, in their order."""
        running = self.status == PROCESS_STATUS_RUNNING
        compensating = self.status == PROCESS_STATUS_COMPENSATING
        if self.payment == PAYMENT_STATUS_CHARGING:
            yield Want(ChargePaymentRequest)
            yield Want(PaymentTimedOut)
        if self.payment == PAYMENT_STATUS_CHARGED and running:
            yield Want(ConfirmOrderRequest)
        if self.payment == PAYMENT_STATUS_VOIDING:
            yield Want(VoidPaymentRequest)
        if compensating and self.order is OrderOutcome.OPEN:
            yield Want(CancelOrderRequest)
        for item, status in zip(self.request.items if self.request else (), self.items, strict=True):
            if status == RESERVATION_STATUS_RESERVING:
                yield Want(ReserveStockRequest, item.product_id)
            elif status == RESERVATION_STATUS_RESERVED and self.order is OrderOutcome.CANCELLED:
                yield Want(ReleaseStockRequest, item.product_id)
            elif status == RESERVATION_STATUS_RESERVED and self.order is OrderOutcome.SHIPPED and not running:
                yield Want(ShipStockRequest, item.product_id)

    @property
    def undone(self) -> bool:
        """True if the fulfilment has turned back and nothing is left to undo."""
        return (
            self.status == PROCESS_STATUS_COMPENSATING
            and self.order is not OrderOutcome.OPEN
            and self.payment != PAYMENT_STATUS_VOIDING
            and RESERVATION_STATUS_RESERVING not in self.items
            and RESERVATION_STATUS_RESERVED not in self.items
        )
