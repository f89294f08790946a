"""Generations of a projection on SQLite: which exist, how they begin, and how dropped ones are deleted.

A projection has at most one active generation for each shape of its tables; it answers the code with that shape. For
each version at most one generation more is filling, or is a kept one that returns.

All functions run on the database's thread, in a transaction of the caller. Those that take a lease check its fence
before they write.
"""

from __future__ import annotations

import json
import sqlite3

from sqlalchemy import Column, MetaData, String, Table, bindparam, column, delete, func, insert, select, table, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import DropTable

from diptych.domain.code_digest import code_digest
from diptych.domain.projection import Projection
from diptych.server.errors import StartError
from diptych.storage.errors import LeaseLostError
from diptych.storage.read_store import Generation, Lease
from diptych.storage.read_store_schema import (
    DROPPED,
    FILLING,
    RETURNING,
    generations,
    marks,
    new_filling,
    parked,
    parked_events,
    shape,
    view_table,
    view_table_name,
)
from diptych.storage.sql import compile_sqlite
from projector.store.sqlite_connection import create_table, execute
from projector.store.store_reader import ALL_GENERATIONS, generation_of

_PER_GENERATION_TABLES: tuple[Table, ...] = (marks, parked, parked_events)
"""Tables whose rows are deleted with their generation. They have the columns `projection` and `generation`."""

DROP_ROWS_MAX = 500
"""Rows that one transaction deletes from a dropped generation."""


def read_all(connection: sqlite3.Connection, projection: str) -> list[Generation]:
    """Return all generations of a projection by number, dropped ones included."""
    return [generation_of(row) for row in execute(connection, _ALL, of_projection=projection)]


def read_live(connection: sqlite3.Connection, projection: str) -> list[Generation]:
    """Return the generations of a projection by number, without dropped ones."""
    return [found for found in read_all(connection, projection) if found.stage != DROPPED]


def check_fence(connection: sqlite3.Connection, lease: Lease) -> None:
    """Raise `LeaseLostError` if the lease was acquired again since, by this or another projector."""
    projection = lease.projection
    ((fence,),) = execute(connection, _FENCE, of_projection=projection.name, of_version=projection.version)
    if fence != lease.fence:
        raise LeaseLostError(
            f"another projector leads version {projection.version} of projection {projection.name} now: the read "
            f"store has fence {fence}, and this projector has fence {lease.fence}"
        )


def take_up(connection: sqlite3.Connection, projection: Projection, store: str, *, roll_back: bool = False) -> Lease:
    """Raise the fence of a projection's version, and find its generations or begin the first.

    1. The first generation of a projection is active at once.
    2. The first generation of a newer version is filled beside that of the older version.
    3. A filling generation is begun anew if the code's shape has changed since.
    4. With `roll_back`, code of an older version than the active generation's lets its kept generation return, or
       fills one. The switch then replaces the newer version, which is kept in turn.

    Args:
        connection: Connection with an open transaction.
        projection: The projection as the code has it.
        store: Name of the read store for errors.
        roll_back: True to return to this code's version from a newer one.

    Raises:
        StartError: The store has a newer version and `roll_back` is False, or this version with another shape.
    """
    name, version = projection.name, projection.version
    fence = _next_fence(connection, name)
    mine = [one for one in read_live(connection, name) if one.version == version]
    others = [one for one in read_live(connection, name) if one.version != version and one.active]
    active = next((one for one in mine if one.active), None)
    _check_code(projection, active, others, store, roll_back=roll_back)
    filling = next((one for one in mine if one.is_filling), None)
    if filling is not None and filling.shape != shape(projection):  # No query server has read its rows.
        set_stage(connection, name, filling.generation, active=False, stage=DROPPED)
        filling = None
    kept = [one for one in mine if one.is_kept and one.shape == shape(projection)]
    is_older = any(one.version > version for one in others)
    if roll_back and is_older and active is None and filling is None and kept:
        filling = kept[-1]
        set_stage(connection, name, filling.generation, active=False, stage=RETURNING)
    if active is not None:
        lease = Lease(projection, fence, active.generation, filling.generation if filling else 0, active.paused)
    elif filling is not None:
        lease = Lease(projection, fence, 0, filling.generation, filling.paused)
    else:
        # An operator pauses the projection, whatever its version.
        paused = any(one.paused for one in others)
        begun = begin(connection, projection, fence, active=not others, paused=paused)
        lease = Lease(projection, fence, 0 if others else begun, begun if others else 0, paused)
    execute(connection, _RAISE_FENCE, of_projection=name, of_version=version, new_fence=fence)
    return lease


def begin(
    connection: sqlite3.Connection, projection: Projection, fence: int, *, active: bool, paused: bool = False
) -> int:
    """Insert a generation with empty tables; return its number."""
    (last,) = execute(connection, _LAST, of_projection=projection.name).fetchone()
    generation = (last or 0) + 1
    execute(
        connection,
        _BEGIN,
        projection=projection.name,
        generation=generation,
        version=projection.version,
        shape=shape(projection),
        active=active,
        position=0,
        event_id="",
        log_id="",
        epochs="",
        filling=new_filling(),
        fence=fence,
        tombstone_floor=0,
        paused=paused,
        stage="" if active else FILLING,
        views=json.dumps([view.name for view in projection.views]),
        code=code_digest(projection),
        parked_streams=0,
        left_out_events=0,
        left_out_position=0,
    )
    for view in projection.views:
        create_table(connection, view_table(view, generation))
    return generation


