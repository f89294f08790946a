"""Ports: the adapters for the effects of the shop's processes. An adapter is imported when its port is connected, so
that a program that only folds or reads the domain does not import it."""

from contextlib import AbstractAsyncContextManager
from datetime import timedelta

from diptych import Effect, Port
from shop.settings import settings
from shop.v1.effects_pb2 import (
    ChargePaymentRequest,
    ChargePaymentResponse,
    SendEmailRequest,
    SendEmailResponse,
    VoidPaymentRequest,
    VoidPaymentResponse,
)


def _connect_email() -> AbstractAsyncContextManager[Effect[SendEmailRequest, SendEmailResponse]]:
    if settings().smtp_url is not None:
        from shop.email_smtp import connect
    else:
        from shop.email_maildir import connect
    return connect(settings())


def _connect_charges() -> AbstractAsyncContextManager[Effect[ChargePaymentRequest, ChargePaymentResponse]]:
    if settings().payments is not None:
        from shop.payment_provider import connect_charges
    else:
        from shop.payment_local import connect_charges
    return connect_charges(settings())


def _connect_voids() -> AbstractAsyncContextManager[Effect[VoidPaymentRequest, VoidPaymentResponse]]:
    if settings().payments is not None:
        from shop.payment_provider import connect_voids
    else:
        from shop.payment_local import connect_voids
    return connect_voids(settings())


email_sender = Port(SendEmailRequest, SendEmailResponse, _connect_email, timeout=timedelta(seconds=60))
charges = Port(ChargePaymentRequest, ChargePaymentResponse, _connect_charges)
voids = Port(VoidPaymentRequest, VoidPaymentResponse, _connect_voids)
