"""Parking: what one generation of a projection leaves out, and when.

An event that cannot be folded, and all that follows it in its aggregate's stream, are left out of every view of the
projection and remembered; everything else goes on. It is written with the checkpoint, so that nothing counts as
applied that is in no list.
"""

from __future__ import annotations

import sqlite3
import time
import traceback
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, bindparam, delete, func, insert, select, update

from diptych.domain.aggregate import AggregateRef
from diptych.domain.folding import FoldFailure
from diptych.storage.read_store_schema import Compiled, compile_sqlite, generations, parked, parked_events
from diptych.v1.events_pb2 import RecordedEvent

TRACE_CHARACTERS_MAX = 8000
"""The end of a trace that is kept."""

ERROR_CHARACTERS_MAX = 1000
"""The beginning of an error's sentence that is kept."""

PAGE_BYTES_MAX = 1 << 20
"""A page of parked streams ends with the one that reaches this."""


class LeftOut(NamedTuple):
    """What a generation leaves out, in numbers."""

    streams: int = 0
    """Streams that are parked."""
    events: int = 0
    """Events of parked streams, and discarded ones."""
    position: int = 0
    """The last of these events; 0: there is none."""


class ParkedStream(NamedTuple):
    """One stream of which a part is left out, as the store has it."""

    aggregate: AggregateRef
    first_position: int
    events: int
    error: str
    trace: str
    attempts: int
    park_time: int
    discard_time: int | None
    event: bytes


class ParkedStreams:
    """The streams that are parked in one generation.

    For the database's thread, within a transaction of the caller's, who calls `now` with the numbers when that is
    committed. The numbers can be read anywhere.
    """

    def __init__(self, connection: sqlite3.Connection, projection: str, generation: int) -> None:
        self.numbers = LeftOut()
        self.first: dict[AggregateRef, int] = {}
        """Where each stream is parked from."""
        self._connection = connection
        self._mine = {"of_projection": projection, "of_generation": generation}
        (found,) = self._run(_NUMBERS)
        self.numbers = LeftOut(*found)
        for kind, id, first in self._run(_STREAMS):
            self.first[AggregateRef(kind, id)] = first

    def divide(self, events: Iterable[RecordedEvent]) -> tuple[list[RecordedEvent], list[RecordedEvent]]:
        """The events that are folded, and those of parked streams."""
        folded: list[RecordedEvent] = []
        held: list[RecordedEvent] = []
        for event in events:
            aggregate = AggregateRef(event.aggregate.type, event.aggregate.id)
            (held if aggregate in self.first else folded).append(event)
        return folded, held

    def with_events(self, events: Sequence[RecordedEvent], *, streams: int = 0) -> LeftOut:
        """The numbers with so many events and streams more."""
        before, count, last = self.numbers
        return LeftOut(before + streams, count + len(events), max(last, events[-1].position))

    def hold(self, events: Sequence[RecordedEvent]) -> None:
        """Remembers events of parked streams."""
        first = self.first
        self._connection.executemany(
            _HOLD.sql,
            [
                _HOLD.bind(
                    **self._mine,
                    position=event.position,
                    first_position=first[AggregateRef(event.aggregate.type, event.aggregate.id)],
                )
                for event in events
            ],
        )

    def park(self, failure: FoldFailure, attempts: int) -> None:
        """Parks the stream of an event that cannot be folded."""
        event = failure.event
        self._run(
            _PARK,
            first_position=event.position,
            aggregate_type=event.aggregate.type,
            aggregate_id=event.aggregate.id,
            error=error_of(failure),
            trace=trace_of(failure),
            attempts=attempts,
            park_time=_now(),
            discard_time=None,
            event=event.SerializeToString(),
        )
        self._run(_HOLD, position=event.position, first_position=event.position)

    def fail_again(self, aggregate: AggregateRef, failure: FoldFailure) -> None:
        """Remembers why what is parked failed again."""
        self._run(
            _FAIL_AGAIN,
            first=self.first[aggregate],
            new_error=error_of(failure),
            new_trace=trace_of(failure),
            new_event=failure.event.SerializeToString(),
        )

    def release(self, aggregate: AggregateRef) -> LeftOut:
        """Forgets what was parked of a stream, as it is folded now."""
        first, (streams, count, _) = self.first[aggregate], self.numbers
        gone = self._run(_FORGET_EVENTS, first=first).rowcount
        self._run(_FORGET, first=first)
        ((last,),) = self._run(_LAST)
        return LeftOut(streams - 1, count - gone, last or 0)

    def discard(self, aggregate: AggregateRef) -> LeftOut:
        """Lets a stream go on. What is left out of it stays so."""
        self._run(_DISCARD, first=self.first[aggregate], new_discard_time=_now())
        return self.numbers._replace(streams=self.numbers.streams - 1)

    def now(self, numbers: LeftOut, *, parked: RecordedEvent | None = None, gone: AggregateRef | None = None) -> None:
        """Takes what is committed: the numbers, the event whose stream was parked, the stream that no longer is."""
        self.numbers = numbers
        if parked is not None:
            self.first[AggregateRef(parked.aggregate.type, parked.aggregate.id)] = parked.position
        if gone is not None:
            del self.first[gone]

    def count(self, aggregate: AggregateRef) -> int:
        """How many events of a parked stream are left out."""
        ((count,),) = self._run(_COUNT, first=self.first[aggregate])
        return int(count)

    def between(self, after: int, through: int) -> dict[int, int]:
        """The positions that are left out between two, the second included, each with the first of its stream's."""
        return dict(self._run(_BETWEEN, after=after, through=through))

    def one(self, aggregate: AggregateRef) -> ParkedStream | None:
        """A stream that is parked."""
        first = self.first.get(aggregate)
        found = [] if first is None else self.page(first - 1, 1, discarded=False)[0]
        return found[0] if found else None

    def page(self, after: int, size: int, *, discarded: bool) -> tuple[list[ParkedStream], bool]:
        """Streams by their first position, after one, and whether there are more."""
        statement = _PAGE_OF_ALL if discarded else _PAGE
        page: list[ParkedStream] = []
        bytes_read = 0
        for kind, id, *rest in self._run(statement, after=after, size=size + 1):
            if len(page) == size or bytes_read >= PAGE_BYTES_MAX:
                return page, True
            page.append(ParkedStream(AggregateRef(kind, id), *rest))
            bytes_read += len(page[-1].event) + len(page[-1].trace) + len(page[-1].error)
        return page, False

    def _run(self, statement: Compiled, **values: Any) -> sqlite3.Cursor:
        return self._connection.execute(statement.sql, statement.bind(**self._mine, **values))


