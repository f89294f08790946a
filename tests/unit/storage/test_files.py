"""Files and folders: private, durable, and one path for each database."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from command_server.maintenance.backup import back_up, restore
from command_server.store.event_store import StoreUnavailable
from command_server.store.sqlite_store import SqliteEventStore
from diptych.server.errors import StartError
from diptych.storage.files import make_file, make_folder
from projector.store.sqlite_read_store import SqliteReadStore


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def silent(done: int, total: int) -> None:
    return None


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that were synced, in order."""
    paths: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return paths


def test_bug_new_folders_were_not_synced(tmp_path: Path, synced: list[str]) -> None:
    make_folder(tmp_path / "new" / "deep" / "er")
    assert synced == [str(tmp_path), str(tmp_path / "new"), str(tmp_path / "new" / "deep")]
    assert [mode(tmp_path / name) for name in ("new", "new/deep", "new/deep/er")] == [0o700] * 3
    make_folder(tmp_path / "new" / "deep" / "er")
    assert len(synced) == 3, "what exists stays as it is"


def test_a_new_file_is_private_and_its_entry_is_synced(tmp_path: Path, synced: list[str]) -> None:
    make_file(tmp_path / "some.db")
    assert (mode(tmp_path / "some.db"), synced) == (0o600, [str(tmp_path)])
    (tmp_path / "some.db").write_text("content")
    (tmp_path / "some.db").chmod(0o640)
    make_file(tmp_path / "some.db")
    assert ((tmp_path / "some.db").read_text(), mode(tmp_path / "some.db")) == ("content", 0o640)


async def test_log_read_store_and_backup_are_readable_for_their_owner_only(tmp_path: Path, synced: list[str]) -> None:
    folder = tmp_path / "new" / "data"
    log, reading = SqliteEventStore(folder / "log.db"), SqliteReadStore(folder / "read.db", "127.0.0.1:1")
    await log.open()
    await reading.open()
    assert {str(tmp_path), str(tmp_path / "new"), str(folder)} <= set(synced)
    back_up(folder / "log.db", tmp_path / "backups" / "b.db", silent)
    await log.close()
    await reading.close()
    restore(tmp_path / "backups" / "b.db", folder / "log.db", silent, force=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"log.db", "log.db.lock", "read.db", "b.db"}
    assert {path.name: mode(path) for path in files} == {path.name: 0o600 for path in files}
    assert {mode(path) for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}


async def test_a_restore_keeps_the_mode_of_the_replaced_log(tmp_path: Path) -> None:
    log = SqliteEventStore(tmp_path / "log.db")
    await log.open()
    await log.close()
    back_up(tmp_path / "log.db", tmp_path / "b.db", silent)
    (tmp_path / "log.db").chmod(0o640)
    restore(tmp_path / "b.db", tmp_path / "log.db", silent, force=True)
    assert mode(tmp_path / "log.db") == 0o640


async def test_bug_a_symbolic_link_let_a_second_server_write_the_log(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    first = SqliteEventStore(tmp_path / "log.db", "127.0.0.1:1")
    await first.open()
    (tmp_path / "elsewhere" / "other.db").symlink_to(tmp_path / "log.db")
    (tmp_path / "folder").symlink_to(tmp_path)
    for name in ("elsewhere/other.db", "folder/log.db"):
        with pytest.raises(StartError, match=r"in use by another process .*address=127\.0\.0\.1:1"):
            await SqliteEventStore(tmp_path / name, "127.0.0.1:2").open()
    await first.close()
    through = SqliteEventStore(tmp_path / "elsewhere" / "other.db", "127.0.0.1:2")
    await through.open()
    (tmp_path / "elsewhere" / "other.db").unlink()
    with pytest.raises(StoreUnavailable, match="was removed"):
        through.check_files()
    await through.close()
    back_up(tmp_path / "log.db", tmp_path / "b.db", silent)
    (tmp_path / "link.db").symlink_to(tmp_path / "log.db")
    restore(tmp_path / "b.db", tmp_path / "link.db", silent, force=True)
    assert (tmp_path / "link.db").is_symlink(), "the log is restored, and the link leads to it"


async def test_a_symbolic_link_lets_no_second_projector_write_the_read_store(tmp_path: Path) -> None:
    first = SqliteReadStore(tmp_path / "read.db", "127.0.0.1:1")
    await first.open()
    (tmp_path / "other.db").symlink_to(tmp_path / "read.db")
    with pytest.raises(StartError, match="in use by another process"):
        await SqliteReadStore(tmp_path / "other.db", "127.0.0.1:2").open()
    await first.close()


async def test_a_database_with_two_names_by_a_hard_link_is_refused(tmp_path: Path) -> None:
    for name, store in (
        ("log.db", SqliteEventStore(tmp_path / "log.db")),
        ("read.db", SqliteReadStore(tmp_path / "read.db", "127.0.0.1:1")),
    ):
        await store.open()
        await store.close()
        (tmp_path / f"second-{name}").hardlink_to(tmp_path / name)
    with pytest.raises(StoreUnavailable, match="another name by a hard link"):
        await SqliteEventStore(tmp_path / "log.db").open()
    with pytest.raises(StartError, match="another name by a hard link"):
        await SqliteReadStore(tmp_path / "second-read.db", "127.0.0.1:1").open()
