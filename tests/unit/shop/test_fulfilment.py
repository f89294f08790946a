"""Fulfilment: each branch by itself; and every order in which it can happen, with stock that never leaks."""

from collections.abc import Iterator

import pytest
from google.protobuf.message import Message
from google.type.money_pb2 import Money

from diptych import After, Call, Send
from diptych.testing import Answer, Explored, World, ask, explore, fold, given
from shop import domain
from shop.fulfilment import fulfilment
from shop.orders import order
from shop.process_views import fulfilments, processes
from shop.products import product
from shop.refusals import FulfilmentNotFound, OrderNotCancellable, OrderStatusNotNext, StockTooLow
from shop.settings import ShopSettings
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
from shop.v1.fulfilment_queries_pb2 import GetFulfilmentRequest
from shop.v1.fulfilments_pb2 import (
    PAYMENT_STATUS_CHARGED,
    PAYMENT_STATUS_CHARGING,
    PAYMENT_STATUS_DECLINED,
    PAYMENT_STATUS_PENDING,
    PAYMENT_STATUS_VOIDED,
    PAYMENT_STATUS_VOIDING,
    PaymentStatus,
    ReservationStatus,
)
from shop.v1.order_commands_pb2 import (
    CancelOrderRequest,
    PlacedItem,
    PlaceOrderRequest,
    UpdateOrderStatusRequest,
)
from shop.v1.order_events_pb2 import OrderCancelled, OrderPlaced, OrderStatusChanged
from shop.v1.orders_pb2 import (
    ORDER_STATUS_CONFIRMED,
    ORDER_STATUS_DELIVERED,
    ORDER_STATUS_PENDING,
    ORDER_STATUS_SHIPPED,
    PAYMENT_METHOD_CARD,
    OrderItem,
    OrderStatus,
)
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
    ProcessStatus,
)
from shop.v1.product_commands_pb2 import AdjustStockRequest, CreateProductRequest
from shop.v1.user_commands_pb2 import RegisterUserRequest


def gbp(units: int) -> Money:
    return Money(currency_code="GBP", units=units)


def line(product_id: str, quantity: int) -> OrderItem:
    return OrderItem(product_id=product_id, quantity=quantity, unit_price=gbp(1), total=gbp(quantity))


placed = OrderPlaced(
    order_id="o1",
    customer_id="ada",
    items=[line("tea", 2), line("mug", 1), line("tea", 1)],
    total=gbp(4),
    payment_method=PAYMENT_METHOD_CARD,
)
cancelled = OrderCancelled(order_id="o1", previous_status=ORDER_STATUS_PENDING)
started = FulfilmentStarted(
    order_id="o1",
    customer_id="ada",
    items=[StockToReserve(product_id="tea", quantity=3), StockToReserve(product_id="mug", quantity=1)],
    amount=gbp(4),
    payment_method=PAYMENT_METHOD_CARD,
)
reserve_tea = ReserveStockRequest(product_id="tea", order_id="o1", quantity=3)
reserve_mug = ReserveStockRequest(product_id="mug", order_id="o1", quantity=1)
charge = ChargePaymentRequest(order_id="o1", customer_id="ada", amount=gbp(4), payment_method=PAYMENT_METHOD_CARD)
confirm = ConfirmOrderRequest(order_id="o1")
too_low = StockTooLow(product_id="mug", stock=0, requested=1)
confirmed_too_late = OrderStatusNotNext(
    order_id="o1", current_status="ORDER_STATUS_CANCELLED", requested_status="ORDER_STATUS_CONFIRMED"
)
shipped_by_hand = OrderNotCancellable(order_id="o1", current_status="ORDER_STATUS_SHIPPED")
LIMIT = ShopSettings().payment_limit


def reserved(product_id: str) -> FulfilmentItemReserved:
    return FulfilmentItemReserved(order_id="o1", product_id=product_id)


