"""Parked refold: the events of one parked stream, collected to be folded onto the rows as they are now.

Folding them now is correct if it gives the same rows as folding the log in order. That holds if no event folded since
touched a row that an earlier parked event of the stream folds or looks up. So the log is read once more, from the
first parked event on, and each event's row names are compared. No event is folded for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from diptych.domain.folding import FoldFailure, Folding, RowName
from diptych.domain.projection import Projection
from diptych.v1.events_pb2 import RecordedEvent

EVENTS_MAX = 10_000
"""Parked events of one stream that are kept in memory to be folded in place."""

BYTES_MAX = 32 << 20
"""Bytes of parked events that are kept in memory to be folded in place."""


class EntangledError(Exception):
    """Folding in place would differ from folding in order. The message is a sentence for the operator."""


class ParkedRefold:
    """Parked events of one stream, collected while the log is read."""

    def __init__(self, projection: Projection, first_position: int) -> None:
        self.first_position = first_position
        self.events: list[RecordedEvent] = []
        """Parked events collected so far, in order."""
        self.position = first_position - 1
        """Position through which the log was read."""
        self.failure: FoldFailure | None = None
        """Failure of the last collected event to name its rows. Later events are not read."""
        self._projection = projection
        self._folding = Folding(projection)
        self._bytes = 0
        self._folded: set[RowName] = set()
        self._looked_up: set[RowName] = set()

    def add(self, events: Iterable[RecordedEvent], left_out: Mapping[int, int]) -> None:
        """Collect the stream's parked events, and check the others.

        Args:
            events: Consecutive events of the projection's types.
            left_out: First parked position of its stream, by position of each event that is left out.

        Raises:
            EntangledError: The parked events cannot be folded in place.
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
            raise EntangledError("Too many of its events are parked to be folded at once.")
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
                raise EntangledError(
                    f"Event {event.position} of {event.aggregate.type}/{event.aggregate.id}, which was folded since, "
                    f"touched row {common[1]} of view {view}, as what is parked does."
                )
        if prepared.failure is not None:
            raise EntangledError(f"What was folded since cannot be judged. {str(prepared.failure).rstrip('.')}.")
