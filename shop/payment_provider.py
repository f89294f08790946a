"""The `PaymentProvider` that calls the payment service (`shop.payments.v1`)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from diptych import Calling, Effect, EffectFailed
from diptych.client import open_channel
from shop.payments.v1.payments_pb2 import ChargeRequest, VoidRequest
from shop.payments.v1.payments_pb2_grpc import PaymentServiceStub
from shop.settings import ShopSettings
from shop.v1.effects_pb2 import (
    ChargePaymentRequest,
    ChargePaymentResponse,
    VoidPaymentRequest,
    VoidPaymentResponse,
)

_FOR_GOOD = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)
"""Statuses that a repeat of the same call gets again."""

_SECONDS = 10.0
"""Limit of one call, which is then repeated under the same key."""


@asynccontextmanager
async def connect_charges(settings: ShopSettings) -> AsyncIterator[Effect[ChargePaymentRequest, ChargePaymentResponse]]:
    """Open a channel for charges. A declined charge has failed and is not tried again."""
    async with _connected(settings) as provider:

        async def charge(request: ChargePaymentRequest, calling: Calling) -> ChargePaymentResponse:
            asked = ChargeRequest(
                idempotency_key=calling.key,
                reference=request.order_id,
                customer_id=request.customer_id,
                amount=request.amount,
            )
            try:
                answer = await provider.Charge(asked, timeout=_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() in _FOR_GOOD:
                    raise EffectFailed("PAYMENT_REFUSED", error.details() or "") from error
                raise
            if answer.decline_reason:
                raise EffectFailed(_reason(answer.decline_reason), answer.decline_message)
            return ChargePaymentResponse(payment_id=answer.payment_id)

        yield charge


@asynccontextmanager
async def connect_voids(settings: ShopSettings) -> AsyncIterator[Effect[VoidPaymentRequest, VoidPaymentResponse]]:
    """Open a channel for voids, so that they do not wait behind charges."""
    async with _connected(settings) as provider:

        async def void(request: VoidPaymentRequest, calling: Calling) -> VoidPaymentResponse:
            asked = VoidRequest(idempotency_key=calling.key, reference=request.order_id)
            await provider.Void(asked, timeout=_SECONDS)
            return VoidPaymentResponse()

        yield void


@asynccontextmanager
async def _connected(settings: ShopSettings) -> AsyncIterator[PaymentServiceStub]:
    assert settings.payments is not None
    async with open_channel(settings.payments) as channel:
        yield PaymentServiceStub(channel)


def _reason(word: str) -> str:
    """Return a provider's reason for declining, if it has the form of a reason."""
    return word if re.fullmatch(r"[A-Z][A-Z0-9_]{1,62}", word) else "PAYMENT_DECLINED"
