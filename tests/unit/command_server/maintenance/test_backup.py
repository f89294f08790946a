"""Backup and restore of the log's file: consistency, refusals and epochs."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from command_server.maintenance.backup import back_up, restore
from command_server.maintenance.log_file import LogFileError
from command_server.store.records import Decided, LogHead, NewEvent, Reads
from command_server.store.sqlite_store import SqliteEventStore
from diptych.contract.token import Epoch
from diptych.storage.connections import open_read_only
from diptych.v1.events_pb2 import RecordedEvent


def silent(done: int, total: int) -> None:
    return None


async def record(path: Path, count: int, *, stream: str = "note/1") -> LogHead:
    """Append `count` events to the log, close it and return its head."""
    store = SqliteEventStore(path)
    await store.open()
    first = (await store.head()).position + 1
    events = [
        NewEvent(
            f"{stream}-{at}",
            1,
            "test.Happened",
            RecordedEvent(version=1, event_id=f"{stream}@{at}".ljust(400)).SerializeToString(),
        )
        for at in range(first, first + count)
    ]
    await store.commit(Reads({one.stream: -1 for one in events}, {}, ()), lambda loaded: Decided(events=events))
    head = await store.head()
    await store.close()
    return head


async def opened(path: Path) -> LogHead:
    """Open the log as a server does, close it and return its head."""
    store = SqliteEventStore(path)
    await store.open()
    head = await store.head()
    await store.close()
    return head


def rows(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def pages_of(path: Path) -> int:
    ((pages,),) = rows(path, "PRAGMA page_count")
    assert isinstance(pages, int)
    return pages


async def test_a_copy_is_of_one_moment_when_the_log_is_written_meanwhile(tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    await record(log, 5000)
    steps = []
    with closing(sqlite3.connect(log, isolation_level=None, timeout=0)) as writing:

        def progress(done: int, total: int) -> None:
            # Another connection commits between all steps, without waiting.
            steps.append((done, total))
            writing.execute("UPDATE log SET head = head + 1")

        done = back_up(log, tmp_path / "copies" / "backup.db", progress)

    assert len(steps) > 1, "it was copied at once, and nothing came between"
    assert steps[-1][0] == steps[-1][1]
    assert done.log.head == 5000
    assert rows(tmp_path / "copies" / "backup.db", "SELECT head FROM log") == [(5000,)]
    assert rows(log, "SELECT head FROM log") == [(5000 + len(steps),)]
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["backup.db"]


async def test_a_restored_log_begins_an_epoch_after_all_earlier_ones(tmp_path: Path) -> None:
    log, backup = tmp_path / "log.db", tmp_path / "backup.db"
    first = (await record(log, 3)).identity
    back_up(log, backup, silent)
    await record(log, 4)
    assert restore(backup, log, silent, force=True).lost == 4

    second = await opened(log)
    assert second.identity.log_id == first.log_id
    assert second.identity.epochs == (Epoch(1, 1), Epoch(2, 4))
    assert second.position == 3

    await record(log, 2)
    restored = restore(backup, log, silent, force=True)
    assert restored.lost == 2
    assert (await opened(log)).identity.epochs == (Epoch(1, 1), Epoch(3, 4))
    assert (await record(log, 1)).identity.token(4) > second.identity.token(5) > first.token(7)

    log.unlink()
    restore(backup, log, silent, after_epoch=7)
    assert (await opened(log)).identity.epochs == (Epoch(1, 1), Epoch(8, 4))


async def test_a_restored_log_is_the_backup_without_anything_of_the_replaced_log(tmp_path: Path) -> None:
    log, backup = tmp_path / "log.db", tmp_path / "backup.db"
    await record(log, 3)
    back_up(log, backup, silent)
    # As a killed server leaves it: what it recorded last is in the write-ahead log alone.
    with closing(sqlite3.connect(log, isolation_level=None)) as killed:
        killed.execute("PRAGMA wal_autocheckpoint=0")
        killed.execute("UPDATE log SET head = 99")
        crashed = tmp_path / "crashed" / "log.db"
        crashed.parent.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"log.db{suffix}", tmp_path / "crashed" / f"log.db{suffix}")

    assert restore(backup, crashed, silent, force=True).lost == 96
    assert rows(crashed, "SELECT head FROM log") == [(3,)]
    assert rows(crashed, "SELECT * FROM events") == rows(backup, "SELECT * FROM events")
    assert sorted(path.name for path in crashed.parent.iterdir()) == ["log.db", "log.db.lock"]


async def test_a_log_that_cannot_be_read_is_replaced_with_a_warning(tmp_path: Path) -> None:
    log, backup = tmp_path / "log.db", tmp_path / "backup.db"
    await record(log, 3)
    back_up(log, backup, silent)
    log.write_bytes(b"no database at all" * 1000)
    (tmp_path / "log.db-wal").write_bytes(b"of the log that is lost")

    done = restore(backup, log, silent, force=True)

    assert done.lost is None
    assert "no SQLite file" in done.unreadable
    assert (await opened(log)).identity.epochs == (Epoch(1, 1), Epoch(2, 4))


async def test_an_existing_log_or_backup_is_not_overwritten_without_force(tmp_path: Path) -> None:
    log, backup = tmp_path / "log.db", tmp_path / "backup.db"
    await record(log, 3)
    back_up(log, backup, silent)
    before = (log.read_bytes(), backup.read_bytes())

    with pytest.raises(LogFileError, match="exists"):
        back_up(log, backup, silent)
    with pytest.raises(LogFileError, match="exists"):
        restore(backup, log, silent)
    with pytest.raises(LogFileError, match="itself"):
        back_up(log, log, silent, force=True)
    with pytest.raises(LogFileError, match="itself"):
        restore(log, log, silent, force=True)
    with pytest.raises(LogFileError, match="There is no log"):
        back_up(tmp_path / "absent.db", tmp_path / "another.db", silent)
    with pytest.raises(LogFileError, match="There is no backup"):
        restore(tmp_path / "absent.db", tmp_path / "another.db", silent)

    assert (log.read_bytes(), backup.read_bytes()) == before
    assert not (tmp_path / "another.db").exists()
    back_up(log, backup, silent, force=True)


async def test_a_log_in_use_is_not_replaced(tmp_path: Path) -> None:
    log, backup = tmp_path / "log.db", tmp_path / "backup.db"
    await record(log, 3)
    back_up(log, backup, silent)
    server = SqliteEventStore(log, "127.0.0.1:50051")
    await server.open()
    with pytest.raises(LogFileError, match=r"in use by another process \(pid=\d+ address=127.0.0.1:50051\)"):
        restore(backup, log, silent, force=True)
    await server.close()

    with closing(open_read_only(log)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM log").fetchall()
        with pytest.raises(LogFileError, match="being read, by a backup or a check"):
            restore(backup, log, silent, force=True)
    restore(backup, log, silent, force=True)


def damage_a_page(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * 4096)


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def replace(path: Path) -> None:
    path.write_bytes(b"text, and no database" * 100)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a page": (damage_a_page, "damaged|malformed"),
    "half of it": (truncate, "damaged|malformed"),
    "another file": (
        replace,
        "no SQLite file|not a database",
    ),
    "another database": (lambda path: change(path, "DROP TABLE requests"), "something else, and no log"),
    "the head": (
        lambda path: change(path, "UPDATE log SET head = 2001"),
        "head is 2001, and its last event is at 2000",
    ),
    "an event": (lambda path: change(path, "DELETE FROM events WHERE position = 7"), "1 are missing"),
    "the schema": (lambda path: change(path, "UPDATE log SET schema_version = 99"), "schema version 99"),
    "the epochs": (
        lambda path: change(path, "DELETE FROM epochs"),
        "has no log id or no epoch: its creation did not finish",
    ),
    "the epoch": (lambda path: change(path, "UPDATE log SET epoch = 5"), "in epoch 5"),
}


@pytest.mark.parametrize("what", DAMAGES)
async def test_a_damaged_backup_is_refused_and_changes_nothing(tmp_path: Path, what: str) -> None:
    harm, sentence = DAMAGES[what]
    log, backup = tmp_path / "log.db", tmp_path / "backup.db"
    await record(log, 2000)
    back_up(log, backup, silent)
    harm(backup)
    before = log.read_bytes()

    with pytest.raises(LogFileError, match=sentence):
        restore(backup, log, silent, force=True)
    with pytest.raises(LogFileError, match=sentence):
        restore(backup, tmp_path / "new" / "log.db", silent)

    assert log.read_bytes() == before
    # Who only reads a log leaves an empty write-ahead log beside it.
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(("-wal", "-shm")))
    assert left == ["backup.db", "log.db", "log.db.lock", "new"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["log.db.lock"]


@pytest.mark.parametrize("journals", [("-wal",), ("-wal", "-shm")])
async def test_the_valid_journal_of_a_damaged_log_is_not_applied_to_the_restored_one(
    tmp_path: Path, journals: tuple[str, ...]
) -> None:
    log, backup, crashed = tmp_path / "log.db", tmp_path / "backup.db", tmp_path / "crashed" / "log.db"
    await record(log, 3)
    back_up(log, backup, silent)
    crashed.parent.mkdir()
    with closing(sqlite3.connect(log, isolation_level=None)) as killed:
        killed.execute("PRAGMA journal_mode=WAL")
        killed.execute("PRAGMA wal_autocheckpoint=0")
        killed.execute("UPDATE log SET head = 99")
        for suffix in ("", *journals):
            shutil.copy(tmp_path / f"log.db{suffix}", tmp_path / "crashed" / f"log.db{suffix}")
    assert rows(shutil.copytree(crashed.parent, tmp_path / "proof") / "log.db", "SELECT head FROM log") == [(99,)], (
        "SQLite applies this journal"
    )
    with crashed.open("r+b") as file:
        file.write(b"no database at all")

    done = restore(backup, crashed, silent, force=True)

    assert (done.lost, done.log.head) == (None, 3)
    assert rows(crashed, "SELECT head, epoch FROM log") == [(3, 2)]
    opened_log = await opened(crashed)
    assert (opened_log.position, opened_log.identity.epochs) == (3, (Epoch(1, 1), Epoch(2, 4)))
    assert (await record(crashed, 1)).position == 4
