"""Ledger of the provider: the requests under each key, in a file that survives the service.

The file has a line for each change, with the payment after it; the last line of each payment counts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from shop.payments.v1.payments_pb2 import (
    CHARGE_STATUS_BARRED,
    CHARGE_STATUS_CHARGED,
    CHARGE_STATUS_DECLINED,
    CHARGE_STATUS_REFUNDED,
    Charge,
    ChargeRequest,
    VoidRequest,
)


class NotChargeable(Exception):
    """A payment that can no longer be charged. The message has the cause."""


class Ledger:
    """All payments by reference, in the order of their first requests."""

    def __init__(self, path: Path) -> None:
        self._charges: dict[str, Charge] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines():
            charge = json_format.Parse(line, Charge())
            self._charges[charge.reference] = charge
        self._file = path.open("ab")
        self._file.truncate(len(whole))  # The rest of the file was being written when the service died.

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def charges(self) -> Sequence[Charge]:
        """Return all payments."""
        return list(self._charges.values())

    def charge(self, request: ChargeRequest, *, decline: bool) -> Charge:
        """Take a payment or decline it, and record it. Raise `NotChargeable` if it can no longer be charged."""
        charge = self._charges.get(request.reference)
        if charge is None:
            charge = Charge(
                reference=request.reference,
                idempotency_key=request.idempotency_key,
                customer_id=request.customer_id,
                amount=request.amount,
                status=CHARGE_STATUS_DECLINED if decline else CHARGE_STATUS_CHARGED,
                payment_id="" if decline else f"payment-{len(self._charges) + 1}",
                charge_count=0 if decline else 1,
                create_time=_now(),
            )
        elif charge.status == CHARGE_STATUS_BARRED:
            raise NotChargeable(f"Payment {request.reference} was voided before it was charged.")
        elif charge.idempotency_key != request.idempotency_key:
            raise NotChargeable(f"Payment {request.reference} was charged under another key.")
        else:
            charge.repeat_count += 1
        self._write(charge)
        return charge

    def void(self, request: VoidRequest) -> Charge:
        """Refund a payment that was taken, or bar one that was not, and record it."""
        charge = self._charges.get(request.reference)
        if charge is None:
            charge = Charge(reference=request.reference, status=CHARGE_STATUS_BARRED, create_time=_now())
        elif charge.status == CHARGE_STATUS_CHARGED:
            charge.status = CHARGE_STATUS_REFUNDED
            charge.refund_count += 1
        elif charge.void_key == request.idempotency_key:
            charge.repeat_count += 1
        charge.void_key = charge.void_key or request.idempotency_key
        self._write(charge)
        return charge

    def _write(self, charge: Charge) -> None:
        self._charges[charge.reference] = charge
        line = json_format.MessageToJson(charge, indent=None)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _now() -> Timestamp:
    time = Timestamp()
    time.GetCurrentTime()
    return time
