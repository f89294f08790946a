"""The event store on SQLite: the parts that no other backend has."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from command_server.log_watch import LogWatch
from command_server.store import sqlite_database
from command_server.store.event_store import CommitNotKnown, EpochBegun, StoreUnavailable
from command_server.store.records import Decided, NewEvent, Reads, Work, WorkKind
from command_server.store.schema import TABLES_SINCE_2, TABLES_SINCE_3
from command_server.store.sqlite_commit import BatchLoader
from command_server.store.sqlite_store import SqliteEventStore
from diptych.contract.token import Epoch
from diptych.server.errors import StartError
from diptych.server.health import Health

NOTHING = Reads({}, {}, ())


async def append(store: SqliteEventStore, stream: str, version: int, **decided: object) -> int:
    """Append an event, and return its position."""
    events = [NewEvent(stream, version, "test.Happened", b"")]
    reads = Reads({stream: -1}, {}, ())
    committed = await store.commit(reads, lambda loaded: Decided(events=events, **decided))  # type: ignore[arg-type]
    return committed.first_position


async def test_a_log_of_version_1_is_opened_with_the_tables_of_processes(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    store = SqliteEventStore(path)
    await store.open()
    await append(store, "test/a", 1)
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        for table in TABLES_SINCE_2 | TABLES_SINCE_3:
            old.execute(f"DROP TABLE {table}")
        old.execute("ALTER TABLE requests DROP COLUMN accepted_at")
        old.execute("UPDATE log SET schema_version = 1")
    store = SqliteEventStore(path)
    await store.open()
    await append(store, "test/p", 1, opened=[Work(-1, 0, "process", "p1", WorkKind.COMMAND, 0)])
    assert await store.read_work((0, 0), 10) == [Work(2, 0, "process", "p1", WorkKind.COMMAND, 0)]
    assert (await store.head()).position == 2
    await store.close()


async def test_a_log_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    store = SqliteEventStore(path)
    await store.open()
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute("UPDATE log SET schema_version = 99")
    with pytest.raises(StartError, match="has schema version 99, and this program has 3"):
        await SqliteEventStore(path).open()


async def test_an_epoch_that_begins_after_the_opening_is_read_and_refuses_commits(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    store = SqliteEventStore(path)
    await store.open()
    await append(store, "test/a", 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as restoring:
        restoring.execute("INSERT INTO epochs VALUES (2, 2)")
        restoring.execute("UPDATE log SET epoch = 2")
    assert (await store.head()).identity.epochs == (Epoch(1, 1), Epoch(2, 2))
    with pytest.raises(EpochBegun):
        await append(store, "test/a", 2)
    assert (await store.head()).position == 1
    await store.close()


async def test_a_value_is_not_moved_from_a_stream_that_does_not_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision that was given a wrong holder records nothing."""
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()
    await store.commit(NOTHING, lambda loaded: Decided(claims={"u:1": "test/a"}))
    with monkeypatch.context() as patch:
        wrong = dict.fromkeys(("u:1",), "test/x")
        patch.setattr(BatchLoader, "load_holders", lambda self, keys: self.holders.update(wrong))
        with pytest.raises(StoreUnavailable, match="test/x does not hold"):
            await store.commit(NOTHING, lambda loaded: Decided(claims={"u:1": "test/b"}))
    holders: list[object] = []

    def look_up(loaded: object) -> Decided:
        holders.append(dict(loaded.holders))  # type: ignore[attr-defined]
        return Decided(lookups=() if holders[-1] else ("u:1",))

    await store.commit(NOTHING, look_up)
    assert holders[-1] == {"u:1": "test/a"}
    await store.close()


async def test_an_error_of_sqlite_is_an_error_of_the_store(tmp_path: Path) -> None:
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as broken:
        broken.execute("DROP TABLE process_marks")
    with pytest.raises(StoreUnavailable, match="SQLITE_ERROR: no such table: process_marks"):
        await store.process_marks()
    with pytest.raises(StoreUnavailable, match="SQLITE_ERROR: no such table: process_marks"):
        await store.put_process_marks({"one": 1})
    await store.close()


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
async def test_bug_commands_were_acknowledged_into_a_log_that_was_removed(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"log.db{suffix}"
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()
    await append(store, "test/a", 1)
    file.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="was removed while this server has it open"):
        await append(store, "test/b", 1)
    with pytest.raises(StoreUnavailable, match="was removed"):
        await store.put_process_marks({"one": 1})
    with pytest.raises(StoreUnavailable, match="was removed"):
        store.check_files()
    (tmp_path / "elsewhere").rename(file)
    store.check_files()
    assert await append(store, "test/c", 1) == 2, "the refused commit recorded nothing"
    await store.close()


async def test_a_log_that_is_removed_during_the_commit_leaves_its_outcome_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()

    def commit(connection: sqlite3.Connection) -> None:
        connection.execute("COMMIT")
        (tmp_path / "log.db").unlink()

    monkeypatch.setattr(sqlite_database, "_commit", commit)
    with pytest.raises(CommitNotKnown, match="was removed"):
        await append(store, "test/a", 1)
    await store.close()


async def test_health_follows_the_log_file(tmp_path: Path) -> None:
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()
    health = Health("127.0.0.1:1")
    watch = LogWatch(store, health, {"", "shop.v1.CommandService"})
    await watch.check()
    assert health.serving == {}
    (tmp_path / "log.db").rename(tmp_path / "elsewhere")
    await watch.check()
    assert health.serving == {"": False, "shop.v1.CommandService": False}
    (tmp_path / "elsewhere").rename(tmp_path / "log.db")
    await watch.check()
    assert health.serving == {"": True, "shop.v1.CommandService": True}
    await store.close()