def item_refused(product_id: str) -> FulfilmentItemRefused:
    return FulfilmentItemRefused(order_id="o1", product_id=product_id, reason="STOCK_TOO_LOW", message=str(too_low))


def released(product_id: str) -> FulfilmentItemReleased:
    return FulfilmentItemReleased(order_id="o1", product_id=product_id)


def gone(product_id: str) -> FulfilmentItemShipped:
    return FulfilmentItemShipped(order_id="o1", product_id=product_id)


def turned_back(reason: str, message: str) -> FulfilmentTurnedBack:
    return FulfilmentTurnedBack(order_id="o1", reason=reason, message=message)


def cancel(reason: str) -> Send[CancelOrderRequest]:
    return Send(CancelOrderRequest(order_id="o1", reason=reason))


def release(product_id: str) -> Send[ReleaseStockRequest]:
    return Send(ReleaseStockRequest(product_id=product_id, order_id="o1"), compensates=True)


def ship(product_id: str) -> Send[ShipStockRequest]:
    return Send(ShipStockRequest(product_id=product_id, order_id="o1"), compensates=True)


def void(reason: str) -> Call[VoidPaymentRequest]:
    return Call(VoidPaymentRequest(order_id="o1", reason=reason), compensates=True)


def failed(reason: str) -> FulfilmentFailed:
    return FulfilmentFailed(order_id="o1", reason=reason)


def status_changed(status: OrderStatus, previous_status: OrderStatus) -> OrderStatusChanged:
    return OrderStatusChanged(order_id="o1", status=status, previous_status=previous_status)


shipped = status_changed(ORDER_STATUS_SHIPPED, ORDER_STATUS_CONFIRMED)
requested = PaymentRequested(order_id="o1", amount=gbp(4))
charged = PaymentCharged(order_id="o1", payment_id="p1")
declined = PaymentDeclined(order_id="o1", reason="CARD_DECLINED", message="No.")
voided = PaymentVoided(order_id="o1")
completed = FulfilmentCompleted(order_id="o1")
order_cancelled = FulfilmentOrderCancelled(order_id="o1")
order_shipped = FulfilmentShipped(order_id="o1")
by_customer = turned_back("ORDER_CANCELLED", "The order was cancelled.")
out_of_stock = turned_back("STOCK_TOO_LOW", str(too_low))
not_paid = turned_back("CARD_DECLINED", "No.")
silent = turned_back("PAYMENT_TIMED_OUT", "The payment was not answered in time.")

charging = (started, reserved("tea"), reserved("mug"), requested)
confirming = (*charging, charged)
done = (*confirming, completed)


# Forward.


def test_it_begins_with_all_stock_at_once() -> None:
    given(fulfilment).reacts(placed).then(started, Send(reserve_tea), Send(reserve_mug))
    given(fulfilment, started).reacts(placed).then_nothing()


def test_the_payment_is_requested_when_all_stock_is_reserved() -> None:
    given(fulfilment, started).accepted(reserve_mug).then(reserved("mug"))
    given(fulfilment, started, reserved("mug")).accepted(reserve_tea).then(
        reserved("tea"), requested, Call(charge), After(LIMIT, PaymentTimedOut(order_id="o1"))
    )


def test_a_payment_times_out_after_thirty_seconds_by_default() -> None:
    assert LIMIT.total_seconds() == 30


def test_the_order_is_confirmed_when_it_is_paid() -> None:
    answer = ChargePaymentResponse(payment_id="p1")
    given(fulfilment, *charging).answered(charge, answer).then(charged, Send(confirm))
    given(fulfilment, *confirming).accepted(confirm).then(completed)


def test_stock_leaves_when_the_order_is_shipped() -> None:
    given(fulfilment, *done).reacts(shipped).then(order_shipped, ship("tea"), ship("mug"))
    given(fulfilment, *done, order_shipped).accepted(ship("tea").command).then(gone("tea"))
    given(fulfilment, *done, order_shipped).reacts(shipped).then_nothing()


