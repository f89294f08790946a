"""Errors of calls: the details of a status."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2, status_pb2

from diptych.client import CallRefused


def test_call_refused_has_every_detail_of_the_status() -> None:
    status = status_pb2.Status(code=8, message="Too much.")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    for detail in (
        error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="diptych.v1", metadata={"limit": "3"}),
        error_details_pb2.BadRequest(field_violations=[{"field": "items[0]", "description": "is missing"}]),
        retry,
    ):
        status.details.add().Pack(detail)
    refused = CallRefused(status, token="T")
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (refused.reason, refused.domain, refused.metadata) == ("OVERLOADED", "diptych.v1", {"limit": "3"})
    assert refused.violations == [("items[0]", "is missing")]
    assert (refused.retry_seconds, refused.token) == (1.5, "T")
    assert str(refused) == "RESOURCE_EXHAUSTED OVERLOADED: Too much."
