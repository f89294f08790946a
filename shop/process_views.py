"""Projection `processes`: the progress of each registration and each fulfilment."""

from diptych import Projection, Recorded
from shop.refusals import FulfilmentNotFound, RegistrationNotFound
from shop.registration import STEPS
from shop.resources import mark_changed
from shop.v1.fulfilment_events_pb2 import (
    FulfilmentCompleted,
    FulfilmentFailed,
    FulfilmentItemRefused,
    FulfilmentItemReleased,
    FulfilmentItemReserved,
    FulfilmentItemShipped,
    FulfilmentStarted,
    FulfilmentTurnedBack,
    PaymentCharged,
    PaymentDeclined,
    PaymentRequested,
    PaymentVoided,
)
from shop.v1.fulfilment_queries_pb2 import GetFulfilmentRequest
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
    Fulfilment,
    FulfilmentItem,
    PaymentStatus,
    ReservationStatus,
)
from shop.v1.processes_pb2 import (
    PROCESS_STATUS_COMPENSATING,
    PROCESS_STATUS_COMPLETED,
    PROCESS_STATUS_FAILED,
    PROCESS_STATUS_RUNNING,
)
from shop.v1.registration_events_pb2 import (
    RegistrationCompleted,
    RegistrationFailed,
    RegistrationStarted,
    RegistrationStepCompensated,
    RegistrationStepCompleted,
    RegistrationStepFailed,
)
from shop.v1.registration_queries_pb2 import GetRegistrationRequest
from shop.v1.registrations_pb2 import (
    STEP_STATUS_COMPENSATED,
    STEP_STATUS_COMPENSATING,
    STEP_STATUS_COMPLETED,
    STEP_STATUS_FAILED,
    STEP_STATUS_PENDING,
    STEP_STATUS_RUNNING,
    Registration,
    RegistrationStepState,
    StepStatus,
)

processes = Projection("processes", version=1)

# View `registrations`.

registrations = processes.view("registrations", Registration)
registrations.get(
    GetRegistrationRequest,
    key=lambda q: q.registration_id,
    missing=lambda q: RegistrationNotFound(registration_id=q.registration_id),
)


@registrations.on(RegistrationStarted, key=lambda e: e.registration_id)
def started(row: Registration | None, event: RegistrationStarted, at: Recorded) -> Registration:
    """Add a registration at its first step."""
    row = Registration(
        registration_id=event.registration_id,
        status=PROCESS_STATUS_RUNNING,
        steps=[RegistrationStepState(step=step, status=STEP_STATUS_PENDING) for step in STEPS],
        user_id=event.user_id,
        email=event.email,
        username=event.username,
        role=event.role,
        create_time=at.record_time,
    )
    return _at_step(row, 0, STEP_STATUS_RUNNING, at)


@registrations.on(RegistrationStepCompleted, key=lambda e: e.registration_id)
def step_completed(row: Registration | None, event: RegistrationStepCompleted, at: Recorded) -> Registration:
    """Complete a step and start the next one."""
    assert row is not None
    place = STEPS.index(event.step)
    _at_step(row, place, STEP_STATUS_COMPLETED, at)
    return row if event.step == STEPS[-1] else _at_step(row, place + 1, STEP_STATUS_RUNNING, at)


@registrations.on(RegistrationStepFailed, key=lambda e: e.registration_id)
def step_failed(row: Registration | None, event: RegistrationStepFailed, at: Recorded) -> Registration:
    """Fail a step and start to undo the one before it."""
    assert row is not None
    row.status = PROCESS_STATUS_COMPENSATING
    row.reason = event.reason
    row.message = event.message
    place = STEPS.index(event.step)
    _at_step(row, place, STEP_STATUS_FAILED, at)
    return _at_step(row, place - 1, STEP_STATUS_COMPENSATING, at) if place else row


@registrations.on(RegistrationStepCompensated, key=lambda e: e.registration_id)
def step_compensated(row: Registration | None, event: RegistrationStepCompensated, at: Recorded) -> Registration:
    """Compensate a step and start to undo the one before it."""
    assert row is not None
    place = STEPS.index(event.step)
    _at_step(row, place, STEP_STATUS_COMPENSATED, at)
    return _at_step(row, place - 1, STEP_STATUS_COMPENSATING, at) if place else row


@registrations.on(RegistrationCompleted, key=lambda e: e.registration_id)
def completed(row: Registration | None, event: RegistrationCompleted, at: Recorded) -> Registration:
    """Complete the registration."""
    assert row is not None
    row.status = PROCESS_STATUS_COMPLETED
    mark_changed(row, at)
    return row


@registrations.on(RegistrationFailed, key=lambda e: e.registration_id)
def failed(row: Registration | None, event: RegistrationFailed, at: Recorded) -> Registration:
    """Fail the registration: all steps are undone."""
    assert row is not None
    row.status = PROCESS_STATUS_FAILED
    mark_changed(row, at)
    return row


def _at_step(row: Registration, index: int, status: StepStatus, at: Recorded) -> Registration:
    step = row.steps[index]
    step.status = status
    step.update_time.CopyFrom(at.record_time)
    mark_changed(row, at)
    return row


# View `fulfilments`.

fulfilments = processes.view("fulfilments", Fulfilment)
fulfilments.get(
    GetFulfilmentRequest, key=lambda q: q.order_id, missing=lambda q: FulfilmentNotFound(order_id=q.order_id)
)


