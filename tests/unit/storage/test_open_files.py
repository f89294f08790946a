"""Open files: a file that lost its name is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.storage.open_files import OpenFiles


@pytest.fixture
def files(tmp_path: Path) -> OpenFiles:
    """Watch of a database with its write-ahead log, and without an index."""
    for name in ("some.db", "some.db-wal"):
        (tmp_path / name).write_text(name)
    files = OpenFiles(tmp_path / "some.db")
    files.remember()
    return files


@pytest.mark.parametrize("name", ["some.db", "some.db-wal"])
def test_a_removed_file_is_a_fault_until_it_is_back(files: OpenFiles, tmp_path: Path, name: str) -> None:
    assert files.fault() == ""
    (tmp_path / name).rename(tmp_path / "elsewhere")
    assert f"{tmp_path / name} was removed while this server has it open" in files.fault()
    (tmp_path / "elsewhere").rename(tmp_path / name)
    assert files.fault() == ""


def test_a_replaced_file_is_a_fault(files: OpenFiles, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("some.db")
    (tmp_path / "other").replace(tmp_path / "some.db")
    assert "was replaced by another file" in files.fault()


def test_a_link_that_leads_to_another_file_is_a_fault(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    files = OpenFiles(tmp_path / "link")
    files.remember()
    assert files.fault() == ""
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "two")
    assert "was replaced" in files.fault()


def test_a_written_file_is_no_fault(files: OpenFiles, tmp_path: Path) -> None:
    (tmp_path / "some.db").write_text("other content")
    (tmp_path / "some.db-shm").write_text("a file that was not there")
    assert files.fault() == ""
