"""Leases on an SQLite read store: lock files that say which projector folds which projection.

Each version of a projection has a lock file, whose holder has the lease. The store itself has a lock file, too, held
by the projector that came first; when that one ends, another takes its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from diptych.domain.projection import Projection
from diptych.server.errors import StartError
from diptych.storage.file_lock import FileLock
from diptych.storage.read_store import LeaseHolder


class Leases:
    """Lock files of one projector on one read store."""

    def __init__(self, path: Path, owner: str) -> None:
        """Prepare the locks.

        Args:
            path: File of the read store. The lock files are beside it.
            owner: HOST:PORT of this projector.
        """
        self.primary = False
        """True while this projector holds the lock of the store itself."""
        self._path = path = path.resolve()
        self._owner = owner
        self._store_lock = FileLock(path.with_name(path.name + ".lock"), owner)
        self._locks: dict[str, FileLock] = {}

    def acquire_free(self, projections: Iterable[Projection] = ()) -> None:
        """Lock every projection that is free; without projections, the store itself.

        Raises:
            StartError: None is free. The message has the holder.
        """
        holder = self._store_lock.attempt()
        self.primary = holder is None
        holders = [self._attempt(projection) for projection in projections] or [holder]
        if None not in holders:
            self.release()
            raise StartError(f"{self._path} is in use by another process ({holder or holders[0]}).")

    def acquire(self, projection: Projection) -> LeaseHolder | None:
        """Lock a projection's version; return None, or the projector that has locked it."""
        owner = self._attempt(projection)
        if owner is None:
            return None
        address = re.search(r"address=(\S+)", owner)
        return LeaseHolder(owner, address[1] if address is not None else "")

    def become_primary(self) -> bool:
        """Lock the store itself if it is free. Return True if this projector has locked it."""
        self.primary = self.primary or self._store_lock.attempt() is None
        return self.primary

    def led_elsewhere(self, projection: str, versions: Iterable[int]) -> frozenset[int]:
        """Return the versions, of the given ones, that another projector has locked."""
        elsewhere = set()
        for version in versions:
            lock = self._lock(projection, version)
            if lock.attempt() is None:
                lock.release()
            else:
                elsewhere.add(version)
        return frozenset(elsewhere)

    def release(self) -> None:
        """Release all locks."""
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()
        self._store_lock.release()

    def _attempt(self, projection: Projection) -> str | None:
        if projection.name in self._locks:
            return None
        lock = self._lock(projection.name, projection.version)
        holder = lock.attempt()
        if holder is None:
            self._locks[projection.name] = lock
        return holder

    def _lock(self, projection: str, version: int) -> FileLock:
        return FileLock(self._path.with_name(f"{self._path.name}.{projection}.v{version}.lock"), self._owner)
