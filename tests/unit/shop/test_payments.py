"""The provider's ledger: money is taken once for a reference, given back once, and all of it survives a crash."""

from pathlib import Path

import pytest
from google.type.money_pb2 import Money

from shop.payments.ledger import Ledger, NotChargeable
from shop.payments.v1.payments_pb2 import (
    CHARGE_STATUS_BARRED,
    CHARGE_STATUS_CHARGED,
    CHARGE_STATUS_DECLINED,
    CHARGE_STATUS_REFUNDED,
    ChargeRequest,
    VoidRequest,
)

GBP = Money(currency_code="GBP", units=4)


def charge_request(key: str = "k1", reference: str = "o1") -> ChargeRequest:
    return ChargeRequest(idempotency_key=key, reference=reference, customer_id="ada", amount=GBP)


def voided(key: str = "v1", reference: str = "o1") -> VoidRequest:
    return VoidRequest(idempotency_key=key, reference=reference)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_a_repeat_under_the_same_key_takes_nothing_more(path: Path) -> None:
    ledger = Ledger(path)
    first = ledger.charge(charge_request(), decline=False)
    assert (first.status, first.charge_count, first.repeat_count) == (CHARGE_STATUS_CHARGED, 1, 0)
    again = ledger.charge(charge_request(), decline=True)
    assert (again.status, again.payment_id, again.charge_count, again.repeat_count) == (
        CHARGE_STATUS_CHARGED,
        first.payment_id,
        1,
        1,
    )


def test_a_payment_has_one_key(path: Path) -> None:
    ledger = Ledger(path)
    ledger.charge(charge_request(), decline=False)
    with pytest.raises(NotChargeable, match="another key"):
        ledger.charge(charge_request("k2"), decline=False)


def test_a_declined_payment_stays_declined_and_is_not_refunded(path: Path) -> None:
    ledger = Ledger(path)
    ledger.charge(charge_request(), decline=True)
    assert ledger.charge(charge_request(), decline=False).status == CHARGE_STATUS_DECLINED
    assert (ledger.void(voided()).status, ledger.void(voided()).refund_count) == (CHARGE_STATUS_DECLINED, 0)


def test_a_payment_is_refunded_once(path: Path) -> None:
    ledger = Ledger(path)
    ledger.charge(charge_request(), decline=False)
    for key, repeats in (("v1", 0), ("v1", 1), ("v2", 1)):
        charge = ledger.void(voided(key))
        assert (charge.status, charge.refund_count) == (CHARGE_STATUS_REFUNDED, 1)
        assert (charge.void_key, charge.repeat_count) == ("v1", repeats)


def test_a_payment_voided_before_its_charge_is_never_taken(path: Path) -> None:
    ledger = Ledger(path)
    assert ledger.void(voided()).status == CHARGE_STATUS_BARRED
    with pytest.raises(NotChargeable, match="voided before"):
        ledger.charge(charge_request(), decline=False)


def test_a_ledger_is_the_same_after_a_crash_in_the_middle_of_a_line(path: Path) -> None:
    ledger = Ledger(path)
    ledger.charge(charge_request(), decline=False)
    ledger.charge(charge_request("k2", "o2"), decline=True)
    ledger.void(voided())
    before = [charge.SerializeToString(deterministic=True) for charge in ledger.charges]
    with path.open("ab") as file:
        file.write(b'{"reference": "o3", "sta')
    again = Ledger(path)
    assert [charge.SerializeToString(deterministic=True) for charge in again.charges] == before
    again.charge(charge_request("k4", "o4"), decline=False)
    assert [charge.reference for charge in Ledger(path).charges] == ["o1", "o2", "o4"]
