"""A history: everything that clients did and saw in a run, with times, and what was found when it was over.

All times are those of one monotonic clock. `judge.py` says whether the promises were kept. Records say what was
seen and nothing else, so that any client, against any server, can make them.
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
    """What a client knows of a command that it sent."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """It was told that it took no effect."""
    UNKNOWN = "unknown"
    """The answer was lost: it may have taken effect, or may do so yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One sending of a command; those with one request id are retries of each other."""

    client: str
    request_id: str
    command: Message
    stream: str
    """The aggregate that it addresses, as `type/id`."""
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
    """Whether it may have been sent several times, and only the last answer was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """How a call was refused."""

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
    """The token that the answer had to be as fresh as; empty: none."""
    trailer: str = ""
    """The token that came with the answer."""
    rows: Mapping[str, bytes | None] = field(default_factory=dict)
    """What the answer says of these keys; None: there is no such row."""
    whole: bool = False
    """Whether it says as well that the view has no other rows."""
    refused: Refused | None = None
    """It is no answer: `rows` are empty."""
    timeout: float = 0.0
    """How long the call was allowed to take; 0: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A WaitForVersion and its answer."""

    client: str
    server: str
    view: str
    """Empty: all."""
    began: float
    ended: float
    timeout: float
    token: str = ""
    """What was waited for; or a stream and its version."""
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
    """What one subscriber saw, over all the connections it needed: positions and event ids in the order they came."""

    client: str
    after: int
    events: tuple[tuple[int, str], ...]
    types: frozenset[str] = frozenset()
    """The event types asked for; empty: all."""


class FrameKind(Enum):
    """What a frame of a watch is."""

    OPENED = "opened"
    """Our own: a connection was opened, with `resume_token` if that is set. What came after that token is void."""
    ROWS = "rows"
    CAUGHT_UP = "caught up"
    PROGRESS = "progress"
    RESET = "reset"
    REFUSED = "refused"
    """Our own: the watch ended with an error of ours, whose name is `reason`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchFrame:
    """One frame of a watch."""

    at: float
    kind: FrameKind
    rows: tuple[tuple[str, int, bytes | None], ...] = ()
    """Keys, positions, contents; None: deleted."""
    resume_token: str = ""
    position: int = 0
    """Of a progress mark."""
    reason: str = ""
    server: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What one watcher was told, over all the connections it needed."""

    client: str
    view: str
    keys: frozenset[str] | None
    """None: all."""
    frames: tuple[WatchFrame, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that was done to the servers."""

    kind: str
    target: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """A row as it lies in the read store."""

    position: int
    content: bytes | None
    columns: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One generation of a projection as one transaction found it in the read store."""

    taken: float
    projection: str
    generation: int
    position: int
    event_id: str
    rows: Mapping[str, Mapping[str, StoredRow]]
    """By view and key, tombstones too."""


@dataclass(slots=True)
class History:
    """A run."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    followed: list[Followed] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    log: list[RecordedEvent] = field(default_factory=list)
    """All of it, as it was read from the start when the run was over."""
    final: dict[str, int] = field(default_factory=dict)
    """The positions at which the projections were said to be when the run was over."""

    def has(self, reads: int, writes: int) -> bool:
        """Return True if at least that many reads were answered and commands acknowledged."""
        answered = sum(read.refused is None for read in self.reads)
        acknowledged = sum(write.status is WriteStatus.ACKNOWLEDGED for write in self.writes)
        return answered >= reads and acknowledged >= writes
