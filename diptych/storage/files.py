"""Folders and files that only their owner can read, and whose names survive a crash of the machine."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600


def make_folder(path: Path) -> None:
    """Create a folder with its missing parents, and sync the entry of each. One that exists stays as it is.

    Raises:
        OSError: A folder can't be created, or a file has its name.
    """
    missing = []
    while not path.is_dir():
        missing.append(path)
        if path.parent == path:
            break
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        sync(folder.parent)


def make_file(path: Path) -> None:
    """Create an empty file and sync its entry. A file that exists stays as it is.

    Raises:
        OSError: The file can't be created.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
    except FileExistsError:
        return
    sync(path.parent)


def sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def resolve_database(path: Path) -> Path:
    """Return the one path of a database's file, symbolic links resolved.

    Raises:
        OSError: The file has several names by hard links. SQLite would keep a write-ahead log for each name.
    """
    resolved = path.resolve()
    if resolved.is_file() and resolved.stat().st_nlink > 1:
        raise OSError(f"{path} has another name by a hard link; remove one of the names")
    return resolved
