"""The request context: metadata of a call, read once, and its time limits."""

from __future__ import annotations

import pytest

from diptych.contract.reasons import InvalidRequest
from diptych.server.request_context import RequestContext
from tests.support.transport_call import TransportCallStub


def test_metadata_is_read_from_the_transport_once_and_only_when_used() -> None:
    call = TransportCallStub(
        ("diptych-token", "A"), ("diptych-request-id", "r1"), ("diptych-token", "B"), ("traceparent", "t")
    )
    context = RequestContext(call)
    assert call.metadata_reads == 0
    assert context.presented_tokens == ("A", "B")
    assert (context.request_id, context.traceparent, context.actor) == ("r1", "t", "")
    assert call.metadata_reads == 1


def test_call_without_metadata_has_empty_values() -> None:
    context = RequestContext(TransportCallStub())
    assert (context.presented_tokens, context.request_id, context.traceparent) == ((), "", "")


def test_bug_tokens_joined_by_a_comma_were_one_malformed_token() -> None:
    context = RequestContext(TransportCallStub(("diptych-token", "A, B"), ("diptych-token", "C")))
    assert context.presented_tokens == ("A", "B", "C")


@pytest.mark.parametrize("values", [("r1",), ("r1", "r1"), ("r1,r1",), ("r1, r1,",)])
def test_equal_request_ids_are_one(values: tuple[str, ...]) -> None:
    context = RequestContext(TransportCallStub(*[("diptych-request-id", value) for value in values]))
    assert context.only_request_id() == "r1"


@pytest.mark.parametrize("values", [("r1", "r2"), ("r1,r2",), ("r1", "r1,r2")])
def test_bug_of_two_request_ids_one_was_ignored(values: tuple[str, ...]) -> None:
    context = RequestContext(TransportCallStub(*[("diptych-request-id", value) for value in values]))
    with pytest.raises(InvalidRequest) as caught:
        context.only_request_id()
    assert "diptych-request-id" in str(caught.value)


@pytest.mark.parametrize(
    ("remaining", "expected"), [(None, 30.0), (100.0, 99.75), (2.0, 1.9), (0.01, 0.005), (0.001, 0.0), (-1.0, 0.0)]
)
def test_wait_leaves_time_for_the_answer(remaining: float | None, expected: float) -> None:
    assert RequestContext(TransportCallStub(seconds=remaining)).wait_seconds(30.0) == pytest.approx(expected)


def test_callback_is_called_when_the_call_has_ended() -> None:
    call, ended = TransportCallStub(), []
    RequestContext(call).on_end(lambda: ended.append(True))
    assert ended == []
    for callback in call.callbacks:
        callback(call)
    assert ended == [True]
