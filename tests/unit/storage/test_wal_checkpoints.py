"""Checkpoints beside the writer: written pages reach the file while commits go on."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from diptych.storage import wal_checkpoints
from diptych.storage.wal_checkpoints import WalCheckpoints
from tests.support.polling import eventually

ROWS = 500
"""Rows before the first checkpoint."""
PAGES = 100


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that never makes a checkpoint itself, and a table in the file."""
    with closing(sqlite3.connect(tmp_path / "some.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE things (name TEXT, content BLOB)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        yield connection


def write(connection: sqlite3.Connection, count: int) -> None:
    connection.executemany("INSERT INTO things VALUES ('thing', ?)", [(bytes(3000),)] * count)


async def test_written_pages_are_copied_while_the_writer_goes_on(tmp_path: Path, writer: sqlite3.Connection) -> None:
    path = tmp_path / "some.db"
    checkpoints = WalCheckpoints(path, "checkpoints", PAGES)
    async with asyncio.timeout(30):
        for _ in range(3):  # Not only for the first time.
            before = path.stat().st_size
            write(writer, ROWS)
            checkpoints.written(writer)
            while path.stat().st_size < before + ROWS * 3000:
                await asyncio.sleep(0.01)
    checkpoints.close()
    assert writer.execute("SELECT count(*) FROM things").fetchone() == (3 * ROWS,)


async def test_few_rows_start_no_checkpoint(tmp_path: Path, writer: sqlite3.Connection) -> None:
    path = tmp_path / "some.db"
    before = path.stat().st_size
    checkpoints = WalCheckpoints(path, "checkpoints", PAGES)
    write(writer, ROWS - 1)
    checkpoints.written(writer)
    checkpoints.close()  # It would have waited for one.
    assert path.stat().st_size == before


async def test_writer_goes_on_when_checkpoints_fail(tmp_path: Path, writer: sqlite3.Connection) -> None:
    checkpoints = WalCheckpoints(tmp_path / "no such folder" / "some.db", "checkpoints", PAGES)
    for _ in range(2):
        write(writer, ROWS)
        checkpoints.written(writer)
    checkpoints.close()
    assert writer.execute("SELECT count(*) FROM things").fetchone() == (2 * ROWS,)


async def test_bug_write_ahead_log_kept_its_size_after_a_long_read(
    tmp_path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_checkpoints, "_IDLE_SECONDS", 0.01)
    monkeypatch.setattr(wal_checkpoints, "_IDLE_BYTES", 1 << 20)
    path = tmp_path / "some.db"
    file = tmp_path / "some.db-wal"
    checkpoints = WalCheckpoints(path, "checkpoints", PAGES)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM things").fetchone()
        for _ in range(3):
            write(writer, ROWS)
            checkpoints.written(writer)
        assert file.stat().st_size > 4 << 20
    await eventually(lambda: file.stat().st_size == 0)
    write(writer, 1)
    checkpoints.close()
    assert writer.execute("SELECT count(*) FROM things").fetchone() == (3 * ROWS + 1,)
