"""Generations of a projection in the read store: which there are, and how they begin, switch and go.

Of one projection at most one is active for each shape of its tables; it answers to all code that has this shape. One
more may be filling, or a kept one returning, for the projector's version. At a switch the generation that answered so
far is kept, in case somebody wants it back, and what was kept before is dropped.

All of this runs on the database's thread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    Column,
    MetaData,
    String,
    Table,
    bindparam,
    column,
    delete,
    func,
    insert,
    select,
    table,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import DropTable

from diptych.domain.projection import Projection
from diptych.server import failpoints
from diptych.server.errors import StartError
from diptych.storage.errors import OvertakenError
from diptych.storage.read_store_schema import (
    DROPPED,
    FILLING,
    RETURNING,
    Checkpoint,
    Compiled,
    compile_sqlite,
    generations,
    marks,
    new_filling,
    parked,
    parked_events,
    shape,
    view_table,
    view_table_name,
)
from projector.store.read_store_file import ReadStoreFile, transaction

if TYPE_CHECKING:
    from projector.store.row_writer import RowWriter

_BELONGING: tuple[Table, ...] = (marks, parked, parked_events)
"""What has rows for each generation, by the columns `projection` and `generation`, and goes with it."""

_STEP_ROWS = 500
"""Rows that are dropped in one transaction."""


class Generation(NamedTuple):
    """A generation as the read store has it."""

    generation: int
    version: int
    shape: str
    active: bool
    position: int
    log_id: str
    epochs: str
    paused: bool
    stage: str
    views: str
    filled: str
    """Which filling of its tables it is."""
    parked_streams: int
    left_out_events: int
    left_out_position: int

    @property
    def filling(self) -> bool:
        """Whether it is to answer when it has caught up."""
        return self.stage in (FILLING, RETURNING)

    @property
    def kept(self) -> bool:
        """Whether it neither answers nor is going to, and can be asked back."""
        return not self.active and not self.stage


class TakenUp(NamedTuple):
    """The generations that a projector goes on with; 0: there is none."""

    answering: int
    filling: int
    paused: bool


def listed(file: ReadStoreFile, projection: str) -> list[Generation]:
    """The generations of a projection, by number, without those that are dropped."""
    return [found for found in _all(file, projection) if found.stage != DROPPED]


def take_up(file: ReadStoreFile, projection: Projection) -> TakenUp:
    """Finds the generations of this version, or begins the first; raises `StartError`.

    The first generation ever answers at once. That of a newer version is filled beside the older one's, and answers
    when it has caught up.
    """
    name, version, digest = projection.name, projection.version, shape(projection)
    with transaction(file.connection):
        found = listed(file, name)
        mine = [one for one in found if one.version == version]
        answering = next((one for one in mine if one.active), None)
        newest = max((one.version for one in found if one.active), default=0)
        if answering is None and newest > version:
            raise StartError(
                f"Projection {name} has version {newest} in {file.path}, and this code is the older version "
                f"{version}: run the newer code, or use another read store."
            )
        if answering is not None and answering.shape != digest:
            raise StartError(
                f"The views, rows or columns of projection {name} have changed since {file.path} was filled, and its "
                f"version is still {version}: raise the version, which fills it anew beside what is there."
            )
        filling = next((one for one in mine if one.filling), None)
        if filling is not None and filling.shape != digest:  # The code has changed since, and nobody has seen its rows.
            _set(file, name, filling.generation, active=False, stage=DROPPED)
            filling = None
        if answering is not None:
            return TakenUp(answering.generation, filling.generation if filling is not None else 0, answering.paused)
        if filling is not None:
            return TakenUp(0, filling.generation, filling.paused)
        older = [one for one in found if one.active]
        # It is the projection that an operator paused, whatever its version.
        paused = any(one.paused for one in older)
        begun = begin(file, projection, active=not older, paused=paused)
        return TakenUp(0, begun, paused) if older else TakenUp(begun, 0, paused)


def begin(file: ReadStoreFile, projection: Projection, *, active: bool, paused: bool = False) -> int:
    """Begins a generation, which answers or is filled, with empty tables; returns its number.

    In a transaction of the caller's.
    """
    (last,) = _run(file, _LAST, projection=projection.name).fetchone()
    generation = (last or 0) + 1
    _run(
        file,
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
        tombstone_floor=0,
        paused=paused,
        stage="" if active else FILLING,
        views=json.dumps([view.name for view in projection.views]),
        parked_streams=0,
        left_out_events=0,
        left_out_position=0,
    )
    for view in projection.views:
        file.create(view_table(view, generation))
    return generation


def begin_filling(file: ReadStoreFile, projection: Projection) -> int:
    """Begins a generation that is filled; returns its number."""
    with transaction(file.connection):
        return begin(file, projection, active=False)


def begin_return(file: ReadStoreFile, projection: Projection, generation: int) -> bool:
    """Lets a kept generation catch up; whether there is such a one that this code can go on with."""
    with transaction(file.connection):
        digest = shape(projection)
        for found in listed(file, projection.name):
            if (found.generation, found.version, found.shape) == (generation, projection.version, digest):
                if found.kept:
                    _set(file, projection.name, generation, active=False, stage=RETURNING)
                return found.kept
    return False


def cancel(file: ReadStoreFile, projection: str, generation: int) -> None:
    """Ends the filling of a generation: one that answered before is kept, another is dropped."""
    with transaction(file.connection):
        for found in listed(file, projection):
            if found.generation == generation and found.filling:
                _set(file, projection, generation, active=False, stage="" if found.stage == RETURNING else DROPPED)


def switch(
    file: ReadStoreFile,
    old: tuple[RowWriter, Checkpoint] | None,
    new: tuple[RowWriter, Checkpoint],
    led_elsewhere: Iterable[int],
) -> None:
    """Lets a generation answer in place of another; raises `OvertakenError`, `LeaseLostError`, `ReadStoreError`.

    Both have their checkpoints written with it. `led_elsewhere` are versions that another projector folds, and whose
    generations are left alone.
    """
    writer, checkpoint = new
    name = writer.projection.name
    with transaction(file.connection):
        if old is not None:
            old[0].move(old[1])
        writer.move(checkpoint)
        found = listed(file, name)
        mine = next(one for one in found if one.generation == writer.generation)
        others = [one for one in found if one is not mine]
        replaced = [one for one in others if one.active and one.shape == mine.shape]
        for one in replaced:
            if one.position > mine.position and (one.log_id, one.epochs) == (mine.log_id, mine.epochs):
                raise OvertakenError(f"generation {one.generation} is at {one.position}, beyond {mine.position}")
            _set(file, name, one.generation, active=False, stage="")
        _set(file, name, mine.generation, active=True, stage="")
        for one in _superfluous(mine, others, replaced, frozenset(led_elsewhere)):
            _set(file, name, one.generation, active=False, stage=DROPPED)
        failpoints.hit("switch.written")
    failpoints.hit("switch.committed")
    writer.stored = checkpoint
    if old is not None:
        old[0].stored = old[1]


def _superfluous(
    mine: Generation, others: list[Generation], replaced: list[Generation], led_elsewhere: frozenset[int]
) -> list[Generation]:
    """What is not kept after a switch: all but what was replaced, or else the last version's that answered."""
    kept = replaced
    if not kept:
        answered = [one for one in others if one.active and one.version < mine.version]
        kept = sorted(answered, key=lambda one: one.version)[-1:]
    return [
        one
        for one in others
        if one not in kept and one.version <= mine.version and (one.version not in led_elsewhere or one.kept)
    ]


