"""Log stream: a projection's events from the command server, and the proof that the log is the right one."""

from __future__ import annotations

import asyncio

from diptych.contract.identity_codec import identity_from_message
from diptych.contract.token import LogIdentity
from diptych.domain.projection import Projection
from diptych.internal.v1 import log_pb2, log_pb2_grpc
from diptych.server.channels import Channel
from diptych.storage.read_store_schema import Checkpoint
from projector.generation.event_batches import StreamEndedError

FRAME_SECONDS = 5.0
"""Seconds to wait for the first frame of a stream, which the log sends at once."""

DIVERGED = "LOG_DIVERGED"
"""Code of a stall on another log than the rows were folded from."""


class LogDivergedError(Exception):
    """The log does not have the events that the rows were folded from."""


class LogStream:
    """Stream of a projection's events after a position."""

    def __init__(self, channel: Channel, projection: Projection, position: int) -> None:
        """Call the command server. Errors of the call are raised by the first read."""
        stub = log_pb2_grpc.LogServiceStub(channel)
        self.call = stub.Follow(log_pb2.FollowRequest(position=position, event_types=sorted(projection.event_types)))

    async def next_frame(self) -> log_pb2.FollowResponse:
        """Return the next frame, which the log has ready.

        Raises:
            TimeoutError: No frame arrived in time.
            StreamEndedError: The log ended the stream.
            CallError: The stream failed.
        """
        try:
            async with asyncio.timeout(FRAME_SECONDS):
                frame = await self.call.read()
        except TimeoutError:
            raise TimeoutError("the log does not answer") from None
        if not isinstance(frame, log_pb2.FollowResponse):
            raise StreamEndedError("the log ended the stream")
        return frame

    def close(self) -> None:
        """End the call."""
        self.call.cancel()


def check_identity(first: log_pb2.FollowResponse, stored: LogIdentity | None) -> LogIdentity:
    """Return the identity of the log in a stream's first frame.

    Args:
        first: First frame of the stream.
        stored: Identity of the log that the rows were folded from; None before the first contact.

    Raises:
        StreamEndedError: The frame has no identity.
        LogDivergedError: The rows were folded from another log.
    """
    identity = identity_from_message(first.identity)
    if identity is None:
        raise StreamEndedError("the first frame of the log has no identity")
    if stored is not None and stored.log_id != identity.log_id:
        raise LogDivergedError(
            f"{DIVERGED}: the read store was filled from log {stored.log_id.hex()}, and the command server has "
            f"log {identity.log_id.hex()}. Use that log's own read store, or remove this one to fill it anew."
        )
    return identity


def check_checkpoint(first: log_pb2.FollowResponse, checkpoint: Checkpoint, projection: str) -> None:
    """Raise `LogDivergedError` if the log's event at the checkpoint is not the event that was applied."""
    position, event_id = checkpoint
    if position and first.checkpoint_event_id != event_id:
        found = f"event {first.checkpoint_event_id}" if first.checkpoint_event_id else "no event"
        raise LogDivergedError(
            f"{DIVERGED}: at position {position} the read store has event {event_id}, and the log has {found}. "
            "The log was restored to an earlier state, and this projection holds events that it has lost: "
            f"`diptych rebuild {projection}` fills it anew."
        )
