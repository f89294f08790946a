"""Opening of a read store's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.server.errors import StartError
from projector.store.sqlite_read_store import SqliteReadStore
from tests.support.read_stores import opened_store


async def test_open_is_refused_with_the_holder_when_another_projector_has_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "read.db"
    async with opened_store(path):
        with pytest.raises(StartError, match=r"pid=\d+ address=127.0.0.1:1"):
            await SqliteReadStore(path, "127.0.0.1:2").open()


async def test_open_is_refused_when_the_file_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "read.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StartError, match="cannot be opened"):
        await SqliteReadStore(path, "127.0.0.1:1").open()
    path.unlink()
    again = SqliteReadStore(path, "127.0.0.1:1")
    await again.open()  # The lock was given back.
    await again.close()
