"""Read store that tests fill by hand, for tests of the query server."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from sqlalchemy import create_engine
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql.expression import Executable

from diptych.contract.identity_codec import identity_to_columns
from diptych.contract.token import LogIdentity
from diptych.domain.projection import Projection, View
from diptych.domain.values import stored
from diptych.storage.read_store_schema import generations, parked, parked_events, shape, view_table


class StoreFile:
    """A read store of some projections, as a projector would leave it."""

    def __init__(self, path: Path, projections: Iterable[Projection], identity: LogIdentity | None = None) -> None:
        self.path = path
        self.identity = identity
        self._engine = create_engine(f"sqlite:///{path}")
        with self._engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            for table in (generations, parked, parked_events):
                connection.execute(CreateTable(table, if_not_exists=True))
        for projection in projections:
            self.begin(projection, 1, active=True)

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def begin(self, projection: Projection, generation: int, *, active: bool, position: int = 0) -> None:
        """Begin a generation."""
        log_id, epochs = identity_to_columns(self.identity)
        with self._engine.begin() as connection:
            for view in projection.views:
                table = view_table(view, generation)
                connection.execute(CreateTable(table))
                for index in table.indexes:
                    connection.execute(CreateIndex(index))
            connection.execute(
                generations.insert().values(
                    projection=projection.name,
                    generation=generation,
                    version=projection.version,
                    shape=shape(projection),
                    active=active,
                    position=position,
                    event_id="",
                    log_id=log_id,
                    epochs=epochs,
                )
            )

    def switch(self, projection: Projection, generation: int, *, drop: int | None = None) -> None:
        """Make another generation the active one, and drop the tables of `drop`."""
        table = generations.c
        with self._engine.begin() as connection:
            mine = generations.update().where(table.projection == projection.name)
            connection.execute(mine.values(active=False))
            connection.execute(mine.where(table.generation == generation).values(active=True))
            if drop is not None:
                for view in projection.views:
                    view_table(view, drop).drop(connection)

    def write(self, view: View[Any], rows: Mapping[str, Message | None], position: int, *, generation: int = 1) -> None:
        """Write rows, or tombstones for None, and the checkpoint."""
        table = view_table(view, generation)
        statements: list[Executable] = []
        for key, row in rows.items():
            values: dict[str, Any] = {"key": key, "position": position, "row": None}
            if row is not None:
                values["row"] = row.SerializeToString(deterministic=True)
                values |= {column.name: stored(column.value(row)) for column in view.columns.values()}
            statements.append(table.insert().prefix_with("OR REPLACE").values(values))
        with self._engine.begin() as connection:
            for statement in statements:
                connection.execute(statement)
            connection.execute(
                generations.update()
                .where(generations.c.projection == view.projection.name, generations.c.generation == generation)
                .values(position=position)
            )

    def run(self, sql: str) -> None:
        """Run a statement on a connection of its own."""
        connection = sqlite3.connect(self.path)
        try:
            connection.execute(sql)
            connection.commit()
        finally:
            connection.close()