@fulfilments.on(FulfilmentStarted, key=lambda e: e.order_id)
def fulfilment_started(row: Fulfilment | None, event: FulfilmentStarted, at: Recorded) -> Fulfilment:
    """Add a fulfilment that waits for all its stock."""
    return Fulfilment(
        order_id=event.order_id,
        status=PROCESS_STATUS_RUNNING,
        items=[
            FulfilmentItem(
                product_id=item.product_id,
                quantity=item.quantity,
                status=RESERVATION_STATUS_RESERVING,
                update_time=at.record_time,
            )
            for item in event.items
        ],
        payment_status=PAYMENT_STATUS_PENDING,
        amount=event.amount,
        version=at.version,
        create_time=at.record_time,
        update_time=at.record_time,
    )


@fulfilments.on(FulfilmentItemReserved, key=lambda e: e.order_id)
def item_reserved(row: Fulfilment | None, event: FulfilmentItemReserved, at: Recorded) -> Fulfilment:
    """Set the item to reserved."""
    return _with_item(row, event.product_id, RESERVATION_STATUS_RESERVED, at)


@fulfilments.on(FulfilmentItemRefused, key=lambda e: e.order_id)
def item_refused(row: Fulfilment | None, event: FulfilmentItemRefused, at: Recorded) -> Fulfilment:
    """Set the item to refused."""
    return _with_item(row, event.product_id, RESERVATION_STATUS_REFUSED, at)


@fulfilments.on(FulfilmentItemReleased, key=lambda e: e.order_id)
def item_released(row: Fulfilment | None, event: FulfilmentItemReleased, at: Recorded) -> Fulfilment:
    """Set the item to released."""
    return _with_item(row, event.product_id, RESERVATION_STATUS_RELEASED, at)


@fulfilments.on(FulfilmentItemShipped, key=lambda e: e.order_id)
def item_shipped(row: Fulfilment | None, event: FulfilmentItemShipped, at: Recorded) -> Fulfilment:
    """Set the item to shipped."""
    return _with_item(row, event.product_id, RESERVATION_STATUS_SHIPPED, at)


@fulfilments.on(PaymentRequested, key=lambda e: e.order_id)
def payment_requested(row: Fulfilment | None, event: PaymentRequested, at: Recorded) -> Fulfilment:
    """Set the payment to requested."""
    return _with_payment(row, PAYMENT_STATUS_CHARGING, at)


@fulfilments.on(PaymentCharged, key=lambda e: e.order_id)
def payment_charged(row: Fulfilment | None, event: PaymentCharged, at: Recorded) -> Fulfilment:
    """Set the payment to taken."""
    row = _with_payment(row, PAYMENT_STATUS_CHARGED, at)
    row.payment_id = event.payment_id
    return row


@fulfilments.on(PaymentDeclined, key=lambda e: e.order_id)
def payment_declined(row: Fulfilment | None, event: PaymentDeclined, at: Recorded) -> Fulfilment:
    """Set the payment to declined."""
    return _with_payment(row, PAYMENT_STATUS_DECLINED, at)


@fulfilments.on(PaymentVoided, key=lambda e: e.order_id)
def payment_voided(row: Fulfilment | None, event: PaymentVoided, at: Recorded) -> Fulfilment:
    """Set the payment to void."""
    return _with_payment(row, PAYMENT_STATUS_VOIDED, at)


@fulfilments.on(FulfilmentTurnedBack, key=lambda e: e.order_id)
def turned_back(row: Fulfilment | None, event: FulfilmentTurnedBack, at: Recorded) -> Fulfilment:
    """Turn back, and void a payment that may have been taken."""
    assert row is not None
    row.status = PROCESS_STATUS_COMPENSATING
    row.reason = event.reason
    row.message = event.message
    if row.payment_status in (PAYMENT_STATUS_CHARGING, PAYMENT_STATUS_CHARGED):
        return _with_payment(row, PAYMENT_STATUS_VOIDING, at)
    mark_changed(row, at)
    return row


@fulfilments.on(FulfilmentCompleted, key=lambda e: e.order_id)
def fulfilment_completed(row: Fulfilment | None, event: FulfilmentCompleted, at: Recorded) -> Fulfilment:
    """Complete the fulfilment."""
    assert row is not None
    row.status = PROCESS_STATUS_COMPLETED
    mark_changed(row, at)
    return row


@fulfilments.on(FulfilmentFailed, key=lambda e: e.order_id)
def fulfilment_failed(row: Fulfilment | None, event: FulfilmentFailed, at: Recorded) -> Fulfilment:
    """Fail the fulfilment: all steps are undone."""
    assert row is not None
    row.status = PROCESS_STATUS_FAILED
    mark_changed(row, at)
    return row


def _with_item(row: Fulfilment | None, product_id: str, status: ReservationStatus, at: Recorded) -> Fulfilment:
    assert row is not None
    for item in row.items:
        if item.product_id == product_id:
            item.status = status
            item.update_time.CopyFrom(at.record_time)
    mark_changed(row, at)
    return row


def _with_payment(row: Fulfilment | None, status: PaymentStatus, at: Recorded) -> Fulfilment:
    assert row is not None
    row.payment_status = status
    row.payment_update_time.CopyFrom(at.record_time)
    mark_changed(row, at)
    return row
