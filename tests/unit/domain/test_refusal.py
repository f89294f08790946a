"""Refusals: their reasons, fields, messages and statuses; equality, copies and immutability."""

import copy
import pickle
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from diptych import AlreadyExists, FailedPrecondition, NotFound, Refusal
from diptych.contract.reasons import VersionConflict
from diptych.domain.refusal import StatusCode


class CopyOnLoan(FailedPrecondition):
    """A refusal of a domain."""

    message = "Copy {copy_id} is on loan to {member_id}."
    copy_id: str
    member_id: str


class CopyLost(CopyOnLoan):
    """A refusal with one field more than its base."""

    message = "Copy {copy_id}, last lent to {member_id} {days} days ago, is lost."
    days: int


class CopyMissing(NotFound, reason="NO_SUCH_COPY"):
    """A refusal with an explicit reason and another derived from it."""

    message = "Copy {copy_id} does not exist."
    copy_id: str


def on_loan() -> CopyOnLoan:
    """Return a refusal of two fields."""
    return CopyOnLoan(copy_id="c1", member_id="m1")


def detail_of(status: status_pb2.Status, kind: type[Any]) -> Any:
    """Return the only detail of a kind in a status; None without one."""
    details = []
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            details.append(detail)
    assert len(details) <= 1
    return details[0] if details else None


def test_status_contains_the_domain_and_the_fields() -> None:
    status = on_loan().to_status("library.v1")
    info = detail_of(status, error_details_pb2.ErrorInfo)
    assert status.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert (info.domain, info.reason) == ("library.v1", "COPY_ON_LOAN")
    assert dict(info.metadata) == {"copy_id": "c1", "member_id": "m1"}
    assert status.message == "Copy c1 is on loan to m1."


def test_status_codes_are_those_of_grpc() -> None:
    assert AlreadyExists.status == grpc.StatusCode.ALREADY_EXISTS.value[0]
    numbers = {code.name: code.value[0] for code in grpc.StatusCode}
    assert {code.name: code.value for code in StatusCode}.items() <= numbers.items()


def test_reason_comes_from_the_name_of_the_class_when_none_is_given() -> None:
    assert CopyOnLoan.reason == "COPY_ON_LOAN"
    assert CopyLost.reason == "COPY_LOST"


def test_reason_is_the_given_one() -> None:
    assert CopyMissing.reason == "NO_SUCH_COPY"
    status = CopyMissing(copy_id="c1").to_status("library.v1")
    assert detail_of(status, error_details_pb2.ErrorInfo).reason == "NO_SUCH_COPY"


def test_given_reason_is_not_inherited() -> None:
    derived: type[Refusal] = type("CopyBurnt", (CopyMissing,), {})
    assert derived.reason == "COPY_BURNT"


def test_fields_are_inherited() -> None:
    assert CopyLost.fields == ("copy_id", "member_id", "days")
    assert CopyLost(copy_id="c1", member_id="m1", days=3).metadata["days"] == "3"


@pytest.mark.parametrize("values", [{}, {"copy_id": "c1"}, {"copy_id": "c1", "member_id": "m1", "shelf": 3}])
def test_constructor_takes_exactly_the_fields(values: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="CopyOnLoan takes copy_id, member_id"):
        CopyOnLoan(**values)


