"""Parked streams of one generation on SQLite: the events that it leaves out, and when.

An event that can't be folded is left out of every view of the projection, with all later events of its stream. All
else goes on. The left out events are written with the checkpoint, so no event counts as applied without being folded
or listed.
"""

from __future__ import annotations

import sqlite3
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, bindparam, delete, func, insert, select, update

from diptych.domain.aggregate import AggregateRef
from diptych.domain.folding import FoldFailure
from diptych.storage.errors import StreamNotParkedError
from diptych.storage.read_store import Change, FailedEvent, LeftOut
from diptych.storage.read_store_schema import parked, parked_events
from diptych.storage.sql import Compiled, compile_sqlite
from diptych.v1.events_pb2 import RecordedEvent
from projector.store.sqlite_connection import execute

TRACE_CHARACTERS_MAX = 8000
"""Characters of a trace that are stored: its end."""

ERROR_CHARACTERS_MAX = 1000
"""Characters of an error's sentence that are stored: its beginning."""


class ParkedStreams:
    """Writes the parked streams of one generation, on the database's thread in a transaction of the caller."""

    def __init__(self, projection: str, generation: int) -> None:
        self._generation = {"of_projection": projection, "of_generation": generation}

    def read_all(self, connection: sqlite3.Connection) -> dict[AggregateRef, int]:
        """Return the parked streams, each with the position of its first parked event."""
        return {AggregateRef(kind, id): first for kind, id, first in self._run(connection, _STREAMS)}

    def write(
        self, connection: sqlite3.Connection, change: Change, streams: Mapping[AggregateRef, int], left_out: LeftOut
    ) -> tuple[LeftOut, int]:
        """Write the part of a change that is about parked streams.

        Args:
            connection: Connection with an open transaction.
            change: The change.
            streams: The parked streams before it, each with its first position.
            left_out: The numbers before it.

        Returns:
            The numbers after it, the same object if they are the same; and the events that it discards or releases.

        Raises:
            StreamNotParkedError: The change names a stream that is not parked.
        """
        events = 0
        if change.hold:
            left_out = self._hold(connection, change.hold, streams, left_out)
        if change.park is not None:
            left_out = self._park(connection, change.park, left_out)
        if change.fail_again is not None:
            aggregate, failed = change.fail_again
            self._fail_again(connection, _first(streams, aggregate), failed)
        if change.release is not None:
            left_out, events = self._release(connection, _first(streams, change.release), left_out)
        if change.discard is not None:
            left_out, events = self._discard(connection, _first(streams, change.discard), left_out)
        return left_out, events

    def _hold(
        self,
        connection: sqlite3.Connection,
        events: Sequence[RecordedEvent],
        streams: Mapping[AggregateRef, int],
        left_out: LeftOut,
    ) -> LeftOut:
        connection.executemany(
            _HOLD.sql,
            [
                _HOLD.bind(
                    **self._generation,
                    position=event.position,
                    first_position=streams[AggregateRef(event.aggregate.type, event.aggregate.id)],
                )
                for event in events
            ],
        )
        return LeftOut(left_out.streams, left_out.events + len(events), max(left_out.position, events[-1].position))

    def _park(self, connection: sqlite3.Connection, failed: FailedEvent, left_out: LeftOut) -> LeftOut:
        event = failed.event
        self._run(
            connection,
            _PARK,
            first_position=event.position,
            aggregate_type=event.aggregate.type,
            aggregate_id=event.aggregate.id,
            error=failed.error,
            trace=failed.trace,
            attempts=failed.attempts,
            park_time=_now(),
            discard_time=None,
            event=event.SerializeToString(),
        )
        self._run(connection, _HOLD, position=event.position, first_position=event.position)
        return LeftOut(left_out.streams + 1, left_out.events + 1, max(left_out.position, event.position))

    def _fail_again(self, connection: sqlite3.Connection, first: int, failed: FailedEvent) -> None:
        self._run(
            connection,
            _FAIL_AGAIN,
            first=first,
            new_error=failed.error,
            new_trace=failed.trace,
            new_event=failed.event.SerializeToString(),
        )

    def _release(self, connection: sqlite3.Connection, first: int, left_out: LeftOut) -> tuple[LeftOut, int]:
        events = self._run(connection, _DELETE_EVENTS, first=first).rowcount
        self._run(connection, _DELETE, first=first)
        ((last,),) = self._run(connection, _LAST)
        return LeftOut(left_out.streams - 1, left_out.events - events, last or 0), events

    def _discard(self, connection: sqlite3.Connection, first: int, left_out: LeftOut) -> tuple[LeftOut, int]:
        ((events,),) = self._run(connection, _COUNT, first=first)
        self._run(connection, _DISCARD, first=first, new_discard_time=_now())
        return left_out._replace(streams=left_out.streams - 1), int(events)

    def _run(self, connection: sqlite3.Connection, statement: Compiled, **values: Any) -> sqlite3.Cursor:
        return execute(connection, statement, **self._generation, **values)


def failed_event(failure: FoldFailure, attempts: int = 1) -> FailedEvent:
    """Return a failure as it is stored, with bounded texts."""
    return FailedEvent(failure.event, error_of(failure), trace_of(failure), attempts)


def error_of(failure: FoldFailure) -> str:
    """Return a failure as a sentence of bounded length."""
    sentence = f"{str(failure).rstrip('.')}."
    return sentence if len(sentence) <= ERROR_CHARACTERS_MAX else sentence[: ERROR_CHARACTERS_MAX - 4] + " ..."


def trace_of(failure: FoldFailure) -> str:
    """Return the end of a failure's trace, which is nearest to the cause."""
    cause = failure.__cause__
    return "" if cause is None else "".join(traceback.format_exception(cause))[-TRACE_CHARACTERS_MAX:]


def _first(streams: Mapping[AggregateRef, int], aggregate: AggregateRef) -> int:
    first = streams.get(aggregate)
    if first is None:
        raise StreamNotParkedError(f"stream {aggregate} is not parked")
    return first


def _now() -> int:
    return int(time.time() * 1e6)


_P, _E = parked.c, parked_events.c
_PROJECTION: BindParameter[str] = bindparam("of_projection")
_GENERATION: BindParameter[int] = bindparam("of_generation")
_PARKED = (_P.projection == _PROJECTION) & (_P.generation == _GENERATION)
_EVENTS = (_E.projection == _PROJECTION) & (_E.generation == _GENERATION)
_FIRST: BindParameter[int] = bindparam("first")

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
_DELETE = compile_sqlite(delete(parked).where(_PARKED, _P.first_position == _FIRST))
_DELETE_EVENTS = compile_sqlite(delete(parked_events).where(_EVENTS, _E.first_position == _FIRST))
_DISCARD = compile_sqlite(
    update(parked).where(_PARKED, _P.first_position == _FIRST).values(discard_time=bindparam("new_discard_time"))
)
_LAST = compile_sqlite(select(func.max(_E.position)).where(_EVENTS))
_COUNT = compile_sqlite(select(func.count()).select_from(parked_events).where(_EVENTS, _E.first_position == _FIRST))
