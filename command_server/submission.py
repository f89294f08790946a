"""Submissions: commands on their way through the writer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from google.protobuf.message import Message

from command_server.store.records import WorkKey
from diptych.domain.aggregate import AggregateRef, DeciderBinding
from diptych.domain.refusal import Refusal

_NEVER = float("inf")

_PROCESS = "process/"


class Accepted(NamedTuple):
    """What became of an accepted command. `position` is its own last event's, or that of what it was decided on."""

    aggregate: AggregateRef
    version: int
    position: int
    duplicate: bool


class Submission:
    """One parsed and checked command, and what became of it: `accepted` or `refusal`, told by calling `done`.

    `metadata` is the `metadata` field of its events, whole. `request_key` is empty where there is no request id.
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
        "expected_version",
        "lost",
        "metadata",
        "position",
        "reads",
        "ref",
        "refusal",
        "request_id",
        "request_key",
        "settles",
        "stream",
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
        """The open work that is done with when this is accepted."""
        self.accepted: Accepted | None = None
        self.refusal: Refusal | None = None
        self.position = 0
        """Of a refusal: the greatest last position of the streams that it was decided on."""
        self.lost: Refusal | None = None
        """What the caller was told while the commit was still under way; whatever comes of that is not told."""
        self.deadline = _NEVER
        """When it is too late to decide it, by the event loop's clock."""
        self.abandoned = False
        """Whether nobody waits for it any more."""
        self.done: Callable[[], None] = nobody


def nobody() -> None:
    """Tells nobody."""
    return


def request_key(actor: str, request_id: str) -> str:
    """The key under which a request id is remembered: request ids are scoped to the caller."""
    return f"{actor}\n{request_id}"


def actor_of(process_type: str) -> str:
    """Under which name a process decides, and sends commands."""
    return f"{_PROCESS}{process_type}"


def recorded_request_key(actor: str, request_id: str) -> str:
    """The key of a request id that an event tells, with whoever recorded it."""
    return engine_request_key(actor, request_id) if actor.startswith(_PROCESS) else request_key(actor, request_id)


def engine_request_key(scope: str, request_id: str) -> str:
    """The key of a request id of the engine's own, which no caller can have: none of theirs has two line ends."""
    return f"\n{scope}\n{request_id}"
