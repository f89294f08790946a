"""Statements of watches on one view's table, and the one that looks up the active generation."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BindParameter, bindparam, func, select

from diptych.domain.projection import View
from diptych.storage.read_store_schema import generations, view_table
from diptych.storage.sql import compile_sqlite

_C = generations.c
ACTIVE = compile_sqlite(
    select(_C.generation, _C.version, _C.filling, _C.position, _C.tombstone_floor, _C.log_id, _C.epochs).where(
        _C.projection == bindparam("projection"), _C.active, _C.shape == bindparam("shape")
    )
)
"""The active generation of a projection. Parameters: `projection`, `shape`."""


class ChangeStatements:
    """Statements on the table of one view's generation."""

    def __init__(self, view: View[Any], generation: int) -> None:
        table = view_table(view, generation)
        key, position, row = table.c.key, table.c.position, table.c.row
        rows = select(key, position, row)
        limit: BindParameter[int] = bindparam("limit")
        listed = key.in_(select(func.json_each(bindparam("keys")).table_valued("value").c.value))
        changes = rows.order_by(position, key).limit(limit)
        after: BindParameter[int] = bindparam("position")
        self.after_position = compile_sqlite(changes.where(position > after))
        self.after_key = compile_sqlite(changes.where(position >= after, (position > after) | (key > bindparam("key"))))
        present = rows.where(row.is_not(None)).order_by(key)
        self.first_rows = compile_sqlite(present.limit(limit))
        self.next_rows = compile_sqlite(present.where(key > bindparam("key")).limit(limit))
        self.rows_of_keys = compile_sqlite(present.where(listed))
        self.of_keys = compile_sqlite(rows.where(listed).order_by(position, key))
        self.changed_keys = compile_sqlite(select(key).where(listed, position > after).order_by(position, key))
