"""Statements on the rows of one view in one generation, on SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Table, bindparam, func, select, update
from sqlalchemy.dialects.sqlite import insert

from diptych.domain.folding import ChangedRow, Contents
from diptych.storage.sql import compile_sqlite

Columns = Mapping[str, Sequence[Any]]
"""Values of the columns that rows had when they were loaded, by key."""


class RowStatement:
    """Loads and writes rows of one view's table. For the database's thread."""

    def __init__(self, table: Table) -> None:
        keys = select(func.json_each(bindparam("keys")).table_valued("value").c.value)
        self._columns = [column for column in table.columns if column.name not in ("key", "position", "row")]
        self._table = table
        self._updates: dict[tuple[int, ...], str] = {}
        self._select = compile_sqlite(select(table.c.key, table.c.row, *self._columns).where(table.c.key.in_(keys))).sql
        upsert = insert(table)
        replaced = {column.name: upsert.excluded[column.name] for column in table.columns if column.name != "key"}
        compiled = compile_sqlite(upsert.on_conflict_do_update(index_elements=["key"], set_=replaced))
        # A changed row is a tuple in this order.
        assert list(compiled.names) == [column.name for column in table.columns]
        self._upsert = compiled.sql

    def load(self, connection: sqlite3.Connection, keys: Iterable[str]) -> tuple[Contents, Columns]:
        """Return the rows that exist, tombstones included, and the values of their columns."""
        rows = connection.execute(self._select, (json.dumps(list(keys)),)).fetchall()
        return {row[0]: row[1] for row in rows}, {row[0]: row[2:] for row in rows}

    def write(self, connection: sqlite3.Connection, changes: Iterable[ChangedRow], columns: Columns) -> None:
        """Write changed rows.

        SQLite rewrites every index that a statement could change, even if the value is the same, and a table has many
        indexes. So the statement for a row that existed names only the columns that differ.

        Args:
            connection: Connection with an open transaction.
            changes: The rows.
            columns: Values of the columns of the rows that existed.
        """
        if not self._columns:
            connection.executemany(self._upsert, changes)
            return
        whole: list[ChangedRow] = []
        parts: dict[tuple[int, ...], list[tuple[Any, ...]]] = {}
        for change in changes:
            before = columns.get(change[0])
            if before is None:
                whole.append(change)
                continue
            differing = tuple([index for index, value in enumerate(before) if value != change[index + 3]])
            part = (change[1], change[2], *[change[index + 3] for index in differing], change[0])
            parts.setdefault(differing, []).append(part)
        if whole:
            connection.executemany(self._upsert, whole)
        for differing, rows in parts.items():
            connection.executemany(self._update(differing), rows)

    def _update(self, differing: tuple[int, ...]) -> str:
        statement = self._updates.get(differing)
        if statement is None:
            table = self._table
            names = ["position", "row", *(self._columns[index].name for index in differing)]
            compiled = compile_sqlite(
                update(table)
                .where(table.c.key == bindparam("of_key"))
                .values({name: bindparam(f"new_{name}") for name in names})
            )
            # In the order of the table's columns, which is that of the values.
            assert list(compiled.names) == [*(f"new_{name}" for name in names), "of_key"]
            statement = self._updates[differing] = compiled.sql
        return statement