def test_other_changes_of_an_order_are_ignored() -> None:
    for status, previous in (
        (ORDER_STATUS_CONFIRMED, ORDER_STATUS_PENDING),
        (ORDER_STATUS_DELIVERED, ORDER_STATUS_SHIPPED),
    ):
        given(fulfilment, *done).reacts(status_changed(status, previous)).then_nothing()


def test_an_imported_order_is_not_fulfilled() -> None:
    given(fulfilment, id="o1").reacts(cancelled).then_nothing()
    given(fulfilment, id="o1").reacts(shipped).then_nothing()


# Stock that is not to be had.


def test_one_item_that_is_not_to_be_had_cancels_the_order() -> None:
    given(fulfilment, started, reserved("tea")).refused(reserve_mug, too_low).then(
        item_refused("mug"), out_of_stock, cancel(f"STOCK_TOO_LOW: {too_low}")
    )


def test_reserved_stock_is_released_once_the_order_is_cancelled() -> None:
    turned = (started, reserved("tea"), item_refused("mug"), out_of_stock)
    given(fulfilment, *turned).accepted(CancelOrderRequest(order_id="o1")).then(order_cancelled, release("tea"))
    given(fulfilment, *turned).reacts(cancelled).then(order_cancelled, release("tea"))
    given(fulfilment, *turned, order_cancelled).reacts(cancelled).then_nothing()
    given(fulfilment, *turned, order_cancelled).accepted(CancelOrderRequest(order_id="o1")).then_nothing()
    given(fulfilment, *turned, order_cancelled).accepted(release("tea").command).then(
        released("tea"), failed("STOCK_TOO_LOW")
    )


def test_stock_reserved_after_turning_back_is_released() -> None:
    turned = (started, item_refused("mug"), out_of_stock)
    given(fulfilment, *turned).reacts(cancelled).then(order_cancelled)  # And it has not failed yet.
    given(fulfilment, *turned).accepted(reserve_tea).then(reserved("tea"))
    given(fulfilment, *turned, reserved("tea")).reacts(cancelled).then(order_cancelled, release("tea"))
    given(fulfilment, *turned, order_cancelled).accepted(reserve_tea).then(reserved("tea"), release("tea"))


def test_stock_refused_after_turning_back_ends_the_fulfilment() -> None:
    turned = (started, item_refused("mug"), out_of_stock, order_cancelled)
    given(fulfilment, *turned).refused(reserve_tea, too_low).then(item_refused("tea"), failed("STOCK_TOO_LOW"))


# Payments that are declined, or silent.


def test_a_declined_payment_cancels_the_order_and_there_is_nothing_to_void() -> None:
    given(fulfilment, *charging).failed(charge, "CARD_DECLINED", "No.").then(
        declined, not_paid, cancel("CARD_DECLINED: No.")
    )
    turned = (*charging, declined, not_paid)
    given(fulfilment, *turned).reacts(cancelled).then(order_cancelled, release("tea"), release("mug"))
    given(fulfilment, *turned, order_cancelled, released("tea")).accepted(release("mug").command).then(
        released("mug"), failed("CARD_DECLINED")
    )


def test_a_long_message_of_the_provider_is_cut() -> None:
    said = given(fulfilment, *charging).failed(charge, "CARD_DECLINED", "\x00\nNo" + "o" * 1000)
    assert said.events[0] == PaymentDeclined(order_id="o1", reason="CARD_DECLINED", message="No" + "o" * 498)


def test_a_payment_that_is_silent_too_long_is_voided_and_the_order_cancelled() -> None:
    given(fulfilment, *charging).times_out(PaymentTimedOut(order_id="o1")).then(
        silent,
        void("PAYMENT_TIMED_OUT"),
        cancel("PAYMENT_TIMED_OUT: The payment was not answered in time."),
    )


