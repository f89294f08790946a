"""File locks: one owner to a database file, named to whoever comes second."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from diptych.server.errors import StartError


class FileLock:
    """An `flock` on a file that says who holds it. It goes with the process, however that ends."""

    def __init__(self, path: Path, owner: str) -> None:
        self._path = path
        self._owner = owner
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock; raises `StartError`, naming the holder, if another process has it."""
        holder = self.attempt()
        if holder is not None:
            raise StartError(f"{self._path.with_suffix('')} is in use by another process ({holder}).")

    def attempt(self) -> str | None:
        """Takes the lock, and returns None; or who has it, if another process does."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 1000).decode(errors="replace").strip()
            os.close(descriptor)
            return holder or "unnamed"
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # A full disk: the lock holds all the same, unnamed.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid={os.getpid()} address={self._owner}\n".encode(), 0)
        return None

    def release(self) -> None:
        """Gives the lock back. The file stays: removing it would let two in."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