def drop_some(file: ReadStoreFile, projection: Projection) -> bool:
    """Drops a few rows of a generation that is not wanted, or its empty tables; whether there is more to drop."""
    dropped = [one for one in _all(file, projection.name) if one.stage == DROPPED]
    if not dropped:
        return False
    gone = dropped[0]
    views = json.loads(gone.views) if gone.views else [view.name for view in projection.views]
    with transaction(file.connection):
        for view in views:
            rows = Table(view_table_name(view, gone.generation), MetaData(), Column("key", String))
            if not _run(file, _HAS_TABLE, name=rows.name).fetchone():
                continue
            some = select(rows.c.key).limit(_STEP_ROWS)
            if _run(file, compile_sqlite(delete(rows).where(rows.c.key.in_(some)))).rowcount:
                return True
            file.connection.execute(str(DropTable(rows).compile(dialect=sqlite.dialect())))
        for belonging in _BELONGING:
            _run(file, _FORGET[belonging.name], of_projection=projection.name, of_generation=gone.generation)
        _run(file, _FORGET[generations.name], of_projection=projection.name, of_generation=gone.generation)
    return len(dropped) > 1


_C = generations.c
_ALL = compile_sqlite(
    select(
        _C.generation,
        _C.version,
        _C.shape,
        _C.active,
        _C.position,
        _C.log_id,
        _C.epochs,
        _C.paused,
        _C.stage,
        _C.views,
        _C.filling,
        _C.parked_streams,
        _C.left_out_events,
        _C.left_out_position,
    )
    .where(_C.projection == bindparam("projection"))
    .order_by(_C.generation)
)
_LAST = compile_sqlite(select(func.max(_C.generation)).where(_C.projection == bindparam("projection")))
_BEGIN = compile_sqlite(insert(generations))
_SET = compile_sqlite(
    update(generations)
    .where(_C.projection == bindparam("of_projection"), _C.generation == bindparam("of_generation"))
    .values(active=bindparam("is_active"), stage=bindparam("its_stage"))
)
_MASTER = table("sqlite_master", column("type"), column("name"))
_HAS_TABLE = compile_sqlite(
    select(_MASTER.c.name).where(_MASTER.c.type == "table", _MASTER.c.name == bindparam("name"))
)
_FORGET = {
    belonging.name: compile_sqlite(
        delete(belonging).where(
            belonging.c.projection == bindparam("of_projection"), belonging.c.generation == bindparam("of_generation")
        )
    )
    for belonging in (*_BELONGING, generations)
}


def _all(file: ReadStoreFile, projection: str) -> list[Generation]:
    return [
        Generation(generation, version, digest, bool(active), position, log_id, epochs, bool(paused), *rest)
        for generation, version, digest, active, position, log_id, epochs, paused, *rest in _run(
            file, _ALL, projection=projection
        )
    ]


def _set(file: ReadStoreFile, projection: str, generation: int, *, active: bool, stage: str) -> None:
    _run(file, _SET, of_projection=projection, of_generation=generation, is_active=active, its_stage=stage)


def _run(file: ReadStoreFile, statement: Compiled, **values: Any) -> Any:
    return file.connection.execute(statement.sql, statement.bind(**values))
