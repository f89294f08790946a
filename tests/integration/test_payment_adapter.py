"""Payments through the adapter and a provider in this process: taken once, declined for good, or tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.type.money_pb2 import Money

from diptych import Calling, EffectFailed
from shop import payment_provider
from shop.payments.ledger import Ledger
from shop.payments.service import serve
from shop.payments.v1.payments_pb2 import (
    CHARGE_STATUS_BARRED,
    CHARGE_STATUS_REFUNDED,
    FAULT_ANSWER_TWICE,
    FAULT_DECLINE,
    ChargeRequest,
    ChargeResponse,
    Fault,
    SetFaultRequest,
)
from shop.payments.v1.payments_pb2_grpc import (
    PaymentServiceServicer,
    PaymentServiceStub,
    add_PaymentServiceServicer_to_server,
)
from shop.settings import ShopSettings
from shop.v1.effects_pb2 import ChargePaymentRequest, VoidPaymentRequest

CHARGE = ChargePaymentRequest(order_id="o1", customer_id="ada", amount=Money(currency_code="GBP", units=4))
VOID = VoidPaymentRequest(order_id="o1", reason="late")


def calling(key: str) -> Calling:
    return Calling(key, 1, "correlated", "")


class Provider:
    """Provider with its ledger and its address."""

    def __init__(self, ledger: Ledger, address: str) -> None:
        self.ledger = ledger
        self.settings = ShopSettings(payments=address)

    async def set_fault(self, fault: Fault) -> None:
        """Make the next call fail."""
        async with grpc.aio.insecure_channel(str(self.settings.payments)) as channel:
            await PaymentServiceStub(channel).SetFault(SetFaultRequest(fault=fault, calls=1), timeout=30)


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Provider]:
    stop = asyncio.Event()
    bound: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    ledger = Ledger(tmp_path / "ledger.jsonl")
    serving = asyncio.create_task(serve("127.0.0.1:0", ledger, stop, bound.set_result))
    yield Provider(ledger, await bound)
    stop.set()
    await serving
    ledger.close()


async def test_a_repeated_charge_is_taken_once_under_the_key_of_its_call(provider: Provider) -> None:
    async with payment_provider.connect_charges(provider.settings) as charge:
        await provider.set_fault(FAULT_ANSWER_TWICE)
        with pytest.raises(grpc.aio.AioRpcError) as lost:  # Not EffectFailed: the engine calls again.
            await charge(CHARGE, calling("k1"))
        assert lost.value.code() == grpc.StatusCode.UNAVAILABLE
        answer = await charge(CHARGE, calling("k1"))
    (payment,) = provider.ledger.charges
    assert (payment.reference, payment.customer_id, payment.amount) == ("o1", "ada", CHARGE.amount)
    assert (payment.idempotency_key, payment.charge_count, payment.repeat_count) == ("k1", 1, 1)
    assert answer.payment_id == payment.payment_id


async def test_a_declined_charge_has_failed_with_the_providers_reason(provider: Provider) -> None:
    async with payment_provider.connect_charges(provider.settings) as charge:
        await provider.set_fault(FAULT_DECLINE)
        with pytest.raises(EffectFailed, match="The card was declined") as declined:
            await charge(CHARGE, calling("k1"))
    assert declined.value.reason == "CARD_DECLINED"


async def test_a_charge_that_the_provider_refuses_is_not_tried_again(provider: Provider) -> None:
    async with payment_provider.connect_charges(provider.settings) as charge:
        await charge(CHARGE, calling("k1"))
        with pytest.raises(EffectFailed, match="another key") as refused:
            await charge(CHARGE, calling("k2"))
        with pytest.raises(EffectFailed) as invalid:
            await charge(ChargePaymentRequest(), calling("k3"))
    assert (refused.value.reason, invalid.value.reason) == ("PAYMENT_REFUSED", "PAYMENT_REFUSED")


async def test_a_void_refunds_the_payment_of_its_order_once(provider: Provider) -> None:
    async with (
        payment_provider.connect_charges(provider.settings) as charge,
        payment_provider.connect_voids(provider.settings) as void,
    ):
        await charge(CHARGE, calling("k1"))
        await provider.set_fault(FAULT_ANSWER_TWICE)
        await void(VOID, calling("v1"))
        await void(VOID, calling("v1"))
        await void(VoidPaymentRequest(order_id="o2"), calling("v2"))
    refunded, barred = provider.ledger.charges
    assert (refunded.status, refunded.void_key, refunded.refund_count) == (CHARGE_STATUS_REFUNDED, "v1", 1)
    assert refunded.repeat_count == 1
    assert (barred.reference, barred.status) == ("o2", CHARGE_STATUS_BARRED)


class Declining(PaymentServiceServicer):
    """Provider that declines every payment for one reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def Charge(self, request: ChargeRequest, context: object) -> ChargeResponse:  # noqa: N802
        """Decline the payment."""
        return ChargeResponse(decline_reason=self._reason, decline_message="No.")


@pytest.mark.parametrize(
    ("reason", "recorded"),
    [("NO_FUNDS", "NO_FUNDS"), ("no funds", "PAYMENT_DECLINED"), ("X" * 64, "PAYMENT_DECLINED")],
)
async def test_a_reason_to_decline_has_the_form_of_a_reason(reason: str, recorded: str) -> None:
    server = grpc.aio.server()
    add_PaymentServiceServicer_to_server(Declining(reason), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with payment_provider.connect_charges(ShopSettings(payments=f"127.0.0.1:{port}")) as charge:
        with pytest.raises(EffectFailed, match=r"No\.") as declined:
            await charge(CHARGE, calling("k1"))
    await server.stop(None)
    assert declined.value.reason == recorded
