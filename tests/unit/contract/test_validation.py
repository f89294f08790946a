"""Validation: a refusal reports every violation of the contract, with the full path of its field."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from diptych.contract.reasons import InvalidRequest, MalformedMessage
from diptych.contract.validation import check, parse
from diptych.v1.commands_pb2 import CommandContext
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest
from shop.v1.user_commands_pb2 import RegisterUserRequest, UpdateUserProfileRequest

TEA = ImportedItem(product_id="tea", quantity=1, unit_price=Money(currency_code="GBP", units=1))


def order(*items: ImportedItem, **fields: object) -> ImportOrderRequest:
    return ImportOrderRequest(order_time=Timestamp(seconds=1_700_000_000), items=items, **fields)  # type: ignore[arg-type]


def paths(refused: pytest.ExceptionInfo[InvalidRequest]) -> list[str]:
    return [path for path, _ in refused.value.rules]


def test_valid_message_passes() -> None:
    check(order(TEA))


def test_path_leads_into_lists() -> None:
    bad = ImportedItem(product_id="tea", quantity=0, unit_price=TEA.unit_price)
    with pytest.raises(InvalidRequest) as refused:
        check(order(bad, TEA, bad))
    assert paths(refused) == ["items[0].quantity", "items[2].quantity"]


def test_path_leads_into_maps() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(UpdateUserProfileRequest(user_id="ada", preferences={'the "best"': "x" * 201}))
    assert paths(refused) == ['preferences["the \\"best\\""]']


def test_all_violations_are_reported() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(RegisterUserRequest(user_id="a b", email="nobody", first_name="x" * 201))
    assert sorted(paths(refused)) == ["email", "first_name", "user_id"]
    assert refused.value.metadata == {"violations": "3"}
    assert all(sentence for _, sentence in refused.value.rules)


def test_malformed_time_hides_no_other_violation() -> None:
    command = order(
        ImportedItem(product_id="tea", unit_price=TEA.unit_price),
        context=CommandContext(issue_time=Timestamp(nanos=-1), expected_version=-1),
    )
    with pytest.raises(InvalidRequest) as refused:
        check(command)
    assert sorted(paths(refused)) == ["context.expected_version", "context.issue_time", "items[0].quantity"]


def test_malformed_time_is_reported_once_if_a_rule_covers_it_too() -> None:
    command = order(TEA)
    command.order_time.seconds = 1 << 60
    with pytest.raises(InvalidRequest) as refused:
        check(command)
    assert paths(refused) == ["order_time"]


def test_rule_of_the_message_has_no_field() -> None:
    command = UpdateUserProfileRequest(user_id="ada")
    command.update_mask.paths.append("email")
    with pytest.raises(InvalidRequest) as refused:
        check(command)
    assert paths(refused) == [""]


def test_bytes_that_are_no_message_are_malformed() -> None:
    with pytest.raises(MalformedMessage) as refused:
        parse(RegisterUserRequest, b"\xff\xff")
    assert refused.value.type == "shop.v1.RegisterUserRequest"
    with pytest.raises(MalformedMessage):
        parse(RegisterUserRequest, b"\x1a\x01\xff")  # Not UTF-8.
