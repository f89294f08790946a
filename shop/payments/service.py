"""Service of the provider, with the faults that a test sets."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from diptych.contract.reasons import InvalidRequest
from diptych.contract.validation import check
from shop.payments.ledger import Ledger, NotChargeable
from shop.payments.v1 import payments_pb2_grpc
from shop.payments.v1.payments_pb2 import (
    FAULT_ANSWER_LATE,
    FAULT_ANSWER_TWICE,
    FAULT_DECLINE,
    FAULT_DELAY,
    FAULT_DIE_AFTER,
    FAULT_DIE_BEFORE,
    FAULT_UNSPECIFIED,
    ChargeRequest,
    ChargeResponse,
    Fault,
    GetChargesRequest,
    GetChargesResponse,
    SetFaultRequest,
    SetFaultResponse,
    VoidRequest,
    VoidResponse,
)
from shop.payments.v1.payments_pb2 import (
    Charge as Payment,
)

Context = grpc.aio.ServicerContext[Any, Any]
M = TypeVar("M", bound=Message)


class PaymentService(payments_pb2_grpc.PaymentServiceServicer):
    """Takes and refunds payments, once under each key."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._fault = SetFaultRequest()
        self._calls_left = 0

    async def Charge(self, request: ChargeRequest, context: Context) -> ChargeResponse:  # noqa: N802
        """Take a payment."""
        await _check(request, context)
        fault = self._next_fault(voids=False)

        def charge() -> Payment:
            return self._ledger.charge(request, decline=fault == FAULT_DECLINE)

        try:
            charged = await self._done(charge, fault, context)
        except NotChargeable as refused:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(refused))
        if not charged.charge_count:
            return ChargeResponse(decline_reason="CARD_DECLINED", decline_message="The card was declined.")
        return ChargeResponse(payment_id=charged.payment_id)

    async def Void(self, request: VoidRequest, context: Context) -> VoidResponse:  # noqa: N802
        """Void a payment."""
        await _check(request, context)
        fault = self._next_fault(voids=True)
        voided = await self._done(lambda: self._ledger.void(request), fault, context)
        return VoidResponse(status=voided.status)

    async def GetCharges(self, request: GetChargesRequest, context: Context) -> GetChargesResponse:  # noqa: N802
        """Return all payments."""
        return GetChargesResponse(charges=self._ledger.charges)

    async def SetFault(self, request: SetFaultRequest, context: Context) -> SetFaultResponse:  # noqa: N802
        """Set the fault of later calls."""
        await _check(request, context)
        self._fault = request
        self._calls_left = request.calls
        return SetFaultResponse()

    def _next_fault(self, *, voids: bool) -> Fault:
        """Return the fault of the call that begins now."""
        if self._fault.voids != voids or self._fault.fault == FAULT_UNSPECIFIED:
            return FAULT_UNSPECIFIED
        if self._fault.calls:
            if not self._calls_left:
                return FAULT_UNSPECIFIED
            self._calls_left -= 1
        return self._fault.fault

    async def _done(self, do: Callable[[], Payment], fault: Fault, context: Context) -> Payment:
        """Execute a request with the fault that was set, and return its payment."""
        delay = self._fault.delay.ToTimedelta().total_seconds()
        if fault == FAULT_DIE_BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == FAULT_DELAY:
            await asyncio.sleep(delay)
        done = do()
        if fault == FAULT_DIE_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == FAULT_ANSWER_TWICE:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "The answer was lost.")
        if fault == FAULT_ANSWER_LATE:
            await asyncio.sleep(delay)
        return done


async def _check(request: Message, context: Context) -> None:
    try:
        check(request)
    except InvalidRequest as invalid:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(invalid))


async def serve(address: str, ledger: Ledger, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
    """Serve until the event is set. Call `ready` with the address of the service."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    payments_pb2_grpc.add_PaymentServiceServicer_to_server(PaymentService(ledger), server)
    port = server.add_insecure_port(address)
    await server.start()
    ready(f"{address.rpartition(':')[0]}:{port}")
    await stop.wait()
    await server.stop(1)
