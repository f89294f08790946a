"""Statuses: what clients sent makes no status longer than their limit."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2, status_pb2

from diptych.contract.reasons import CommandUnknown, InvalidRequest, Overloaded
from diptych.server.status import retry_delay, shorten, to_status, trailers_of


def test_short_status_is_unchanged() -> None:
    status = InvalidRequest.of(("email", "must be an address"), ("", "too much")).to_status("shop.v1")
    copy = status_pb2.Status.FromString(status.SerializeToString())
    assert shorten(copy) == status


def test_status_of_many_violations_is_shortened_and_gives_their_number() -> None:
    refusal = InvalidRequest.of(*((f"items[{number}].quantity", "must be at least 1") for number in range(2000)))
    status = shorten(refusal.to_status("shop.v1"))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert status.ByteSize() < 4096
    assert info.metadata["violations"] == "2000"
    assert len(bad.field_violations) > 20
    assert bad.field_violations[0].field == "items[0].quantity"


@pytest.mark.parametrize("character", ["x", "é", "%", "\n", "😀"])
def test_long_input_is_shortened(character: str) -> None:
    for refusal in (
        CommandUnknown(type=character * 1_000_000),
        InvalidRequest.of((character * 1_000_000, character * 1_000_000)),
    ):
        status = shorten(refusal.to_status("shop.v1"))
        assert status.ByteSize() < 4096
        assert len(status.message.encode()) <= 1000


def test_trailers_have_the_token_and_the_status() -> None:
    status = InvalidRequest.of(("email", "must be an address")).to_status("shop.v1")
    assert trailers_of("TOKEN") == (("diptych-token", "TOKEN"),)
    assert dict(trailers_of("TOKEN", status)) == {
        "diptych-token": "TOKEN",
        "grpc-status-details-bin": status.SerializeToString(),
    }
    assert [key for key, _ in trailers_of("", status)] == ["grpc-status-details-bin"]


def test_retry_delay_is_the_one_in_the_details() -> None:
    refusal = Overloaded(what="waits", limit=1)
    assert retry_delay(trailers_of("", to_status(refusal, "d"))) == 0
    assert retry_delay(trailers_of("", to_status(refusal.with_details(retry_seconds=1.5), "d"))) == 1.5
    assert retry_delay(None) == 0
