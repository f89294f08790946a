"""Marks: for each type of process the position through which it has taken its inputs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import structlog

from command_server.store.event_store import EventStore, StoreUnavailable

_log = structlog.get_logger(__name__)

_WRITE_SECONDS = 1.0
"""Shortest time between two writes of the marks."""


class Mark:
    """The mark of one type of process, and the later events that are still with an instance."""

    def __init__(self, position: int) -> None:
        self.start = position
        """Mark at the start of the server."""
        self._read = position
        self._begun: deque[int] = deque()
        self._finished: set[int] = set()

    @property
    def position(self) -> int:
        """Position through which every event is recorded as a step or as a parked input."""
        while self._begun and self._begun[0] in self._finished:
            self._finished.discard(self._begun.popleft())
        return self._begun[0] - 1 if self._begun else self._read

    def begin(self, position: int) -> None:
        """Register an event that an instance is given. Positions ascend."""
        self._begun.append(position)

    def finish(self, position: int) -> None:
        """Register that an event is recorded as a step or as a parked input. A second call does nothing."""
        if self._begun and position >= self._begun[0]:
            self._finished.add(position)

    def read_through(self, position: int) -> None:
        """Register that the log was read up to a position."""
        self._read = max(self._read, position)


class Marks(Mapping[str, Mark]):
    """The marks of all types of process."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._marks: dict[str, Mark] = {}
        self._written: dict[str, int] = {}

    def __getitem__(self, process: str) -> Mark:
        return self._marks[process]

    def __iter__(self) -> Iterator[str]:
        return iter(self._marks)

    def __len__(self) -> int:
        return len(self._marks)

    async def load(self, processes: Iterable[str], head: int) -> None:
        """Read the marks of these types; a type without a mark starts at the head.

        Raises:
            StoreUnavailable: the store cannot read or write.
        """
        self._written = dict(await self._store.process_marks())
        new = {name: head for name in processes if name not in self._written}
        if new:
            await self._store.put_process_marks(new)
            self._written.update(new)
        self._marks = {name: Mark(self._written[name]) for name in processes}

    async def run(self) -> None:
        """Write changed marks every second until cancelled."""
        while True:
            await asyncio.sleep(_WRITE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write changed marks. If the store is not available, log that and leave them to the next write."""
        positions = {name: mark.position for name, mark in self._marks.items()}
        changed = {name: position for name, position in positions.items() if position != self._written[name]}
        if not changed:
            return
        try:
            await self._store.put_process_marks(changed)
        except StoreUnavailable as error:
            _log.warning("marks of processes not written", cause=str(error))
        else:
            self._written.update(changed)
