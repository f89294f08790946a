"""DSNs: paths with any characters, and DSNs that name something else than a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.cli.server_children import UpSettings
from diptych.server.dsn import check_dsn, sqlite_dsn, sqlite_path
from diptych.server.settings import CommandServerSettings, ProjectorSettings

FOLDERS = ["per%20cent", "what?x=1", "a#b", "a b", "ü", "a+b@c:d", "100%", "%3F%", "plain", "a&b=c;d'e\"f\\g"]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("root", ["/data", "data", "./data", ".."])
def test_bug_a_data_folder_with_percent_or_question_mark_kept_its_data_elsewhere(root: str, folder: str) -> None:
    path = Path(root, folder, "log.db")
    assert sqlite_path(check_dsn(sqlite_dsn(path))) == path


@pytest.mark.parametrize("folder", FOLDERS)
def test_up_gives_its_servers_the_files_of_its_data_folder(folder: str, tmp_path: Path) -> None:
    settings = UpSettings.model_validate({"data": tmp_path / folder})
    log = CommandServerSettings.model_validate({"log": settings.log_dsn}).log
    read_store = ProjectorSettings.model_validate({"read_store": settings.read_store_dsn}).read_store
    assert [sqlite_path(log), sqlite_path(read_store)] == [tmp_path / folder / name for name in ("log.db", "read.db")]


@pytest.mark.parametrize(
    ("dsn", "sentence"),
    [
        (
            "sqlite://data/log.db",
            r"three slashes before a path; use sqlite:///data/log\.db, or sqlite:////data/log\.db",
        ),
        ("sqlite://log.db", r"use sqlite:///log\.db"),
        ("sqlite://me:secret@host/log.db", "three slashes"),
        ("sqlite:///data/what?/log.db", "write a . in a path as %3F"),
        ("sqlite:///log.db?mode=ro", "takes no parameters"),
        ("sqlite://", "must name a file"),
        ("sqlite:///", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:///a%00b", "NUL"),
        ("sqlite+aiosqlite:///log.db", r"sqlite\+aiosqlite is not served"),
        ("postgresql://host/db", "postgresql is not served"),
        ("postgresql://host:port/db", "must be a DSN"),
        ("data/log.db", "must be a DSN"),
    ],
)
def test_a_dsn_that_names_no_file_is_refused_with_the_right_form(dsn: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_dsn(dsn)
