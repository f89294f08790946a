"""Files of an open SQLite database, watched under their names.

A process goes on writing a file that was removed, and its content is lost.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_SUFFIXES = ("-wal", "-shm")
_FAULT = "{name} {change} while this server has it open; move the file back, or stop the server"


class OpenFiles:
    """Identities of the files that a process has open: the database, its write-ahead log and the log's index."""

    def __init__(self, path: Path) -> None:
        """Prepare the watch; `remember` begins it.

        Args:
            path: File of the database.
        """
        # SQLite keeps the other two beside the file that a symbolic link leads to.
        self._names = (os.fspath(path), *(os.fspath(path.resolve()) + suffix for suffix in _SUFFIXES))
        self._identities: dict[str, tuple[int, int]] = {}

    def remember(self) -> None:
        """Read the identity of each file. The database is open, and a statement has run on it."""
        self._identities.clear()
        for name in self._names:
            with suppress(FileNotFoundError):
                status = Path(name).stat()
                self._identities[name] = status.st_dev, status.st_ino

    def fault(self) -> str:
        """Return a clause about the first file that has another identity now; empty if there is none.

        Costs about 2 microseconds for each file.
        """
        for name, (device, inode) in self._identities.items():
            try:
                status = os.stat(name)  # noqa: PTH116 - a path object costs more.
            except OSError:
                return _FAULT.format(name=name, change="was removed")
            if status.st_ino != inode or status.st_dev != device:
                return _FAULT.format(name=name, change="was replaced by another file")
        return ""
