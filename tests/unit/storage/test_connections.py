"""Read-only connections: any path, no writing, our own errors."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, bindparam, select
from sqlalchemy.exc import OperationalError

from diptych.server.dsn import sqlite_dsn
from diptych.storage.connections import ReadOnlyDatabase, open_read_only, read_only_async_engine
from diptych.storage.errors import DatabaseError

numbers = Table("numbers", MetaData(), Column("number", Integer, primary_key=True))
QUERY = select(numbers.c.number).where(numbers.c.number > bindparam("above")).order_by(numbers.c.number)
PATHS = ("plain.db", "100% of?it#1&a=b.db", "two words/ünïcode.db", "a%20b.db")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / request.param
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO numbers VALUES (1), (2), (3)")
    return path


@pytest.fixture
async def database(path: Path) -> AsyncIterator[ReadOnlyDatabase]:
    database = ReadOnlyDatabase(sqlite_dsn(path))
    yield database
    await database.close()


def test_connection_reads_and_never_writes(path: Path) -> None:
    with closing(open_read_only(path)) as connection:
        assert connection.execute("SELECT count(*) FROM numbers").fetchone() == (3,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM numbers")


async def test_engine_reads_and_never_writes(path: Path) -> None:
    engine = read_only_async_engine(sqlite_dsn(path))
    async with engine.connect() as connection:
        assert (await connection.execute(QUERY, {"above": 1})).scalars().all() == [2, 3]
        with pytest.raises(OperationalError, match="readonly"):
            await connection.execute(numbers.delete())
    await engine.dispose()


async def test_database_shows_every_commit_to_the_next_query(path: Path, database: ReadOnlyDatabase) -> None:
    assert [tuple(row) for row in await database.fetch_all(QUERY, above=1)] == [(2,), (3,)]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO numbers VALUES (4)")
    assert [tuple(row) for row in await database.fetch_all(QUERY, above=2)] == [(3,), (4,)]


async def test_database_raises_our_error_when_a_table_or_the_file_is_missing(tmp_path: Path) -> None:
    database = ReadOnlyDatabase(sqlite_dsn(tmp_path / "missing.db"))
    with pytest.raises(DatabaseError, match="unable to open"):
        await database.fetch_all(QUERY, above=1)
    assert not (tmp_path / "missing.db").exists()
    sqlite3.connect(tmp_path / "missing.db").close()
    (tmp_path / "missing.db").touch()
    with pytest.raises(DatabaseError, match="no such table"):
        await database.fetch_all(QUERY, above=1)
    await database.close()
