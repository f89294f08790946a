"""The engine's refusals: exactly the reasons of the contract, each with its values in metadata and message."""

import pickle
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from diptych import AlreadyExists, FailedPrecondition, NotFound, Refusal
from diptych.contract import reasons as refusals
from diptych.contract.reasons import InvalidRequest, OutcomeUnknown, Overloaded, VersionConflict
from diptych.v1.errors_pb2 import ErrorReason

CLASSES = [
    kind
    for kind in vars(refusals).values()
    if isinstance(kind, type) and issubclass(kind, Refusal) and hasattr(kind, "message")
]


class CopyOnLoan(FailedPrecondition):
    """A refusal of a domain."""

    message = "Copy {copy_id} is on loan to {member_id}."
    copy_id: str
    member_id: str


class CopyLost(CopyOnLoan):
    """One that has a field more."""

    message = "Copy {copy_id}, last seen with {member_id} {days} days ago, is lost."
    days: int


def filled(kind: type[Refusal]) -> Refusal:
    """A refusal with a value of its own in each field."""
    if kind is InvalidRequest:
        return InvalidRequest.of(("email", "must be an email"), ("items[0].quantity", "must be positive"))
    return kind(**{name: f"<{name}>" for name in kind.fields})


def details(status: status_pb2.Status, kind: type[Any]) -> Any:
    """The one detail of a kind in a status; None: there is none."""
    found = []
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            found.append(detail)
    assert len(found) <= 1
    return found[0] if found else None


def test_there_is_a_class_for_every_reason_of_the_contract_and_none_beside() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.DESCRIPTOR.values_by_name}
    assert {kind.reason for kind in CLASSES} == reasons - {"UNSPECIFIED"}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_value_in_the_metadata_is_in_the_message_too(kind: type[Refusal]) -> None:
    refusal = filled(kind)
    assert refusal.metadata or not kind.fields
    for value in refusal.metadata.values():
        assert value in str(refusal)
    # Some end with a sentence that they were given.
    assert str(refusal).endswith(".") or kind.message.endswith("}")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_refusal_becomes_a_status_and_can_be_read_back(kind: type[Refusal]) -> None:
    refusal = filled(kind)
    status = status_pb2.Status.FromString(refusal.to_status("shop.v1").SerializeToString())
    assert status.code == kind.status.value[0]
    assert status.message == str(refusal)
    info = details(status, error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason) == ("diptych.v1", kind.reason)
    assert dict(info.metadata) == refusal.metadata


def test_a_domains_refusal_has_the_domains_name() -> None:
    status = CopyOnLoan(copy_id="c1", member_id="m1").to_status("library.v1")
    info = details(status, error_details_pb2.ErrorInfo)
    assert status.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert (info.domain, info.reason) == ("library.v1", "COPY_ON_LOAN")
    assert dict(info.metadata) == {"copy_id": "c1", "member_id": "m1"}
    assert status.message == "Copy c1 is on loan to m1."


def test_fields_are_inherited() -> None:
    assert CopyLost.fields == ("copy_id", "member_id", "days")
    assert CopyLost.reason == "COPY_LOST"
    assert CopyLost(copy_id="c1", member_id="m1", days=3).metadata["days"] == "3"


@pytest.mark.parametrize("values", [{}, {"copy_id": "c1"}, {"copy_id": "c1", "member_id": "m1", "shelf": 3}])
def test_a_refusal_takes_exactly_its_fields(values: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="CopyOnLoan takes copy_id, member_id"):
        CopyOnLoan(**values)


def test_a_field_cannot_have_the_name_of_what_every_refusal_has() -> None:
    with pytest.raises(TypeError, match="CopyDamaged has a field reason"):
        type("CopyDamaged", (FailedPrecondition,), {"message": "{reason}", "__annotations__": {"reason": str}})


def test_refusals_are_equal_by_class_and_fields() -> None:
    one, same = CopyOnLoan(copy_id="c1", member_id="m1"), CopyOnLoan(copy_id="c1", member_id="m1")
    assert one == same
    assert hash(one) == hash(same)
    assert one != CopyOnLoan(copy_id="c1", member_id="m2")
    assert one != NotFound()
    assert one.telling(shelf=3) == same


def test_a_refusal_survives_a_process() -> None:
    one = VersionConflict(aggregate="copy/c1", expected_version=1, actual_version=2)
    assert pickle.loads(pickle.dumps(one)) == one


def test_what_is_told_beside_the_fields_is_in_the_metadata() -> None:
    status = NotFound.__subclasses__()[0](**dict.fromkeys(NotFound.__subclasses__()[0].fields, "x")).telling(
        retry_seconds=0.25, applied_position=7
    )
    told = status.to_status("library.v1")
    assert details(told, error_details_pb2.ErrorInfo).metadata["applied_position"] == "7"
    assert details(told, error_details_pb2.RetryInfo).retry_delay.nanos == 250_000_000


def test_an_invalid_request_tells_all_its_violations() -> None:
    rules = [(f"items[{number}].quantity", "must be positive") for number in range(12)]
    refusal = InvalidRequest.of(*rules)
    told = details(refusal.to_status("shop.v1"), error_details_pb2.BadRequest)
    assert [(violation.field, violation.description) for violation in told.field_violations] == rules
    assert refusal.metadata == {"violations": "12"}
    assert "items[9].quantity: must be positive; and 2 more." in str(refusal)


def test_an_unknown_outcome_names_the_request_id_if_there_is_one() -> None:
    assert "r1" in str(OutcomeUnknown(request_id="r1"))
    assert "no request id" in str(OutcomeUnknown(request_id=""))


def test_overload_says_when_to_retry() -> None:
    refusal = Overloaded(what="commands in the queue", limit=10_000).telling(retry_seconds=1.5)
    delay = details(refusal.to_status("shop.v1"), error_details_pb2.RetryInfo).retry_delay
    assert (delay.seconds, delay.nanos) == (1, 500_000_000)


def test_the_status_classes_are_those_of_grpc() -> None:
    assert AlreadyExists.status is grpc.StatusCode.ALREADY_EXISTS
    assert all(isinstance(kind.status, grpc.StatusCode) for kind in CLASSES)
