"""Statements written once with SQLAlchemy Core and compiled for hot paths, which run them on `sqlite3` itself."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

_PARAMETERS_MAX = 32_000
"""Parameters in one statement. SQLite takes 32,766."""


class Compiled(NamedTuple):
    """Statement compiled for a dialect."""

    sql: str
    names: Sequence[str]
    """Names of its parameters, in order."""
    constants: Mapping[str, Any]
    """Values of parameters that the statement itself gives."""

    def bind(self, **values: Any) -> tuple[Any, ...]:
        """Return the values of the parameters in order."""
        if self.constants:
            values = {**self.constants, **values}
        return tuple([values[name] for name in self.names])


def compile_sqlite(statement: ClauseElement) -> Compiled:
    """Compile a statement for SQLite."""
    compiled = cast("SQLCompiler", statement.compile(dialect=sqlite.dialect(paramstyle="qmark")))
    names = tuple(compiled.positiontup or ())
    constants = {name: value for name, value in compiled.params.items() if value is not None and name in names}
    return Compiled(str(compiled), names, constants)


class MultiRowInsert:
    """Insert of many rows by few statements, compiled for one row.

    `executemany` releases the interpreter lock for every row, and waits to get it back while another thread is busy.
    A statement with many rows releases it once.
    """

    __slots__ = ("_sizes", "_texts")

    def __init__(self, one: Compiled) -> None:
        """Prepare statements for several numbers of rows.

        Args:
            one: Insert of one row, without constants.
        """
        marks = f"({', '.join('?' * len(one.names))})"
        before, separator, after = one.sql.partition(marks)
        assert separator, f"no single row in {one.sql}"
        assert not one.constants
        self._sizes = [size for size in (256, 64, 16, 4, 1) if size * len(one.names) <= _PARAMETERS_MAX]
        self._texts = [before + ", ".join([marks] * size) + after for size in self._sizes]

    def insert(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows in order."""
        start, count = 0, len(rows)
        for size, text in zip(self._sizes, self._texts, strict=True):
            while count - start >= size:
                connection.execute(text, [*itertools.chain.from_iterable(rows[start : start + size])])
                start += size
