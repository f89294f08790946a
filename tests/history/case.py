"""Case of the judge: a history, the domain's truth, and the registry of checks."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

from google.protobuf.message import Message

from diptych.domain.domain import Domain
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.read_model_pb2 import WaitOutcome
from tests.history.model import Truth, position_of
from tests.history.records import History, Read, Wait, Write

REACHED = WaitOutcome.WAIT_OUTCOME_REACHED
TIMED_OUT = WaitOutcome.WAIT_OUTCOME_TIMED_OUT
HONEST_READ = frozenset({"READ_MODEL_BEHIND", "READ_MODEL_NOT_READY", "OVERLOADED"})
"""Reasons for which any read may be refused. gRPC itself refuses without a reason."""


class Finding(NamedTuple):
    """A broken promise."""

    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.text}"


class Effects(Protocol):
    """Effects of a domain's commands, as far as a client can see them in the log."""

    def wrong(self, command: Message, events: Sequence[RecordedEvent]) -> str:
        """Return the reason why an accepted command cannot have recorded these events; empty if it can."""
        ...

    def broken_rules(self, log: Sequence[RecordedEvent]) -> Iterable[str]:
        """Yield the domain's rules that a log breaks, and that no decision on true states could break."""
        ...


class Case:
    """A history and the domain to judge it by.

    `refusals`, `outcomes` and `resets` are allowed by the faults of the run, such as READ_MODEL_PAUSED after a pause.
    """

    def __init__(
        self,
        history: History,
        domain: Domain,
        effects: Effects,
        *,
        refusals: frozenset[str] = frozenset(),
        outcomes: frozenset[WaitOutcome] = frozenset(),
        resets: frozenset[str] = frozenset(),
    ) -> None:
        self.history = history
        self.effects = effects
        self.truth = Truth(domain, history.log)
        self.refusals = refusals
        self.outcomes = outcomes
        self.resets = resets
        self.attempts: dict[str, list[Write]] = defaultdict(list)
        for write in history.writes:
            self.attempts[write.request_id].append(write)

    @cached_property
    def _begun(self) -> list[float]:
        """For each position, the time of the first command that can have recorded it or an earlier one; ascending."""
        begun: list[float] = []
        latest = float("-inf")
        for event in self.history.log:
            attempts = self.attempts.get(event.metadata.request_id)
            if attempts:
                latest = max(latest, min(write.began for write in attempts))
            begun.append(latest)
        return begun

    def possible_head(self, at: float) -> int:
        """Return the greatest position that can have been recorded at a time."""
        return bisect_left(self._begun, at)


Check = Callable[[Case], Iterator[str]]
checks: dict[str, Check] = {}


def check(check: Check) -> Check:
    checks[check.__name__] = check
    return check


def describe(read: Read) -> str:
    keys = list(read.rows)
    what = "all rows" if read.whole else ", ".join(keys[:3])
    return f"{read.client} read {read.view} {what} on {read.server} at {read.began:.3f}"


def required_position(case: Case, wait: Wait) -> int:
    if wait.token:
        return position_of(wait.token)
    events = case.truth.by_stream.get(wait.stream, [])
    return events[wait.version - 1].position if wait.version <= len(events) else 0
