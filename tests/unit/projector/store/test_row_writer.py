"""The row writer on a real file: what a commit leaves there, and who may not write."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from diptych.contract.identity_codec import identity_from_columns
from diptych.contract.token import Epoch, LogIdentity
from diptych.server.errors import StartError
from diptych.storage.errors import LeaseLostError, ReadStoreError
from diptych.storage.read_store_schema import Checkpoint
from diptych.v1.events_pb2 import RecordedEvent
from projector.store.row_writer import Committed, RowWriter
from projector.store.sqlite_read_store import SqliteReadStore
from tests.support.notes import Erased, Note, Noted, Notes, Tagged, log_of
from tests.support.read_stores import opened_writer


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqliteReadStore]:
    file = SqliteReadStore(tmp_path / "deep" / "read.db", "127.0.0.1:1")
    await file.open()
    yield file
    await file.close()


async def opened(file: SqliteReadStore, notes: Notes | None = None) -> RowWriter:
    return await opened_writer(file, (notes or Notes()).projection)


async def commit(writer: RowWriter, events: Sequence[RecordedEvent]) -> Committed:
    return await writer.commit(events, Checkpoint(events[-1].position, events[-1].event_id))


def read(file: SqliteReadStore, sql: str) -> list[Any]:
    """Return the rows as another process reads them."""
    connection = sqlite3.connect(f"file:{file.path}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def checkpoint(file: SqliteReadStore) -> Any:
    return read(file, "SELECT generation, position, event_id FROM diptych_generations WHERE active")


async def test_commit_writes_rows_and_checkpoint_together(file: SqliteReadStore) -> None:
    writer = await opened(file)
    log = log_of([Noted(key="a", text="x"), Noted(key="ä", text="y"), Noted(key="a", text="z")])
    committed = await commit(writer, log)
    assert (committed.rows, committed.folded.changed_position, committed.checkpoint) == (3, 3, (3, "a-3"))
    assert read(file, "SELECT * FROM notes_g1 ORDER BY key") == [
        ("a", 3, Note(text="z", edits=2).SerializeToString(), 2),
        ("ä", 2, Note(text="y", edits=1).SerializeToString(), 1),
    ]
    assert checkpoint(file) == [(1, 3, "a-3")]


async def test_deleted_row_leaves_a_tombstone_and_can_return(file: SqliteReadStore) -> None:
    writer = await opened(file)
    log = log_of([Noted(key="a", text="x"), Erased(key="a"), Noted(key="a", text="y")])
    await commit(writer, log[:2])
    assert read(file, "SELECT * FROM notes_g1") == [("a", 2, None, None)]
    await commit(writer, log[2:])
    assert read(file, "SELECT * FROM notes_g1") == [("a", 3, Note(text="y", edits=1).SerializeToString(), 1)]


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_tables_do_not_depend_on_batch_sizes(file: SqliteReadStore, size: int) -> None:
    writer = await opened(file)
    made = [
        [
            Noted(key=f"k{n % 7}", text=str(n)),
            Tagged(key=f"k{n % 5}", tags=[f"t{n % 4}", "all"]),
            Erased(key=f"k{n % 11}"),
        ]
        for n in range(40)
    ]
    log = log_of([event for three in made for event in three])
    for start in range(0, len(log), size):
        await commit(writer, log[start : start + size])
    in_one = await opened(file, Notes("whole"))
    await commit(in_one, log)
    for view in ("", "_tags"):
        assert read(file, f"SELECT * FROM notes{view}_g1") == read(file, f"SELECT * FROM whole{view}_g1")


async def test_commit_writes_nothing_when_no_row_changes(file: SqliteReadStore) -> None:
    writer = await opened(file)
    committed = await commit(writer, log_of([Erased(key="a")]))
    assert (committed.rows, committed.checkpoint) == (0, (1, "a-1"))
    assert checkpoint(file) == [(1, 0, "")]
    assert await writer.write_checkpoint(committed.checkpoint) == (1, "a-1")
    assert checkpoint(file) == [(1, 1, "a-1")]
    assert await writer.write_checkpoint(Checkpoint(0, "")) == (1, "a-1")


async def test_commit_includes_the_events_before_a_failing_one(file: SqliteReadStore) -> None:
    writer = await opened(file)
    log = log_of([Noted(key="a", text="x"), Noted(key="a", text="poison"), Noted(key="b", text="y")])
    committed = await commit(writer, log)
    assert committed.folded.failure is not None
    assert committed.checkpoint == (1, "a-1")
    assert read(file, "SELECT key, position FROM notes_g1") == [("a", 1)]
    assert checkpoint(file) == [(1, 1, "a-1")]


async def test_writer_continues_from_the_stored_checkpoint(file: SqliteReadStore) -> None:
    identity = LogIdentity(b"12345678", [Epoch(1, 1), Epoch(2, 5)])
    first = await opened(file)
    await first.write_identity(identity)
    await commit(first, log_of([Noted(key="a", text="x")]))
    second = await opened(file)
    assert (second.generation, second.stored, second.identity) == (1, (1, "a-1"), identity)
    ((log_id, epochs),) = read(file, "SELECT log_id, epochs FROM diptych_generations")
    assert identity_from_columns(log_id, epochs) == identity


async def test_writer_that_lost_its_lease_writes_nothing(file: SqliteReadStore) -> None:
    old, new = await opened(file), await opened(file)
    log = log_of([Noted(key="a", text="x"), Noted(key="a", text="y")])
    await commit(new, log[:1])
    with pytest.raises(LeaseLostError, match="has fence 2, and this projector has fence 1"):
        await commit(old, log)
    with pytest.raises(LeaseLostError):
        await old.write_checkpoint(Checkpoint(2, "a-2"))
    assert read(file, "SELECT key, position FROM notes_g1") == [("a", 1)]
    assert checkpoint(file) == [(1, 1, "a-1")]
    await commit(new, log[1:])
    assert checkpoint(file) == [(1, 2, "a-2")]


async def test_failed_commit_changes_nothing(file: SqliteReadStore) -> None:
    writer = await opened(file)
    log = log_of([Noted(key="a", text="x"), Noted(key="a", text="y")])
    await commit(writer, log[:1])
    await file.run(
        lambda: file.connection.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON diptych_generations BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
    )
    with pytest.raises(ReadStoreError, match="disk is full"):
        await commit(writer, log[1:])
    assert read(file, "SELECT key, position FROM notes_g1") == [("a", 1)]
    await file.run(lambda: file.connection.execute("DROP TRIGGER full"))
    await commit(writer, log[1:])
    assert checkpoint(file) == [(1, 2, "a-2")]


async def test_pause_is_stored_with_the_checkpoint(file: SqliteReadStore) -> None:
    writer = await opened(file)
    await commit(writer, log_of([Noted(key="a", text="x")]))
    await writer.write_paused(True, Checkpoint(5, "a-5"))
    assert (writer.paused, writer.stored) == (True, (5, "a-5"))
    assert checkpoint(file) == [(1, 5, "a-5")]

    again = await opened(file)
    assert (again.paused, again.stored) == (True, (5, "a-5"))
    newer = await opened(file, Notes(version=2))
    assert (newer.generation, newer.paused) == (2, True), "the projection is paused, whatever its version"
    await newer.write_paused(False, Checkpoint(0, ""))
    assert not (await opened(file, Notes(version=2))).paused


async def test_writer_that_lost_its_lease_does_not_pause(file: SqliteReadStore) -> None:
    writer, other = await opened(file), await opened(file)
    await commit(other, log_of([Noted(key="a", text="x")]))
    with pytest.raises(LeaseLostError):
        await writer.write_paused(True, Checkpoint(0, ""))
    assert not writer.paused
    assert not (await opened(file)).paused
    ((level,),) = await file.run(lambda: file.connection.execute("PRAGMA synchronous").fetchall())
    assert level == 1, "it is NORMAL again"


async def test_store_refuses_another_shape_of_the_same_version(file: SqliteReadStore) -> None:
    await opened(file)
    with pytest.raises(StartError, match=r"columns of projection notes have changed .* still 1: raise the version"):
        await opened(file, Notes(columns=False))


async def test_newer_version_is_filled_beside_the_older_one(file: SqliteReadStore) -> None:
    await commit(await opened(file), log_of([Noted(key="a", text="x")]))
    newer = await opened(file, Notes(version=2, columns=False))
    assert (newer.generation, newer.stored) == (2, (0, ""))
    assert checkpoint(file) == [(1, 1, "a-1")], "the old one answers, until the new one has caught up"
    assert read(file, "SELECT key FROM notes_g1") == [("a",)]
    assert (await opened(file)).generation == 1, "and is folded on"