def test_it_ends_after_void_and_release_in_any_order() -> None:
    turned = (*charging, silent)
    answer = VoidPaymentResponse()
    request = void("PAYMENT_TIMED_OUT").request
    given(fulfilment, *turned).answered(request, answer).then(voided)
    back = (order_cancelled, released("tea"), released("mug"))
    given(fulfilment, *turned, *back).answered(request, answer).then(voided, failed("PAYMENT_TIMED_OUT"))
    given(fulfilment, *turned, voided, *back[:2]).accepted(release("mug").command).then(
        released("mug"), failed("PAYMENT_TIMED_OUT")
    )


def test_an_answer_that_comes_too_late_changes_nothing() -> None:
    answer = ChargePaymentResponse(payment_id="p1")
    for history in ((*charging, silent), (*charging, silent, voided), done):
        given(fulfilment, *history).answered(charge, answer).then_nothing()
        given(fulfilment, *history).failed(charge, "CARD_DECLINED", "No.").then_nothing()


def test_a_timeout_that_comes_too_late_changes_nothing() -> None:
    for history in (confirming, done, (*charging, declined, not_paid), (*charging, silent)):
        given(fulfilment, *history).times_out(PaymentTimedOut(order_id="o1")).then_nothing()


# A customer who cancels.


def test_a_cancelled_order_gets_back_the_stock_that_it_has() -> None:
    given(fulfilment, started, reserved("tea")).reacts(cancelled).then(by_customer, order_cancelled, release("tea"))


def test_a_cancelled_order_gets_back_a_payment_that_was_taken_or_may_have_been() -> None:
    for history in (charging, confirming, done):
        given(fulfilment, *history).reacts(cancelled).then(
            by_customer, order_cancelled, void("ORDER_CANCELLED"), release("tea"), release("mug")
        )


def test_a_confirmation_that_comes_after_the_cancellation_is_void() -> None:
    given(fulfilment, *confirming).refused(confirm, confirmed_too_late).then(
        by_customer, void("ORDER_CANCELLED"), cancel("ORDER_CANCELLED: The order was cancelled.")
    )
    turned = (*confirming, by_customer, order_cancelled)
    given(fulfilment, *turned).refused(confirm, confirmed_too_late).then_nothing()
    given(fulfilment, *turned).accepted(confirm).then_nothing()


# Orders that are shipped by hand before their fulfilment is complete.


def test_an_order_that_is_shipped_by_hand_keeps_its_stock_until_it_is_clear_how_it_ends() -> None:
    given(fulfilment, *charging).reacts(shipped).then(order_shipped)
    given(fulfilment, *confirming, order_shipped).accepted(confirm).then(completed, ship("tea"), ship("mug"))


def test_an_order_that_is_shipped_by_hand_takes_its_stock_with_it_though_it_is_not_paid() -> None:
    turned = (*charging, declined, not_paid)
    for after in (
        given(fulfilment, *turned).refused(CancelOrderRequest(order_id="o1"), shipped_by_hand),
        given(fulfilment, *turned).reacts(shipped),
    ):
        after.then(order_shipped, ship("tea"), ship("mug"))
    given(fulfilment, *turned, order_shipped).refused(CancelOrderRequest(order_id="o1"), shipped_by_hand).then_nothing()
    given(fulfilment, *charging, order_shipped).failed(charge, "CARD_DECLINED", "No.").then(
        declined, not_paid, ship("tea"), ship("mug")
    )
    given(fulfilment, *turned, order_shipped, gone("tea")).accepted(ship("mug").command).then(
        gone("mug"), failed("CARD_DECLINED")
    )


# All orders of events, with the real aggregates and a model of the provider of payments.

GIVEN = (
    RegisterUserRequest(user_id="ada", email="ada@example.com"),
    CreateProductRequest(product_id="tea", price=gbp(2), stock=3),
    CreateProductRequest(product_id="mug", price=gbp(2), stock=1),
)


