"""Compiled statements: inserts of many rows by few statements."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.schema import CreateTable

from diptych.storage.sql import MultiRowInsert, compile_sqlite

words = Table("words", MetaData(), Column("key", Integer, primary_key=True), Column("word", String, nullable=False))


@pytest.fixture
def connection() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(str(CreateTable(words).compile(dialect=sqlite.dialect())))
    return connection


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 63, 64, 65, 1000])
def test_insert_writes_all_rows(connection: sqlite3.Connection, count: int) -> None:
    rows = [(key, f"word {key}") for key in range(count)]
    MultiRowInsert(compile_sqlite(insert(words))).insert(connection, rows)
    assert connection.execute("SELECT key, word FROM words ORDER BY key").fetchall() == rows


def test_upsert_of_many_rows_replaces_existing_rows(connection: sqlite3.Connection) -> None:
    statement = insert(words)
    upsert = MultiRowInsert(
        compile_sqlite(statement.on_conflict_do_update(index_elements=["key"], set_={"word": statement.excluded.word}))
    )
    upsert.insert(connection, [(key, "old") for key in range(70)])
    upsert.insert(connection, [(key, "new") for key in range(60, 130)])
    found = dict(connection.execute("SELECT key, word FROM words"))
    assert found == {key: "old" if key < 60 else "new" for key in range(130)}


def test_insert_is_split_when_it_has_too_many_parameters(
    connection: sqlite3.Connection,
) -> None:
    texts: list[str] = []
    connection.set_trace_callback(texts.append)
    MultiRowInsert(compile_sqlite(insert(words))).insert(connection, [(key, "w") for key in range(256 + 64 + 4 + 2)])
    assert len(texts) == 5
