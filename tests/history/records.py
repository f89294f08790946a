"""History of a run: calls and answers of all clients with times, and the state at the end.

All times are of one monotonic clock. Records hold observations only, so any client of any server can make them;
`judge.py` judges them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from google.protobuf.message import Message

from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.read_model_pb2 import WaitOutcome


class WriteStatus(Enum):
    """A client's knowledge of the effect of a command that it sent."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """The answer reports that the command has no effect."""
    UNKNOWN = "unknown"
    """The answer was lost: the command may have had an effect, or may still have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One sending of a command. Sendings with the same request id are retries."""

    client: str
    request_id: str
    command: Message
    stream: str
    """Aggregate of the command, as `type/id`."""
    began: float
    ended: float
    status: WriteStatus
    version: int = 0
    token: str = ""
    duplicate: bool = False
    expected_version: int | None = None
    code: str = ""
    reason: str = ""
    repeated: bool = False
    """True if it may have been sent several times, and only the last answer is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Refusal of a call."""

    code: str
    reason: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A query and its answer, as rows of one view."""

    client: str
    server: str
    view: str
    began: float
    ended: float
    presented: str = ""
    """Token that was sent with the query; empty if none was."""
    trailer: str = ""
    """Token that came with the answer."""
    rows: Mapping[str, bytes | None] = field(default_factory=dict)
    """Rows of the answer by key; None: there is no such row."""
    whole: bool = False
    """True if the answer also says that the view has no other rows."""
    refused: Refused | None = None
    """Refusal, if there is no answer; `rows` are empty then."""
    timeout: float = 0.0
    """Time limit of the call in seconds; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A WaitForVersion and its answer."""

    client: str
    server: str
    view: str
    """View of the wait; empty: all."""
    began: float
    ended: float
    timeout: float
    token: str = ""
    """Awaited token; or else a stream and its version."""
    stream: str = ""
    version: int = 0
    outcome: WaitOutcome = WaitOutcome.WAIT_OUTCOME_UNSPECIFIED
    applied: int = 0
    head: int = 0
    progress_token: str = ""
    trailer: str = ""
    refused: Refused | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """Events of one subscriber over all its connections: positions and event ids in order of arrival."""

    client: str
    after: int
    events: tuple[tuple[int, str], ...]
    types: frozenset[str] = frozenset()
    """Subscribed event types; empty: all."""


class FrameKind(Enum):
    """Kind of a watch's frame."""

    OPENED = "opened"
    """Recorded by the client: a connection was opened, with `resume_token` if set. Frames after that token are void."""
    ROWS = "rows"
    CAUGHT_UP = "caught up"
    PROGRESS = "progress"
    RESET = "reset"
    REFUSED = "refused"
    """Recorded by the client: the watch ended with an error of ours, whose name is `reason`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchFrame:
    """One frame of a watch."""

    at: float
    kind: FrameKind
    rows: tuple[tuple[str, int, bytes | None], ...] = ()
    """Keys, positions, contents; None: deleted."""
    resume_token: str = ""
    position: int = 0
    """Position of a progress frame."""
    reason: str = ""
    server: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Frames of one watcher over all its connections."""

    client: str
    view: str
    keys: frozenset[str] | None
    """Watched keys; None: all."""
    frames: tuple[WatchFrame, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault that was made."""

    kind: str
    target: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """A row in the read store."""

    position: int
    content: bytes | None
    columns: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One generation of a projection as one transaction read it from the read store."""

    taken: float
    projection: str
    generation: int
    position: int
    event_id: str
    rows: Mapping[str, Mapping[str, StoredRow]]
    """Rows and tombstones by view and key."""


@dataclass(slots=True)
class History:
    """All records of a run."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    followed: list[Followed] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    log: list[RecordedEvent] = field(default_factory=list)
    """The whole log, read from its start at the end of the run."""
    final: dict[str, int] = field(default_factory=dict)
    """Positions of the projections at the end of the run."""

    def has(self, reads: int, writes: int) -> bool:
        """Return True if at least that many reads were answered and commands acknowledged."""
        answered = sum(read.refused is None for read in self.reads)
        acknowledged = sum(write.status is WriteStatus.ACKNOWLEDGED for write in self.writes)
        return answered >= reads and acknowledged >= writes