def error_of(failure: FoldFailure) -> str:
    """A failure as a sentence of bounded length."""
    sentence = f"{str(failure).rstrip('.')}."
    return sentence if len(sentence) <= ERROR_CHARACTERS_MAX else sentence[: ERROR_CHARACTERS_MAX - 4] + " ..."


def trace_of(failure: FoldFailure) -> str:
    """The end of a failure's trace, which is nearest to the cause."""
    cause = failure.__cause__
    return "" if cause is None else "".join(traceback.format_exception(cause))[-TRACE_CHARACTERS_MAX:]


def _now() -> int:
    return int(time.time() * 1e6)


_P, _E, _G = parked.c, parked_events.c, generations.c
_PROJECTION: BindParameter[str] = bindparam("of_projection")
_GENERATION: BindParameter[int] = bindparam("of_generation")
_PARKED = (_P.projection == _PROJECTION) & (_P.generation == _GENERATION)
_EVENTS = (_E.projection == _PROJECTION) & (_E.generation == _GENERATION)
_FIRST: BindParameter[int] = bindparam("first")

_NUMBERS = compile_sqlite(
    select(_G.parked_streams, _G.left_out_events, _G.left_out_position).where(
        _G.projection == _PROJECTION, _G.generation == _GENERATION
    )
)
_STREAMS = compile_sqlite(
    select(_P.aggregate_type, _P.aggregate_id, _P.first_position).where(_PARKED, _P.discard_time.is_(None))
)
_PARK = compile_sqlite(
    insert(parked).values(
        projection=_PROJECTION,
        generation=_GENERATION,
        **{c.name: bindparam(c.name) for c in parked.columns if c.name not in ("projection", "generation")},
    )
)
_HOLD = compile_sqlite(
    insert(parked_events).values(
        projection=_PROJECTION,
        generation=_GENERATION,
        position=bindparam("position"),
        first_position=bindparam("first_position"),
    )
)
_FAIL_AGAIN = compile_sqlite(
    update(parked)
    .where(_PARKED, _P.first_position == _FIRST)
    .values(
        error=bindparam("new_error"),
        trace=bindparam("new_trace"),
        event=bindparam("new_event"),
        attempts=_P.attempts + 1,
    )
)
_FORGET = compile_sqlite(delete(parked).where(_PARKED, _P.first_position == _FIRST))
_FORGET_EVENTS = compile_sqlite(delete(parked_events).where(_EVENTS, _E.first_position == _FIRST))
_DISCARD = compile_sqlite(
    update(parked).where(_PARKED, _P.first_position == _FIRST).values(discard_time=bindparam("new_discard_time"))
)
_LAST = compile_sqlite(select(func.max(_E.position)).where(_EVENTS))
_COUNT = compile_sqlite(select(func.count()).select_from(parked_events).where(_EVENTS, _E.first_position == _FIRST))
_BETWEEN = compile_sqlite(
    select(_E.position, _E.first_position).where(
        _EVENTS, _E.position > bindparam("after"), _E.position <= bindparam("through")
    )
)
_HELD = (
    select(func.count())
    .select_from(parked_events)
    .where(_EVENTS, _E.first_position == _P.first_position)
    .correlate(parked)
    .scalar_subquery()
)
_ALL = (
    select(
        _P.aggregate_type,
        _P.aggregate_id,
        _P.first_position,
        _HELD,
        _P.error,
        _P.trace,
        _P.attempts,
        _P.park_time,
        _P.discard_time,
        _P.event,
    )
    .where(_PARKED, _P.first_position > bindparam("after"))
    .order_by(_P.first_position)
    .limit(bindparam("size"))
)
_PAGE_OF_ALL = compile_sqlite(_ALL)
_PAGE = compile_sqlite(_ALL.where(_P.discard_time.is_(None)))
