"""Reading of the read store for operators: generations and parked streams, on any database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BindParameter, bindparam, func, select

from diptych.domain.aggregate import AggregateRef
from diptych.storage.connections import ReadOnlyDatabase
from diptych.storage.errors import DatabaseError, ReadStoreError
from diptych.storage.read_store import Generation, ParkedStream
from diptych.storage.read_store_schema import DROPPED, generations, parked, parked_events

PAGE_BYTES_MAX = 1 << 20
"""A page of parked streams ends with the stream that reaches this many bytes."""


class StoreReader:
    """Reads committed data on a connection of its own, beside the thread that writes."""

    def __init__(self, dsn: str) -> None:
        self._database = ReadOnlyDatabase(dsn)

    async def close(self) -> None:
        """Close the connection."""
        await self._database.close()

    async def generations(self, projection: str) -> list[Generation]:
        """Return the generations of a projection by number, without dropped ones. Raise `ReadStoreError`."""
        rows = await self._all(ALL_GENERATIONS, of_projection=projection)
        return [found for found in map(generation_of, rows) if found.stage != DROPPED]

    async def parked_stream(self, projection: str, generation: int, first_position: int) -> ParkedStream | None:
        """Return the parked stream whose first parked event is at a position, or None. Raise `ReadStoreError`."""
        rows = await self._all(_ONE, of_projection=projection, of_generation=generation, first=first_position)
        return _parked_stream(rows[0]) if rows else None

    async def parked_page(
        self, projection: str, generation: int, after: int, size: int, *, discarded: bool
    ) -> tuple[list[ParkedStream], bool]:
        """Return parked streams after a first position, and True if there are more. Raise `ReadStoreError`.

        The page ends earlier than after `size` streams when it reaches `PAGE_BYTES_MAX`.
        """
        rows = await self._all(
            _PAGE_WITH_DISCARDED if discarded else _PAGE,
            of_projection=projection,
            of_generation=generation,
            after=after,
            size=size + 1,
        )
        page: list[ParkedStream] = []
        page_bytes = 0
        for row in rows:
            if len(page) == size or page_bytes >= PAGE_BYTES_MAX:
                return page, True
            stream = _parked_stream(row)
            page.append(stream)
            page_bytes += len(stream.event) + len(stream.trace) + len(stream.error)
        return page, False

    async def left_out_between(self, projection: str, generation: int, after: int, through: int) -> dict[int, int]:
        """Return left out positions, each with its stream's first position. Raise `ReadStoreError`."""
        rows = await self._all(
            _BETWEEN, of_projection=projection, of_generation=generation, after=after, through=through
        )
        return {row[0]: row[1] for row in rows}

    async def _all(self, statement: Any, **values: Any) -> Sequence[tuple[Any, ...]]:
        try:
            return await self._database.fetch_all(statement, **values)
        except DatabaseError as error:
            raise ReadStoreError(str(error)) from error


def generation_of(row: tuple[Any, ...]) -> Generation:
    """Return a row of `ALL_GENERATIONS` as a generation. A database without booleans has numbers in their place."""
    generation, version, digest, active, position, log_id, epochs, paused, *rest = row
    return Generation(generation, version, digest, bool(active), position, log_id, epochs, bool(paused), *rest)


def _parked_stream(row: tuple[Any, ...]) -> ParkedStream:
    kind, id, *rest = row
    return ParkedStream(AggregateRef(kind, id), *rest)


_G, _P, _E = generations.c, parked.c, parked_events.c
_PROJECTION: BindParameter[str] = bindparam("of_projection")
_GENERATION: BindParameter[int] = bindparam("of_generation")

ALL_GENERATIONS = (
    select(
        _G.generation,
        _G.version,
        _G.shape,
        _G.active,
        _G.position,
        _G.log_id,
        _G.epochs,
        _G.paused,
        _G.stage,
        _G.views,
        _G.filling,
        _G.parked_streams,
        _G.left_out_events,
        _G.left_out_position,
    )
    .where(_G.projection == _PROJECTION)
    .order_by(_G.generation)
)
"""Query of all generations of a projection, as the fields of `Generation`."""

_EVENTS = (
    select(func.count())
    .select_from(parked_events)
    .where(
        _E.projection == _PROJECTION,
        _E.generation == _GENERATION,
        _E.first_position == _P.first_position,
    )
    .correlate(parked)
    .scalar_subquery()
)
_STREAMS = select(
    _P.aggregate_type,
    _P.aggregate_id,
    _P.first_position,
    _EVENTS,
    _P.error,
    _P.trace,
    _P.attempts,
    _P.park_time,
    _P.discard_time,
    _P.event,
).where(_P.projection == _PROJECTION, _P.generation == _GENERATION)
_ONE = _STREAMS.where(_P.first_position == bindparam("first"), _P.discard_time.is_(None))
_PAGE_WITH_DISCARDED = (
    _STREAMS.where(_P.first_position > bindparam("after")).order_by(_P.first_position).limit(bindparam("size"))
)
_PAGE = _PAGE_WITH_DISCARDED.where(_P.discard_time.is_(None))
_BETWEEN = select(_E.position, _E.first_position).where(
    _E.projection == _PROJECTION,
    _E.generation == _GENERATION,
    _E.position > bindparam("after"),
    _E.position <= bindparam("through"),
)
