"""The default `PaymentProvider`: accepts every payment without a provider, so that the shop runs by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from diptych import Calling, Effect
from shop.settings import ShopSettings
from shop.v1.effects_pb2 import (
    ChargePaymentRequest,
    ChargePaymentResponse,
    VoidPaymentRequest,
    VoidPaymentResponse,
)


@asynccontextmanager
async def connect_charges(settings: ShopSettings) -> AsyncIterator[Effect[ChargePaymentRequest, ChargePaymentResponse]]:
    """Yield the effect; there is nothing to open."""
    yield _charge


@asynccontextmanager
async def connect_voids(settings: ShopSettings) -> AsyncIterator[Effect[VoidPaymentRequest, VoidPaymentResponse]]:
    """Yield the effect; there is nothing to open."""
    yield _void


async def _charge(request: ChargePaymentRequest, calling: Calling) -> ChargePaymentResponse:
    return ChargePaymentResponse(payment_id=f"local-{request.order_id}")


async def _void(request: VoidPaymentRequest, calling: Calling) -> VoidPaymentResponse:
    return VoidPaymentResponse()
