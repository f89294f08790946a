"""The engine's refusals: exactly the reasons of the contract, each with its values in metadata and message."""

import pickle
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2

from diptych import Refusal
from diptych.contract import reasons
from diptych.contract.reasons import InvalidRequest, OutcomeUnknown, Overloaded
from diptych.domain.refusal import StatusCode
from diptych.v1.errors_pb2 import ErrorReason

CLASSES = [
    kind
    for kind in vars(reasons).values()
    if isinstance(kind, type) and issubclass(kind, Refusal) and hasattr(kind, "message")
]


def filled(kind: type[Refusal]) -> Refusal:
    """Return a refusal with a value of its own in each field."""
    if kind is InvalidRequest:
        return InvalidRequest.of(("email", "must be an email"), ("items[0].quantity", "must be positive"))
    return kind(**{name: f"<{name}>" for name in kind.fields})


def detail_of(status: status_pb2.Status, kind: type[Any]) -> Any:
    """Return the only detail of a kind in a status; None without one."""
    details = []
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            details.append(detail)
    assert len(details) <= 1
    return details[0] if details else None


def test_classes_have_exactly_the_reasons_of_the_contract() -> None:
    in_contract = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.DESCRIPTOR.values_by_name}
    assert {kind.reason for kind in CLASSES} == in_contract - {"UNSPECIFIED"}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_message_contains_every_value_of_the_metadata(kind: type[Refusal]) -> None:
    refusal = filled(kind)
    assert refusal.metadata or not kind.fields
    for value in refusal.metadata.values():
        assert value in str(refusal)
    # Some end with a sentence that is the value of a field.
    assert str(refusal).endswith(".") or kind.message.endswith("}")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_status_contains_code_message_reason_and_metadata(kind: type[Refusal]) -> None:
    refusal = filled(kind)
    status = status_pb2.Status.FromString(refusal.to_status("shop.v1").SerializeToString())
    assert status.code == kind.status
    assert status.message == str(refusal)
    info = detail_of(status, error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason) == ("diptych.v1", kind.reason)
    assert dict(info.metadata) == refusal.metadata


def test_every_class_has_a_status_code() -> None:
    assert all(isinstance(kind.status, StatusCode) for kind in CLASSES)


def test_invalid_request_contains_all_violations() -> None:
    rules = [(f"items[{number}].quantity", "must be positive") for number in range(12)]
    refusal = InvalidRequest.of(*rules)
    request = detail_of(refusal.to_status("shop.v1"), error_details_pb2.BadRequest)
    assert [(violation.field, violation.description) for violation in request.field_violations] == rules
    assert refusal.metadata == {"violations": "12"}
    assert "items[9].quantity: must be positive; and 2 more." in str(refusal)


def test_invalid_request_keeps_its_violations_when_pickled() -> None:
    refusal = InvalidRequest.of(("email", "must be an email"))
    assert pickle.loads(pickle.dumps(refusal)).to_status("shop.v1") == refusal.to_status("shop.v1")


def test_invalid_request_adds_no_full_stop_after_a_question() -> None:
    assert str(InvalidRequest.of(("event_types[0]", "Did you mean A?"))).endswith("Did you mean A?")


def test_outcome_unknown_names_the_request_id_if_there_is_one() -> None:
    assert "r1" in str(OutcomeUnknown(request_id="r1"))
    assert "no request id" in str(OutcomeUnknown(request_id=""))


def test_overloaded_has_the_delay_of_a_retry() -> None:
    refusal = Overloaded(what="commands in the queue", limit=10_000).with_details(retry_seconds=1.5)
    delay = detail_of(refusal.to_status("shop.v1"), error_details_pb2.RetryInfo).retry_delay
    assert (delay.seconds, delay.nanos) == (1, 500_000_000)
