"""Statements that look up active generations, and the result of one event in a generation."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, select

from diptych.storage.read_store_schema import generations, parked, parked_events
from diptych.storage.sql import compile_sqlite

ACTIVE = compile_sqlite(
    select(generations.c.generation).where(
        generations.c.projection == bindparam("projection"),
        generations.c.active,
        generations.c.shape == bindparam("shape"),
    )
)
"""The active generation of a projection. Parameters: `projection`, `shape`."""

LIST = compile_sqlite(
    select(
        generations.c.projection,
        generations.c.generation,
        generations.c.version,
        generations.c.shape,
        generations.c.position,
        generations.c.log_id,
        generations.c.epochs,
        generations.c.paused,
        generations.c.parked_streams,
        generations.c.left_out_events,
        generations.c.left_out_position,
    ).where(generations.c.active)
)
"""All active generations."""

EVENT = compile_sqlite(
    select(generations.c.generation, generations.c.position, parked.c.error)
    .select_from(
        generations.outerjoin(
            parked_events,
            and_(
                parked_events.c.projection == generations.c.projection,
                parked_events.c.generation == generations.c.generation,
                parked_events.c.position == bindparam("position"),
            ),
        ).outerjoin(
            parked,
            and_(
                parked.c.projection == parked_events.c.projection,
                parked.c.generation == parked_events.c.generation,
                parked.c.first_position == parked_events.c.first_position,
            ),
        )
    )
    .where(
        generations.c.projection == bindparam("projection"),
        generations.c.active,
        generations.c.shape == bindparam("shape"),
    )
)
"""Generation, checkpoint, and why an event is left out. Parameters: `projection`, `shape`, `position`."""