def test_field_cannot_have_the_name_of_an_attribute_of_every_refusal() -> None:
    with pytest.raises(TypeError, match="CopyDamaged has a field reason"):
        type("CopyDamaged", (FailedPrecondition,), {"message": "{reason}", "__annotations__": {"reason": str}})


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("Copy {copy} is damaged.", r"CopyDamaged has the placeholder {copy}, which is no field.*fields: copy_id\."),
        ("Copy {} is damaged.", r"CopyDamaged has the placeholder {}, which is no field.*fields: copy_id\."),
        ("Copy {copy_id.name} is damaged.", r"the placeholder {copy_id\.name}, which is no field"),
        ("Copy {copy_id is damaged.", r"CopyDamaged is no format string .*fields: copy_id\."),
        ("Copy {copy_id:d} is damaged.", r"CopyDamaged is no format string .*fields: copy_id\."),
        ("Copy {copy_id:{width}} is damaged.", r"CopyDamaged is no format string .*fields: copy_id\."),
        ("Copy {copy_id!x} is damaged.", r"CopyDamaged is no format string .*fields: copy_id\."),
        ("Copy {0} is damaged.", r"CopyDamaged has the placeholder \{0\}, which is no field.*fields: copy_id\."),
        ("Copy {copy_id[0]} is damaged.", r"the placeholder {copy_id\[0\]}, which is no field"),
        (("Copy", "damaged"), r"The message of CopyDamaged is a tuple; write a sentence in quotes\."),
    ],
)
def test_class_cannot_have_a_message_with_a_wrong_placeholder(message: object, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        type("CopyDamaged", (FailedPrecondition,), {"message": message, "__annotations__": {"copy_id": str}})


def test_class_cannot_have_a_status_that_is_no_error() -> None:
    with pytest.raises(TypeError, match="CopyDamaged has the status 0, which is no"):
        type("CopyDamaged", (Refusal,), {"message": "It is damaged.", "status": 0})


def test_refusal_without_a_message_or_a_status_cannot_be_made() -> None:
    with pytest.raises(TypeError, match=r"CopyDamaged has no message; .* give it a sentence"):
        type("CopyDamaged", (FailedPrecondition,), {})()
    with pytest.raises(TypeError, match="CopyDamaged has no status; derive it from a class with a status"):
        type("CopyDamaged", (Refusal,), {"message": "It is damaged."})()


def test_refusals_are_equal_by_class_and_fields() -> None:
    assert on_loan() == on_loan()
    assert hash(on_loan()) == hash(on_loan())
    assert on_loan() != CopyOnLoan(copy_id="c1", member_id="m2")
    assert on_loan() != CopyMissing(copy_id="c1")
    assert on_loan().with_details(shelf=3) == on_loan()


def test_refusal_is_equal_after_pickling() -> None:
    one = VersionConflict(aggregate="copy/c1", expected_version=1, actual_version=2).with_details(
        retry_seconds=1, head_position=7
    )
    restored = pickle.loads(pickle.dumps(one))
    assert restored == one
    assert restored.to_status("library.v1") == one.to_status("library.v1")


def test_copied_refusal_is_equal_and_has_the_same_status() -> None:
    one = on_loan().with_details(shelf=3)
    other = copy.copy(one)
    assert other == one
    assert other is not one
    assert other.to_status("library.v1") == one.to_status("library.v1")


@pytest.mark.parametrize("name", ["copy_id", "message", "reason", "shelf", "_values"])
def test_attributes_cannot_be_set_or_deleted(name: str) -> None:
    refusal = on_loan()
    with pytest.raises(AttributeError, match="CopyOnLoan is immutable"):
        setattr(refusal, name, "x")
    with pytest.raises(AttributeError, match="CopyOnLoan is immutable"):
        delattr(refusal, name)
    assert refusal == on_loan()


def test_refusal_can_be_raised_from_another_and_take_notes() -> None:
    cause = ValueError()
    with pytest.raises(CopyOnLoan) as raised:
        raise on_loan() from cause
    raised.value.add_note("on the third shelf")
    assert raised.value.__cause__ is cause
    assert raised.value.__notes__ == ["on the third shelf"]


def test_details_are_in_copies_only() -> None:
    one = on_loan()
    detailed = one.with_details(retry_seconds=0.25, applied_position=7)
    assert one.metadata == {"copy_id": "c1", "member_id": "m1"}
    assert detailed.metadata == {**one.metadata, "applied_position": "7"}
    assert type(detailed) is CopyOnLoan
    assert detailed.copy_id == "c1"


def test_details_are_in_the_status() -> None:
    refusal: Refusal = on_loan().with_details(retry_seconds=0.25).with_details(applied_position=7)
    status = refusal.to_status("library.v1")
    assert detail_of(status, error_details_pb2.ErrorInfo).metadata["applied_position"] == "7"
    assert detail_of(status, error_details_pb2.RetryInfo).retry_delay.nanos == 250_000_000
