"""The refusal classes are exactly the reasons of the contract."""

import pytest

from diptych import Refusal
from shop import refusals
from shop.v1.errors_pb2 import ErrorReason

CLASSES = [
    kind
    for kind in vars(refusals).values()
    if isinstance(kind, type) and issubclass(kind, Refusal) and kind.__module__ == refusals.__name__
]


def test_there_is_one_class_for_every_reason_of_the_contract() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.DESCRIPTOR.values_by_name} - {"UNSPECIFIED"}
    assert sorted(kind.reason for kind in CLASSES) == sorted(reasons)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_value_in_the_metadata_is_in_the_message_too(kind: type[Refusal]) -> None:
    refusal = kind(**{name: f"<{name}>" for name in kind.fields})
    assert set(refusal.metadata) == set(kind.fields)
    for value in refusal.metadata.values():
        assert value in str(refusal)
