"""Failures: the state, the retry and the report that follow each error of a stream."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from diptych.contract.projection_state import CATCHING_UP, STALLED
from diptych.storage.errors import LeaseLostError, ReadStoreError
from diptych.v1.events_pb2 import RecordedEvent
from projector.generation.batch_folder import FoldStoppedError
from projector.generation.event_batches import StreamEndedError
from projector.generation.failures import record_failure
from projector.generation.log_stream import LogDivergedError
from projector.generation.state_machine import ProjectionStateMachine

EVENT = RecordedEvent(position=7)


def call_error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="details")


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (FoldStoppedError("PARKED_TOO_MANY: many", EVENT), "PARKED_TOO_MANY", False),
        (LogDivergedError("LOG_DIVERGED: other"), "LOG_DIVERGED", False),
        (LeaseLostError("taken"), "LEASE_LOST", False),
        (ReadStoreError("disk is full"), "READ_STORE_UNAVAILABLE", True),
        (call_error(grpc.StatusCode.FAILED_PRECONDITION), "LOG_REFUSED", True),
        (ZeroDivisionError(), "INTERNAL", False),
    ],
)
def test_failure_stalls_with_its_code(error: Exception, code: str, retry: bool) -> None:
    machine = ProjectionStateMachine(paused=False, answers=True)
    failure = record_failure(machine, error)
    assert (failure.retry, failure.stalled, failure.lost_cause) == (retry, True, "")
    assert failure.unforeseen == (code == "INTERNAL")
    assert machine.state == STALLED
    assert machine.reason.startswith(f"{code}: ")
    assert machine.stalled_event == (EVENT if code == "PARKED_TOO_MANY" else None)
    assert not record_failure(machine, error).stalled, "the same stall is not reported twice"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (call_error(grpc.StatusCode.UNAVAILABLE), "UNAVAILABLE: details"),
        (TimeoutError("the log does not answer"), "the log does not answer"),
        (StreamEndedError("the log ended the stream"), "the log ended the stream"),
    ],
)
def test_lost_stream_is_retried_without_a_stall(error: Exception, cause: str) -> None:
    machine = ProjectionStateMachine(paused=False, answers=True)
    failure = record_failure(machine, error)
    assert (failure.retry, failure.stalled, failure.lost_cause) == (True, False, cause)
    assert machine.state == CATCHING_UP
