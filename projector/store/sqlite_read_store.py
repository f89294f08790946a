"""Read store on SQLite: one file, one connection that writes, and a thread of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from diptych.domain.projection import Projection
from diptych.server import failpoints
from diptych.server.dsn import sqlite_dsn
from diptych.server.errors import StartError
from diptych.storage.database_thread import DatabaseThread
from diptych.storage.errors import ReadStoreError
from diptych.storage.files import make_file, make_folder, resolve_database
from diptych.storage.open_files import OpenFiles
from diptych.storage.read_store import Generation, GenerationStore, Handover, Lease, LeaseHolder, ReadStore
from diptych.storage.wal_checkpoints import WalCheckpoints
from projector.store import generations
from projector.store.leases import Leases
from projector.store.sqlite_connection import connect, transaction
from projector.store.sqlite_generation import SqliteGenerationStore
from projector.store.store_reader import StoreReader
from projector.store.switch import switch

_CHECKPOINT_PAGES = 8000
"""Pages between two checkpoints. Catching up changes the same pages often, so they are not copied back at once."""

A = ParamSpec("A")
T = TypeVar("T")


class SqliteReadStore(ReadStore):
    """One SQLite file, opened for writing. `run` runs everything that touches the connection on one thread."""

    def __init__(self, path: Path, owner: str, *, roll_back: bool = False) -> None:
        """Prepare a store; `open` opens it.

        Args:
            path: The file.
            owner: HOST:PORT of this projector, for other projectors on the file.
            roll_back: True to return to the code's versions of projections from newer ones.
        """
        self.path = path.resolve()
        self._roll_back = roll_back
        self.description = str(path)
        self.leases = Leases(path, owner)
        self.connection: sqlite3.Connection
        """For functions that `run` runs."""
        self._thread = DatabaseThread("read-store")
        self._files = OpenFiles(path)
        self._checkpoints = WalCheckpoints(self.path, "read-store-checkpoints", _CHECKPOINT_PAGES)
        self._reader = StoreReader(sqlite_dsn(path))

    @property
    def primary(self) -> bool:  # type: ignore[override]
        """True for the projector that came first on the file."""
        return self.leases.primary

    async def open(self, projections: Iterable[Projection] = ()) -> None:
        """Lock projections and open the file, creating it if it doesn't exist. Raise `StartError`."""
        try:
            make_folder(self.path.parent)
            resolve_database(self.path)
            self.leases.acquire_free(projections)
        except OSError as error:
            raise StartError(f"The read store {self.path} cannot be opened: {error}.") from error
        try:
            await self.run(self._connect)
        except (ReadStoreError, OSError) as error:
            self.leases.release()
            raise StartError(f"The read store {self.path} cannot be opened: {error}.") from error

    async def close(self) -> None:
        """Finish the calls of `run` that were begun, close the file and release the leases."""
        await self._reader.close()
        await asyncio.to_thread(self._checkpoints.close)
        await self._thread.run(self._disconnect)
        await self._thread.close()
        self.leases.release()

    async def run(self, function: Callable[A, T], /, *args: A.args, **kwargs: A.kwargs) -> T:
        """Run a function on the database's thread.

        Raises:
            ReadStoreError: In place of an error of the driver, or as the file was removed or replaced.
        """

        def call() -> T:
            if fault := self._files.fault():
                raise ReadStoreError(fault)
            try:
                result = function(*args, **kwargs)
            except sqlite3.Error as error:
                raise ReadStoreError(str(error)) from error
            self._checkpoints.written(self.connection)
            return result

        return await self._thread.run(call)

    def become_primary(self) -> bool:
        """Take the place of the first projector if it has ended. Return True if this projector has it."""
        return self.leases.become_primary()

    async def acquire(self, projection: Projection) -> Lease | LeaseHolder:
        """Acquire the lease of a projection's version, or return its holder."""
        holder = self.leases.acquire(projection)
        if holder is not None:
            return holder
        return await self._in_transaction(generations.take_up, projection, self.description, roll_back=self._roll_back)

    async def generations(self, projection: str) -> list[Generation]:
        """Return the generations of a projection by number, without dropped ones."""
        return await self._reader.generations(projection)

    async def open_generation(self, lease: Lease, generation: int) -> GenerationStore:
        """Open a generation for writing."""
        store = SqliteGenerationStore(self, self._reader, lease, generation)
        await self.run(store.load)
        return store

    async def begin(self, lease: Lease) -> int:
        """Create a generation to be filled; return its number."""
        return await self._in_transaction(generations.begin_filling, lease)

    async def begin_return(self, lease: Lease, generation: int) -> bool:
        """Begin to fill a kept generation up to the head, to make it active again. Return False if there is none."""
        return await self._in_transaction(generations.begin_return, lease, generation)

    async def cancel(self, lease: Lease, generation: int) -> None:
        """Cancel the filling of a generation. One that was active before is kept; a new one is dropped."""
        await self._in_transaction(generations.cancel, lease, generation)

    async def switch(self, old: Handover | None, new: Handover) -> None:
        """Make one generation active in place of another and write both checkpoints, in one transaction."""
        await self.run(self._switch, old, new)

    async def drop_some(self, lease: Lease) -> bool:
        """Delete some rows of a dropped generation, or its empty tables. Return True if there is more to drop."""
        return await self._in_transaction(generations.drop_some, lease)

    async def _in_transaction(
        self, function: Callable[Concatenate[sqlite3.Connection, A], T], /, *args: A.args, **kwargs: A.kwargs
    ) -> T:
        def call() -> T:
            with transaction(self.connection):
                return function(self.connection, *args, **kwargs)

        return await self.run(call)

    def _switch(self, old: Handover | None, new: Handover) -> None:
        handovers = [new] if old is None else [old, new]
        store = new[0]
        assert isinstance(store, SqliteGenerationStore)

        def led_elsewhere(versions: Collection[int]) -> frozenset[int]:
            return self.leases.led_elsewhere(store.projection.name, versions)

        with transaction(self.connection):
            for generation, checkpoint in handovers:
                assert isinstance(generation, SqliteGenerationStore)
                generation.write_checkpoint(checkpoint)
            switch(self.connection, store.lease, store.generation, led_elsewhere)
        failpoints.hit("switch.committed")
        for generation, checkpoint in handovers:
            generation.stored = checkpoint

    def _connect(self) -> None:
        make_file(self.path)
        self.connection = connect(self.path)
        self._files.remember()

    def _disconnect(self) -> None:
        self.connection.close()
