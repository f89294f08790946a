"""The state diagrams of the shop's processes, drawn from the code: `python -m tests.process_diagrams` writes them into
`docs/shop-processes.md`.

They show the steps of every order of events (see `diptych.testing.explore`), with clients that cancel
and ship, another user who takes the username, a product that runs out, and effects that fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from google.type.money_pb2 import Money

from diptych.testing import Answer, Transition, diagram, explore
from shop import domain
from shop.fulfilment import fulfilment
from shop.fulfilment_state import FulfilmentState, OrderOutcome
from shop.registration import RegistrationState, registration
from shop.v1.effects_pb2 import (
    ChargePaymentRequest,
    ChargePaymentResponse,
    SendEmailRequest,
    SendEmailResponse,
    VoidPaymentRequest,
    VoidPaymentResponse,
)
from shop.v1.fulfilments_pb2 import PAYMENT_STATUS_CHARGED, PAYMENT_STATUS_CHARGING
from shop.v1.order_commands_pb2 import CancelOrderRequest, PlacedItem, PlaceOrderRequest, UpdateOrderStatusRequest
from shop.v1.orders_pb2 import ORDER_STATUS_SHIPPED
from shop.v1.processes_pb2 import (
    PROCESS_STATUS_COMPENSATING,
    PROCESS_STATUS_COMPLETED,
    PROCESS_STATUS_RUNNING,
    ProcessStatus,
)
from shop.v1.product_commands_pb2 import AdjustStockRequest, CreateProductRequest
from shop.v1.registration_commands_pb2 import StartRegistrationRequest
from shop.v1.registrations_pb2 import RegistrationStep
from shop.v1.user_commands_pb2 import RegisterUserRequest

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "shop-processes.md"


def registration_phase(state: RegistrationState) -> str:
    """Return the status, or the step that is being done or undone."""
    status = ProcessStatus.Name(state.status).removeprefix("PROCESS_STATUS_")
    step = RegistrationStep.Name(state.step).removeprefix("REGISTRATION_STEP_")
    if state.status == PROCESS_STATUS_RUNNING:
        return step
    return f"UNDO_{step}" if state.status == PROCESS_STATUS_COMPENSATING else status


def fulfilment_phase(state: FulfilmentState) -> str:
    """Return the awaited step."""
    if state.status == PROCESS_STATUS_RUNNING:
        return {PAYMENT_STATUS_CHARGING: "CHARGING", PAYMENT_STATUS_CHARGED: "CONFIRMING"}.get(
            state.payment, "RESERVING"
        )
    if state.status == PROCESS_STATUS_COMPLETED and state.order is OrderOutcome.SHIPPED:
        return "SHIPPED"
    return ProcessStatus.Name(state.status).removeprefix("PROCESS_STATUS_")


def registration_steps() -> list[Transition]:
    """Return all steps of a registration that other clients may obstruct."""

    def send(request: SendEmailRequest, memory: str) -> Iterator[Answer]:
        yield Answer(SendEmailResponse(), "sent")
        if not memory:
            yield Answer(None, memory, "RECIPIENT_REFUSED")

    rivals = [
        RegisterUserRequest(user_id="eve", email="ada@example.com"),
        RegisterUserRequest(user_id="eve", email="eve@example.com", username="ada"),
    ]
    first = StartRegistrationRequest(registration_id="r1", email="ada@example.com", username="ada")
    return explore(domain, registration, first=first, clients=rivals, effects={SendEmailRequest: send}).steps


def fulfilment_steps() -> list[Transition]:
    """Return all steps of the fulfilment of an order that may be cancelled or shipped by hand."""

    def charge(request: ChargePaymentRequest, memory: str) -> Iterator[Answer]:
        yield Answer(ChargePaymentResponse(), memory)
        yield Answer(None, memory, "CARD_DECLINED")

    def void(request: VoidPaymentRequest, memory: str) -> Iterator[Answer]:
        yield Answer(VoidPaymentResponse(), memory)

    given = [
        RegisterUserRequest(user_id="ada", email="ada@example.com"),
        CreateProductRequest(product_id="tea", price=Money(currency_code="GBP"), stock=1),
    ]
    clients = [
        CancelOrderRequest(order_id="o1"),
        AdjustStockRequest(product_id="tea", delta=-1),
        UpdateOrderStatusRequest(order_id="o1", status=ORDER_STATUS_SHIPPED),
    ]
    first = PlaceOrderRequest(order_id="o1", customer_id="ada", items=[PlacedItem(product_id="tea", quantity=1)])
    return explore(
        domain,
        fulfilment,
        given=given,
        first=first,
        clients=clients,
        effects={ChargePaymentRequest: charge, VoidPaymentRequest: void},
    ).steps


def drawn(text: str) -> str:
    """Return the document with diagrams drawn from the current code."""
    diagrams = {
        "registration": diagram(registration_steps(), registration_phase),
        "fulfilment": diagram(fulfilment_steps(), fulfilment_phase),
    }
    for name, lines in diagrams.items():
        before, place, rest = text.partition(f"<!-- {name}: drawn from the code -->\n```mermaid\n")
        assert place, f"There is no place for the diagram of {name}."
        text = f"{before}{place}{lines}{rest[rest.index('```') :]}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(drawn(DOCUMENT.read_text()))