def begin_filling(connection: sqlite3.Connection, lease: Lease) -> int:
    """Insert a generation to be filled; return its number. Raise `LeaseLostError`."""
    check_fence(connection, lease)
    return begin(connection, lease.projection, lease.fence, active=False)


def begin_return(connection: sqlite3.Connection, lease: Lease, generation: int) -> bool:
    """Let a kept generation return; return False if this code has none of that number. Raise `LeaseLostError`."""
    check_fence(connection, lease)
    projection = lease.projection
    required = (generation, projection.version, shape(projection))
    for found in read_live(connection, projection.name):
        if (found.generation, found.version, found.shape) == required and found.is_kept:
            set_stage(connection, projection.name, generation, active=False, stage=RETURNING)
            return True
    return False


def cancel(connection: sqlite3.Connection, lease: Lease, generation: int) -> None:
    """End the filling of a generation: keep a returning one, drop a new one. Raise `LeaseLostError`."""
    check_fence(connection, lease)
    name = lease.projection.name
    for found in read_live(connection, name):
        if found.generation == generation and found.is_filling:
            stage = "" if found.stage == RETURNING else DROPPED
            set_stage(connection, name, generation, active=False, stage=stage)


def drop_some(connection: sqlite3.Connection, lease: Lease) -> bool:
    """Delete rows of a dropped generation, or its tables; return True if there is more. Raise `LeaseLostError`."""
    check_fence(connection, lease)
    projection = lease.projection
    dropped = [one for one in read_all(connection, projection.name) if one.stage == DROPPED]
    if not dropped:
        return False
    first = dropped[0]
    views = json.loads(first.views) if first.views else [view.name for view in projection.views]
    for view in views:
        rows = Table(view_table_name(view, first.generation), MetaData(), Column("key", String))
        if not execute(connection, _HAS_TABLE, name=rows.name).fetchone():
            continue
        some = select(rows.c.key).limit(DROP_ROWS_MAX)
        if execute(connection, compile_sqlite(delete(rows).where(rows.c.key.in_(some)))).rowcount:
            return True
        connection.execute(str(DropTable(rows).compile(dialect=sqlite.dialect())))
    for statement in _DELETE:
        execute(connection, statement, of_projection=projection.name, of_generation=first.generation)
    return len(dropped) > 1


def set_stage(connection: sqlite3.Connection, projection: str, generation: int, *, active: bool, stage: str) -> None:
    """Write the stage of a generation. The caller has checked the fence."""
    execute(connection, _SET, of_projection=projection, of_generation=generation, new_active=active, new_stage=stage)


def _next_fence(connection: sqlite3.Connection, projection: str) -> int:
    ((last,),) = execute(connection, _LAST_FENCE, of_projection=projection)
    return (last or 0) + 1


def _check_code(
    projection: Projection, active: Generation | None, others: list[Generation], store: str, *, roll_back: bool
) -> None:
    """Raise `StartError` if the code can't go on with the generations."""
    name, version = projection.name, projection.version
    newest = max((one.version for one in others), default=0)
    if active is None and newest > version and not roll_back:
        raise StartError(
            f"Projection {name} has version {newest} in {store}, and this code is the older version "
            f"{version}: run the newer code, or return to this version with --roll-back."
        )
    if active is not None and active.shape != shape(projection):
        raise StartError(
            f"The views, rows or columns of projection {name} have changed since {store} was filled, and its "
            f"version is still {version}: raise the version, which fills it anew beside what is there."
        )


_C = generations.c
_OF_VERSION = (_C.projection == bindparam("of_projection")) & (_C.version == bindparam("of_version"))
_OF_GENERATION = (_C.projection == bindparam("of_projection")) & (_C.generation == bindparam("of_generation"))
_ALL = compile_sqlite(ALL_GENERATIONS)
_FENCE = compile_sqlite(select(func.max(_C.fence)).where(_OF_VERSION))
_LAST_FENCE = compile_sqlite(select(func.max(_C.fence)).where(_C.projection == bindparam("of_projection")))
_RAISE_FENCE = compile_sqlite(update(generations).where(_OF_VERSION).values(fence=bindparam("new_fence")))
_LAST = compile_sqlite(select(func.max(_C.generation)).where(_C.projection == bindparam("of_projection")))
_BEGIN = compile_sqlite(insert(generations))
_SET = compile_sqlite(
    update(generations).where(_OF_GENERATION).values(active=bindparam("new_active"), stage=bindparam("new_stage"))
)
_MASTER = table("sqlite_master", column("type"), column("name"))
_HAS_TABLE = compile_sqlite(
    select(_MASTER.c.name).where(_MASTER.c.type == "table", _MASTER.c.name == bindparam("name"))
)
_DELETE = [
    compile_sqlite(
        delete(one).where(
            one.c.projection == bindparam("of_projection"), one.c.generation == bindparam("of_generation")
        )
    )
    for one in (*_PER_GENERATION_TABLES, generations)
]
