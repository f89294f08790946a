"""Leases: the lock files of projectors on one read store."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.domain.projection import Projection
from diptych.server.errors import StartError
from projector.store.leases import Leases
from tests.support.notes import Notes


def test_leases_are_by_version_and_the_store_lock_names_the_first_projector(tmp_path: Path) -> None:
    def notes(version: int, name: str = "notes") -> Projection:
        return Notes(name, version=version).projection

    path = tmp_path / "read.db"
    first, second, third = (Leases(path, f"127.0.0.1:{port}") for port in (1, 2, 3))
    first.acquire_free([notes(1), notes(1, "others")])
    with pytest.raises(StartError, match=r"read.db is in use by another process \(pid=\d+ address=127.0.0.1:1\)"):
        second.acquire_free([notes(1), notes(1, "others")])
    second.acquire_free([notes(2), notes(1, "others")])
    assert second.acquire(notes(2)) is None
    assert "127.0.0.1:1" in str(second.acquire(notes(1, "others")))
    assert second.led_elsewhere("notes", [1, 3]) == {1}
    assert not second.become_primary()
    first.release()
    assert second.acquire(notes(1, "others")) is None
    # The file's own lock is free now, and its versions are not.
    with pytest.raises(StartError, match=r"127\.0\.0\.1:2"):
        third.acquire_free([notes(2), notes(1, "others")])
    assert second.become_primary()
    assert "address=127.0.0.1:2" in path.with_name("read.db.lock").read_text()
    second.release()