def charge_model(request: ChargePaymentRequest, memory: str) -> Iterator[Answer]:
    """Take a payment or decline it, unless it was voided."""
    if memory in ("barred", "refunded"):
        yield Answer(None, memory, "PAYMENT_REFUSED")
    else:
        yield Answer(ChargePaymentResponse(payment_id="p1"), "charged")
        yield Answer(None, "declined", "CARD_DECLINED")


def void_model(request: VoidPaymentRequest, memory: str) -> Iterator[Answer]:
    """Refund a payment that was taken, and bar one that was not."""
    yield Answer(VoidPaymentResponse(), {"": "barred", "charged": "refunded"}.get(memory, memory))


def stock_adds_up(world: World) -> None:
    """No piece is lost: what was there is there, reserved, or has left. Somebody may have taken out the mug."""
    for product_id, stock in (("tea", 3), ("mug", 1)):
        state = world.state(product, product_id)
        held = state.reserved_for("o1")
        assert state.stock >= 0
        left = stock - state.stock - held
        taken = 0 <= left <= (1 if product_id == "mug" else 0)
        assert taken or world.state(order, "o1").status == ORDER_STATUS_SHIPPED, (product_id, state)


def explored(*clients: Message, items: tuple[str, ...] = ("tea", "mug")) -> Explored:
    first = PlaceOrderRequest(
        order_id="o1", customer_id="ada", items=[PlacedItem(product_id=each, quantity=1) for each in items]
    )
    return explore(
        domain,
        fulfilment,
        given=GIVEN,
        first=first,
        clients=clients,
        effects={ChargePaymentRequest: charge_model, VoidPaymentRequest: void_model},
        always=stock_adds_up,
    )


def ends(explored_states: Explored) -> set[tuple[str, str, str, int]]:
    """Return the final states of fulfilment, order and payment, and the number of reserved pieces."""

    def summary(end: World) -> tuple[str, str, str, int]:
        state = end.state(fulfilment, "o1")
        held = sum(end.state(product, each).reserved_for("o1") for each in ("tea", "mug"))
        return (
            ProcessStatus.Name(state.status).removeprefix("PROCESS_STATUS_"),
            OrderStatus.Name(end.state(order, "o1").status).removeprefix("ORDER_STATUS_"),
            end.memory,
            held,
        )

    return {summary(end) for end in explored_states.ends}


NOTHING_LEFT = {("FAILED", "CANCELLED", memory, 0) for memory in ("declined", "barred", "refunded")}


def test_it_ends_with_all_or_with_nothing() -> None:
    assert ends(explored()) == {("COMPLETED", "CONFIRMED", "charged", 2), *NOTHING_LEFT}


def test_stock_is_released_when_another_order_gets_the_last_piece() -> None:
    taken = AdjustStockRequest(product_id="mug", delta=-1)
    assert ends(explored(taken)) == {
        ("COMPLETED", "CONFIRMED", "charged", 2),
        ("FAILED", "CANCELLED", "", 0),
        *NOTHING_LEFT,
    }


def test_a_customer_who_cancels_at_any_moment_wins_or_loses_but_never_half() -> None:
    explored_states = explored(CancelOrderRequest(order_id="o1", reason="changed my mind"))
    # An order that nobody cancelled may end as CONFIRMED; one that somebody did keeps neither stock nor money.
    assert ends(explored_states) == {
        ("COMPLETED", "CONFIRMED", "charged", 2),
        ("FAILED", "CANCELLED", "", 0),
        *NOTHING_LEFT,
    }
    assert any(end.state(fulfilment, "o1").reason == "ORDER_CANCELLED" for end in explored_states.ends)


