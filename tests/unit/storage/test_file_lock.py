"""File lock: one holder, named to others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diptych.server.errors import StartError
from diptych.storage.file_lock import FileLock


def test_second_holder_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "log.db.lock"
    first, second = FileLock(path, "127.0.0.1:1"), FileLock(path, "127.0.0.1:2")
    first.acquire()
    assert second.attempt() == f"pid={os.getpid()} address=127.0.0.1:1"
    with pytest.raises(StartError, match=r"log\.db is in use by another process \(pid=\d+ address=127\.0\.0\.1:1\)\."):
        second.acquire()
    first.release()
    assert second.attempt() is None
    assert "address=127.0.0.1:2" in path.read_text()
    second.release()
    assert path.exists(), "removing it would let two processes lock it"
