"""Failures: the errors that end a follower's stream, and the events of the state machine that they are."""

from __future__ import annotations

from typing import NamedTuple

import grpc

from diptych.server.channels import CallError
from diptych.storage.errors import LeaseLostError, ReadStoreError
from projector.generation.batch_folder import FoldStoppedError
from projector.generation.event_batches import StreamEndedError
from projector.generation.log_stream import LogDivergedError
from projector.generation.state_machine import ProjectionStateMachine

_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)
"""Status codes by which the log refuses the stream. After any other the stream is opened again without a stall."""


class Failure(NamedTuple):
    """Consequences of an error that ended a stream."""

    retry: bool
    """True if the stream is to be opened again; False if an operator must act first."""
    stalled: bool = False
    """True if the projection stalls for this reason from now on."""
    lost_cause: str = ""
    """Cause of the loss, if only the stream was lost."""
    unforeseen: bool = False
    """True for an error of the program, whose trace is to be logged."""


def record_failure(machine: ProjectionStateMachine, error: Exception) -> Failure:
    """Report the error that ended a stream to the state machine, and return its consequences.

    A lost lease, a failed fold, a diverged log and an unreadable store each become a state here."""
    match error:
        case FoldStoppedError():
            return Failure(retry=False, stalled=machine.fold_failed(str(error), error.event))
        case LogDivergedError():
            return Failure(retry=False, stalled=machine.log_diverged(str(error)))
        case LeaseLostError():
            return Failure(retry=False, stalled=machine.lease_lost(f"LEASE_LOST: {error}."))
        case ReadStoreError():
            reason = f"READ_STORE_UNAVAILABLE: {error}; it is tried again."
            return Failure(retry=True, stalled=machine.store_failed(reason))
        case CallError() if error.code() in _REFUSALS:
            reason = f"LOG_REFUSED: the log will not be followed ({error.details()}); it is tried again."
            return Failure(retry=True, stalled=machine.log_refused(reason))
        case CallError():
            return Failure(retry=True, lost_cause=f"{error.code().name}: {error.details()}")
        case TimeoutError() | StreamEndedError():
            return Failure(retry=True, lost_cause=str(error))
        case _:
            reason = f"INTERNAL: {type(error).__name__} in the projector, see its log."
            return Failure(retry=False, stalled=machine.program_failed(reason), unforeseen=True)
