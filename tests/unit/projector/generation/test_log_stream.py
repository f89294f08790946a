"""Log stream: the proof that a log is the one that the rows were folded from."""

from __future__ import annotations

import pytest

from diptych.contract.token import Epoch, LogIdentity
from diptych.internal.v1.log_pb2 import FollowResponse
from diptych.storage.read_store_schema import Checkpoint
from projector.generation.event_batches import StreamEndedError
from projector.generation.log_stream import LogDivergedError, check_checkpoint, check_identity


def first_frame(log_id: bytes = b"log-one1", event_id: str = "") -> FollowResponse:
    frame = FollowResponse(checkpoint_event_id=event_id)
    frame.identity.log_id = log_id
    frame.identity.epochs.add(epoch=1, first_position=1)
    return frame


def test_identity_is_returned_before_the_first_contact_and_for_the_same_log() -> None:
    identity = LogIdentity(b"log-one1", [Epoch(1, 1)])
    assert check_identity(first_frame(), None) == identity
    assert check_identity(first_frame(), identity) == identity


def test_identity_of_another_log_diverges() -> None:
    with pytest.raises(LogDivergedError, match=f"^LOG_DIVERGED: .*{b'log-one1'.hex()}.*{b'log-two2'.hex()}"):
        check_identity(first_frame(b"log-two2"), LogIdentity(b"log-one1", [Epoch(1, 1)]))


def test_frame_without_an_identity_ends_the_stream() -> None:
    with pytest.raises(StreamEndedError):
        check_identity(FollowResponse(), None)


def test_checkpoint_diverges_on_another_event_or_none() -> None:
    check_checkpoint(first_frame(), Checkpoint(0, ""), "notes")
    check_checkpoint(first_frame(event_id="e-2"), Checkpoint(2, "e-2"), "notes")
    with pytest.raises(LogDivergedError, match="read store has event e-2, and the log has event other"):
        check_checkpoint(first_frame(event_id="other"), Checkpoint(2, "e-2"), "notes")
    with pytest.raises(LogDivergedError, match="and the log has no event"):
        check_checkpoint(first_frame(), Checkpoint(2, "e-2"), "notes")
