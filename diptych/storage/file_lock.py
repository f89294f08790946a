"""File lock: one owner of a database file, with its name for other processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from diptych.server.errors import StartError


class FileLock:
    """`flock` on a file that contains the holder's name. It ends with the process, however that ends."""

    def __init__(self, path: Path, owner: str) -> None:
        """Prepare a lock.

        Args:
            path: The lock file.
            owner: Address of this process, for other processes.
        """
        self._path = path
        self._owner = owner
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Lock the file. Raise `StartError` with the holder's name if another process has locked it."""
        holder = self.attempt()
        if holder is not None:
            raise StartError(f"{self._path.with_suffix('')} is in use by another process ({holder}).")

    def attempt(self) -> str | None:
        """Lock the file; return None, or the holder's name if another process has locked it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 1000).decode(errors="replace").strip()
            os.close(descriptor)
            return holder or "unnamed"
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # On a full disk the lock holds without a name.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid={os.getpid()} address={self._owner}\n".encode(), 0)
        return None

    def release(self) -> None:
        """Unlock the file. The file stays: removing it would let two processes lock it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
