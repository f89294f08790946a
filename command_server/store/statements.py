"""The log's statements, compiled once for SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from typing import Any, NamedTuple, Self

from sqlalchemy import bindparam, func, insert, select, tuple_, update
from sqlalchemy.dialects.sqlite import insert as upsert

from command_server.store import schema
from command_server.store.records import WorkKind
from diptych.storage.sql import Compiled, MultiRowInsert, compile_sqlite


def listed(parameter: str) -> Any:
    """Return a list of strings as one JSON parameter, so that the statement's text does not depend on its length."""
    return select(func.json_each(bindparam(parameter)).table_valued("value").c.value)


class ByName(NamedTuple):
    """Two statements for the rows of given names: one name costs half as much by its own statement."""

    one: Compiled
    many: Compiled

    @classmethod
    def of(cls, name: Any, *columns: Any) -> Self:
        """Compile both statements; their rows begin with the name."""
        rows = select(name, *columns)
        return cls(
            compile_sqlite(rows.where(name == bindparam("name"))), compile_sqlite(rows.where(name.in_(listed("names"))))
        )

    def read(self, connection: sqlite3.Connection, names: Collection[str]) -> list[Any]:
        """Read the rows of these names; each row begins with its name."""
        if len(names) > 1:
            return connection.execute(self.many.sql, (json.dumps(list(names)),)).fetchall()
        return [row for name in names for row in connection.execute(self.one.sql, (name,))]


def _upsert(table: Any, *key: str) -> Compiled:
    statement = upsert(table)
    changed = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in key}
    return compile_sqlite(statement.on_conflict_do_update(index_elements=key, set_=changed))


def _delete(table: Any, *key: str) -> Compiled:
    return compile_sqlite(table.delete().where(*(table.c[name] == bindparam(f"old_{name}") for name in key)))


_log, _events, _streams = schema.log.c, schema.events.c, schema.streams.c
_requests, _uniques, _snapshots = schema.requests.c, schema.unique_values.c, schema.snapshots.c
_work, _parked = schema.process_work, schema.parked_inputs
_after = _events.position > bindparam("after")
_of_stream = _events.stream == select(_streams.stream).where(_streams.name == bindparam("name")).scalar_subquery()
_parked_key = ("process", "instance", "position", "ordinal")

# The log's end and identity.
HEAD = compile_sqlite(select(_log.epoch, _log.head))
IDENTITY = compile_sqlite(select(_log.schema_version, _log.log_id))
EPOCHS = compile_sqlite(select(schema.epochs.c.epoch, schema.epochs.c.first_position).order_by(schema.epochs.c.epoch))
ADVANCE = compile_sqlite(
    update(schema.log)
    .where(_log.epoch == bindparam("old_epoch"))
    .values(head=_log.head + bindparam("count"))
    .returning(_log.head)
)

# What a batch reads.
STREAMS = ByName.of(_streams.name, _streams.stream, _streams.version, _streams.position)
REQUESTS = ByName.of(_requests.key, _requests.digest, _requests.stream, _requests.version, _requests.position)
HOLDERS = ByName.of(_uniques.key, _uniques.holder)
SNAPSHOT = compile_sqlite(
    select(_snapshots.version, _snapshots.shape, _snapshots.state).where(_snapshots.stream == bindparam("stream"))
)
HISTORY = compile_sqlite(
    select(_events.frame)
    .where(_events.stream == bindparam("stream"), _events.version > bindparam("after"))
    .order_by(_events.version)
)

# What a batch writes. Inserts fail on a value that is there: nothing is taken over.
INSERT_EVENTS = MultiRowInsert(compile_sqlite(insert(schema.events)))
PUT_STREAMS = MultiRowInsert(_upsert(schema.streams, "name"))
INSERT_REQUESTS = MultiRowInsert(compile_sqlite(insert(schema.requests)))
INSERT_UNIQUES = MultiRowInsert(compile_sqlite(insert(schema.unique_values)))
MOVE_UNIQUE = compile_sqlite(
    update(schema.unique_values)
    .where(_uniques.key == bindparam("old_key"), _uniques.holder == bindparam("old_holder"))
    .values(holder=bindparam("new_holder"))
)
DELETE_UNIQUE = _delete(schema.unique_values, "key")
PUT_SNAPSHOT = _upsert(schema.snapshots, "stream")
OPEN_WORK = compile_sqlite(insert(_work))
SETTLE_WORK = _delete(_work, "position", "ordinal")

# Sweeps of request ids.
REQUEST_TIMES = compile_sqlite(
    select(_requests.key, _requests.accepted_at)
    .where(_requests.key > bindparam("after"))
    .order_by(_requests.key)
    .limit(bindparam("count"))
)
FORGET_REQUESTS = compile_sqlite(
    schema.requests.delete().where(
        _requests.key.in_(listed("keys")), _requests.accepted_at < bindparam("accepted_before")
    )
)
FORGOTTEN_BEFORE = compile_sqlite(select(schema.request_sweeps.c.accepted_before))
PUT_FORGOTTEN_BEFORE = _upsert(schema.request_sweeps, "singleton")

# Reads of the log.
READ_LOG = compile_sqlite(
    select(_events.position, _events.frame).where(_after).order_by(_events.position).limit(bindparam("count"))
)
READ_LOG_TYPES = compile_sqlite(
    select(_events.position, _events.frame)
    .where(_after, _events.position <= bindparam("until"), _events.type.in_(listed("types")))
    .order_by(_events.position)
    .limit(bindparam("count"))
)
FRAME_AT = compile_sqlite(select(_events.frame).where(_events.position == bindparam("at")))
LAST_POSITION = compile_sqlite(select(func.max(_events.position)))
READ_STREAM = compile_sqlite(
    select(_events.frame)
    .where(_of_stream, _events.version >= bindparam("first"))
    .order_by(_events.version)
    .limit(bindparam("count"))
)
POSITION_OF = compile_sqlite(select(_events.position).where(_of_stream, _events.version == bindparam("version")))

# Processes.
READ_WORK = compile_sqlite(
    select(_work)
    .where(tuple_(_work.c.position, _work.c.ordinal) > tuple_(bindparam("position"), bindparam("ordinal")))
    .order_by(_work.c.position, _work.c.ordinal)
    .limit(bindparam("count"))
)
_work_after_due = tuple_(_work.c.due, _work.c.position, _work.c.ordinal) > tuple_(
    bindparam("due"), bindparam("position"), bindparam("ordinal")
)
READ_TIMEOUTS = compile_sqlite(
    select(_work)
    .where(_work.c.kind == int(WorkKind.TIMEOUT), _work_after_due)
    .order_by(_work.c.due, _work.c.position, _work.c.ordinal)
    .limit(bindparam("count"))
)
COUNT_RUNNING = compile_sqlite(
    select(func.count(_work.c.instance.distinct())).where(_work.c.process == bindparam("process"))
)
MARKS = compile_sqlite(select(schema.process_marks))
PUT_MARK = _upsert(schema.process_marks, "process")
PARKED = compile_sqlite(select(_parked).order_by(*(_parked.c[name] for name in _parked_key)))
PUT_PARKED = _upsert(_parked, *_parked_key)
DELETE_PARKED = _delete(_parked, *_parked_key)
