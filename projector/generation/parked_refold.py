"""Refolding: whether what is parked of a stream can be folded now, onto the rows as they are.

It can if that gives what folding in order would have given: if no event that was folded since has touched a row that
an earlier one of the parked events folds or looks up. So the log is read once more, from the first parked event on,
and for each event it is asked which rows it names; nothing is folded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diptych.domain.folding import FoldFailure, Folding, RowName
from diptych.domain.projection import Projection
from diptych.v1.events_pb2 import RecordedEvent

EVENTS_MAX = 10_000
"""More parked events than this are not kept in memory to be folded in place."""

BYTES_MAX = 32 << 20
"""The same, in bytes."""


class Entangled(Exception):
    """Folding in place would not give what folding in order would have given; the message is a sentence."""


class Refold:
    """What is parked of one stream, collected while the log is read."""

    def __init__(self, projection: Projection, first_position: int) -> None:
        self.first_position = first_position
        self.events: list[RecordedEvent] = []
        """The parked events so far, in order."""
        self.position = first_position - 1
        """Everything up to here was looked at."""
        self.failure: FoldFailure | None = None
        """Why the last of them does not even name its rows. What follows is not looked at."""
        self._projection = projection
        self._folding = Folding(projection)
        self._bytes = 0
        self._folded: set[RowName] = set()
        self._looked_up: set[RowName] = set()

    def take(self, events: Iterable[RecordedEvent], left_out: dict[int, int]) -> None:
        """Looks at consecutive events. `left_out` has those that are left out, each with the first of its stream's.

        Raises `Entangled`.
        """
        others: list[RecordedEvent] = []
        for event in events:
            first = left_out.get(event.position)
            if first is None:
                others.append(event)
            elif first == self.first_position:
                self._check(others)
                others = []
                self._collect(event)
                if self.failure is not None:
                    return
        self._check(others)

    def _collect(self, event: RecordedEvent) -> None:
        self.events.append(event)
        self._bytes += event.ByteSize()
        if len(self.events) > EVENTS_MAX or self._bytes > BYTES_MAX:
            raise Entangled("Too many of its events are parked to be folded at once.")
        prepared = self._folding.prepare((event,))
        self.failure = prepared.failure
        for _, folded, looked_up in prepared.rows():
            self._folded |= folded
            self._looked_up |= looked_up

    def _check(self, others: Sequence[RecordedEvent]) -> None:
        if not others or not (self._folded or self._looked_up):
            return
        prepared = self._folding.prepare(others)
        for event, folded, looked_up in prepared.rows():
            common = next((row for row in folded if row in self._folded or row in self._looked_up), None)
            if common is None:
                common = next((row for row in looked_up if row in self._folded), None)
            if common is not None:
                view = self._projection.views[common[0]].name
                raise Entangled(
                    f"Event {event.position} of {event.aggregate.type}/{event.aggregate.id}, which was folded since, "
                    f"touched row {common[1]} of view {view}, as what is parked does."
                )
        if prepared.failure is not None:
            raise Entangled(f"What was folded since cannot be judged. {str(prepared.failure).rstrip('.')}.")
