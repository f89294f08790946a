"""Submissions: commands on their way through the writer, and the keys of their request ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from google.protobuf.message import Message

from command_server.store.records import ParkedKey, WorkKey
from diptych.domain.aggregate import AggregateRef, DeciderBinding
from diptych.domain.refusal import Refusal

_NEVER = float("inf")

_PROCESS = "process/"


class Accepted(NamedTuple):
    """Outcome of an accepted command."""

    aggregate: AggregateRef
    version: int
    position: int
    """Position of the command's last event; without events the last position of the streams that it was decided on."""
    duplicate: bool


def ignore() -> None:
    """Do nothing; the `done` callback of a submission without a caller."""


class Submission:
    """One parsed and checked command, and its outcome: `accepted` or `refusal`, reported by a call of `done`.

    Args:
        binding: the command's decider.
        command: the command, without its context.
        ref: the aggregate that decides.
        reads: further aggregates whose states the decider reads.
        actor: the caller's identity.
        request_id: the caller's request id; empty: none.
        digest: digest of the command's type and message; empty without a request id.
        expected_version: version that the aggregate must have; None: any.
        metadata: the field `metadata` of the command's events, tag and length included.
    """

    __slots__ = (
        "abandoned",
        "accepted",
        "actor",
        "binding",
        "command",
        "deadline",
        "digest",
        "done",
        "early_refusal",
        "expected_version",
        "metadata",
        "position",
        "reads",
        "ref",
        "refusal",
        "request_id",
        "request_key",
        "settles",
        "stream",
        "unparks",
    )

    def __init__(
        self,
        *,
        binding: DeciderBinding,
        command: Message,
        ref: AggregateRef,
        reads: Sequence[AggregateRef],
        actor: str,
        request_id: str,
        digest: bytes,
        expected_version: int | None,
        metadata: bytes,
    ) -> None:
        self.binding = binding
        self.command = command
        self.ref = ref
        self.stream = str(ref)
        self.reads = reads
        self.actor = actor
        self.request_id = request_id
        self.request_key = request_key(actor, request_id) if request_id else ""
        self.digest = digest
        self.expected_version = expected_version
        self.metadata = metadata
        self.settles: WorkKey | None = None
        """Open work that is closed in the same commit if the command is accepted."""
        self.unparks: ParkedKey | None = None
        """Parked input that is deleted in the same commit if the command is accepted."""
        self.accepted: Accepted | None = None
        self.refusal: Refusal | None = None
        self.position = 0
        """Of a refusal: the greatest last position of the streams that it was decided on."""
        self.early_refusal: Refusal | None = None
        """Refusal sent before the commit finished; the outcome is then not sent."""
        self.deadline = _NEVER
        """Latest time to decide it, by the event loop's clock."""
        self.abandoned = False
        """True if its caller no longer waits."""
        self.done: Callable[[], None] = ignore


def request_key(actor: str, request_id: str) -> str:
    """Return the key under which a request id is remembered; request ids are scoped to the caller."""
    return f"{actor}\n{request_id}"


def actor_of(process_type: str) -> str:
    """Return the actor of a process's steps and commands."""
    return f"{_PROCESS}{process_type}"


def recorded_request_key(actor: str, request_id: str) -> str:
    """Return the key of a request id that a recorded event names."""
    return engine_request_key(actor, request_id) if actor.startswith(_PROCESS) else request_key(actor, request_id)


def is_client_key(key: str) -> bool:
    """True for the key of a caller's request id, False for one of the engine's."""
    return key.count("\n") == 1


def engine_request_key(scope: str, request_id: str) -> str:
    """Return the key of a request id of the engine; no caller's key has two line ends."""
    return f"\n{scope}\n{request_id}"
