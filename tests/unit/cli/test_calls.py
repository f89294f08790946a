"""Sentences on failed calls."""

from __future__ import annotations

from google.rpc import status_pb2

from diptych.cli.calls import describe_failure
from diptych.client import CallRefused


def test_describe_failure_says_that_the_server_did_not_answer_when_grpc_made_the_error() -> None:
    unavailable = CallRefused(status_pb2.Status(code=14, message="connection refused"))
    assert describe_failure("query server at 127.0.0.1:1", unavailable) == (
        "the query server at 127.0.0.1:1 did not answer: UNAVAILABLE: connection refused"
    )
