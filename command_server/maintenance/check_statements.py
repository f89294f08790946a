"""Tables and statements of the log check."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, bindparam, func, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from command_server.store import schema
from command_server.store.statements import listed
from diptych.storage.sql import Compiled, compile_sqlite

_LOG_SCHEMA = MetaData(schema="source")
"""Name under which the log is attached."""

COPIED = (schema.streams, schema.requests, schema.unique_values, schema.snapshots)
"""Tables that are copied into the scratch file. `events` stays in the log."""

WALKED = Table(
    "walked",
    MetaData(),
    # As in `events`: the position of the stream's first event.
    Column("stream", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Index("walked_name", "name"),
)
"""Streams, derived from their events."""

CLAIMED = Table(
    "claimed",
    MetaData(),
    Column("key", String, nullable=False),
    Column("holder", String, nullable=False),
)
"""Unique values, derived from the aggregates' states."""

_events = schema.events.to_metadata(_LOG_SCHEMA)
_e, _w, _r, _u, _s = _events.c, WALKED.c, schema.requests.c, schema.unique_values.c, schema.snapshots.c
_t = schema.streams.c
_after, _until = _e.position > bindparam("after"), _e.position <= bindparam("until")

_NOT_COPIED = ("accepted_at",)
"""Columns that a log of an older schema version does not have, and that the check does not need."""


def _copy(table: Table) -> Compiled:
    names = [column.name for column in table.columns if column.name not in _NOT_COPIED]
    source = table.to_metadata(_LOG_SCHEMA)
    return compile_sqlite(
        insert(table).from_select(names, select(*(source.c[name] for name in names)), include_defaults=False)
    )


COPY = [_copy(table) for table in COPIED]
SWEEPS = "SELECT 1 FROM source.sqlite_master WHERE type = 'table' AND name = 'request_sweeps'"
FORGOTTEN_BEFORE = compile_sqlite(select(schema.request_sweeps.to_metadata(_LOG_SCHEMA).c.accepted_before))
LAST = compile_sqlite(select(func.max(_e.position)))

# Events.
PAGE = compile_sqlite(
    select(_e.position, _e.stream, _e.version, _e.type, _e.frame)
    .where(_after, _until)
    .order_by(_e.position)
    .limit(bindparam("count"))
)
PAGE_OF_TYPES = compile_sqlite(
    select(_e.frame).where(_after, _until, _e.type.in_(listed("types"))).order_by(_e.position)
)
FRAME = compile_sqlite(select(_e.frame).where(_e.position == bindparam("position")))
HISTORY = compile_sqlite(
    select(_e.version, _e.frame)
    .where(_e.stream == bindparam("stream"), _e.version > bindparam("after"), _until)
    .order_by(_e.version)
    .limit(bindparam("count"))
)

# Streams.
GET_WALKED = compile_sqlite(select(_w.stream, _w.name, _w.version, _w.position).where(_w.stream.in_(listed("streams"))))
PUT_WALKED = compile_sqlite(
    upsert(WALKED).on_conflict_do_update(
        index_elements=["stream"],
        set_={"version": upsert(WALKED).excluded.version, "position": upsert(WALKED).excluded.position},
    )
)
COUNT_WALKED = compile_sqlite(select(func.count()).select_from(WALKED))
NAMES = compile_sqlite(
    select(_w.name, _w.stream).where(_w.name > bindparam("after")).order_by(_w.name).limit(bindparam("count"))
)
STREAMS_LISTED = compile_sqlite(select(_t.name, _t.stream, _t.version, _t.position).order_by(_t.name))
STREAMS_WALKED = compile_sqlite(select(_w.name, _w.stream, _w.version, _w.position).order_by(_w.name))

# Request ids.
GET_REQUESTS = compile_sqlite(select(_r.key, _r.position).where(_r.key.in_(listed("keys"))))
REQUESTS = compile_sqlite(
    select(_r.key, _r.stream, _r.version, _r.position, _e.position)
    .select_from(
        schema.requests.outerjoin(WALKED, _w.name == _r.stream).outerjoin(
            _events, (_e.stream == _w.stream) & (_e.version == _r.version)
        )
    )
    .where(_r.key > bindparam("after"))
    .order_by(_r.key)
    .limit(bindparam("count"))
)

# Snapshots and unique values.
SNAPSHOT = compile_sqlite(select(_s.version, _s.shape, _s.state).where(_s.stream == bindparam("name")))
CLAIM = compile_sqlite(insert(CLAIMED))
UNIQUES_LISTED = compile_sqlite(select(_u.key, _u.holder).order_by(_u.key))
UNIQUES_CLAIMED = compile_sqlite(select(CLAIMED.c.key, CLAIMED.c.holder).order_by(CLAIMED.c.key, CLAIMED.c.holder))
