"""Leads: which projections this projector folds, where several run on one read store.

Each version of a projection has a lock, whose holder leads it: it alone folds it. The file's own lock is that of the
projector that came first, and names it to whoever looks; when that one ends, another takes it over.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diptych.domain.projection import Projection
from diptych.server.errors import StartError
from diptych.storage.file_lock import FileLock


class Leads:
    """The locks of one projector on one read store."""

    def __init__(self, path: Path, owner: str) -> None:
        self._path = path
        self._owner = owner
        self._main = FileLock(path.with_name(path.name + ".lock"), owner)
        self.first = False
        """Whether it is the one that the file's own lock names."""
        self._led: dict[str, FileLock] = {}

    def take(self, projections: Iterable[Projection] = ()) -> None:
        """Takes what nobody has; raises `StartError`, naming the holder, if that is nothing."""
        holder = self._main.attempt()
        self.first = holder is None
        holders = [self.attempt(projection) for projection in projections] or [holder]
        if None not in holders:
            self.release()
            raise StartError(f"{self._path} is in use by another process ({holder or holders[0]}).")

    def attempt(self, projection: Projection) -> str | None:
        """Takes the lead of a projection, and returns None; or who has it, if another projector does."""
        if projection.name in self._led:
            return None
        lock = self._lock(projection.name, projection.version)
        holder = lock.attempt()
        if holder is None:
            self._led[projection.name] = lock
        return holder

    def come_first(self) -> bool:
        """Takes the file's own lock, if nobody has it; whether this projector has."""
        self.first = self.first or self._main.attempt() is None
        return self.first

    def led_elsewhere(self, projection: str, versions: Iterable[int]) -> frozenset[int]:
        """Those of some versions of a projection that another projector leads."""
        elsewhere = set()
        for version in versions:
            lock = self._lock(projection, version)
            if lock.attempt() is None:
                lock.release()
            else:
                elsewhere.add(version)
        return frozenset(elsewhere)

    def release(self) -> None:
        """Gives everything back."""
        for lock in self._led.values():
            lock.release()
        self._led.clear()
        self._main.release()

    def _lock(self, projection: str, version: int) -> FileLock:
        return FileLock(self._path.with_name(f"{self._path.name}.{projection}.v{version}.lock"), self._owner)