def test_an_order_shipped_by_an_operator_is_neither_released_nor_cancelled() -> None:
    by_hand = [
        UpdateOrderStatusRequest(order_id="o1", status=status)
        for status in (ORDER_STATUS_CONFIRMED, ORDER_STATUS_SHIPPED)
    ]
    explored_states = explored(*by_hand, CancelOrderRequest(order_id="o1"), items=("tea",))
    assert ends(explored_states) == {
        ("COMPLETED", "CONFIRMED", "charged", 1),
        ("COMPLETED", "SHIPPED", "charged", 0),
        ("FAILED", "CANCELLED", "", 0),
        *NOTHING_LEFT,
        *{("FAILED", "SHIPPED", memory, 0) for memory in ("declined", "barred", "refunded")},
    }


def test_a_process_that_forgets_to_release_stock_would_be_found_out() -> None:
    """The exploration is worth something: a process that forgets to release is detected."""
    forgetful = fulfilment.acceptances.pop(CancelOrderRequest.DESCRIPTOR.full_name)
    hears = fulfilment.events.pop(OrderCancelled.DESCRIPTOR.full_name)
    try:
        explored_states = explored()
    finally:
        fulfilment.acceptances[CancelOrderRequest.DESCRIPTOR.full_name] = forgetful
        fulfilment.events[OrderCancelled.DESCRIPTOR.full_name] = hears
    assert ("COMPENSATING", "CANCELLED", "declined", 2) in ends(explored_states)


# The view.


def shown(*events: Message) -> tuple[ProcessStatus, list[str], PaymentStatus]:
    row = fold(fulfilments, *events)["o1"]
    items = [ReservationStatus.Name(item.status).removeprefix("RESERVATION_STATUS_") for item in row.items]
    return row.status, items, row.payment_status


@pytest.mark.parametrize(
    ("events", "status", "items", "payment"),
    [
        ((started,), PROCESS_STATUS_RUNNING, "RESERVING RESERVING", PAYMENT_STATUS_PENDING),
        (charging, PROCESS_STATUS_RUNNING, "RESERVED RESERVED", PAYMENT_STATUS_CHARGING),
        (done, PROCESS_STATUS_COMPLETED, "RESERVED RESERVED", PAYMENT_STATUS_CHARGED),
        (
            (*done, order_shipped, gone("mug")),
            PROCESS_STATUS_COMPLETED,
            "RESERVED SHIPPED",
            PAYMENT_STATUS_CHARGED,
        ),
        (
            (started, item_refused("mug"), out_of_stock),
            PROCESS_STATUS_COMPENSATING,
            "RESERVING REFUSED",
            PAYMENT_STATUS_PENDING,
        ),
        (
            (*charging, declined, not_paid, order_cancelled, released("tea")),
            PROCESS_STATUS_COMPENSATING,
            "RELEASED RESERVED",
            PAYMENT_STATUS_DECLINED,
        ),
        ((*done, by_customer), PROCESS_STATUS_COMPENSATING, "RESERVED RESERVED", PAYMENT_STATUS_VOIDING),
        (
            (*charging, silent, order_cancelled, voided, released("tea"), released("mug"), failed("PAYMENT_TIMED_OUT")),
            PROCESS_STATUS_FAILED,
            "RELEASED RELEASED",
            PAYMENT_STATUS_VOIDED,
        ),
    ],
)
def test_the_row_shows_stock_and_payment(
    events: tuple[Message, ...], status: ProcessStatus, items: str, payment: PaymentStatus
) -> None:
    assert shown(*events) == (status, items.split(), payment)


def test_the_row_has_the_cause_of_turning_back_and_the_payment() -> None:
    row = ask(processes, GetFulfilmentRequest(order_id="o1"), *done, by_customer)
    assert (row.reason, row.message) == ("ORDER_CANCELLED", "The order was cancelled.")
    assert (row.amount, row.payment_id) == (gbp(4), "p1")
    assert row.payment_update_time == row.update_time
    assert row.version == 7


def test_a_fulfilment_that_is_not_there() -> None:
    with pytest.raises(FulfilmentNotFound):
        ask(processes, GetFulfilmentRequest(order_id="o2"), started)
