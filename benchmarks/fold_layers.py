"""Time of folding alone: one projection folded from a log by the projector's own parts."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from diptych.domain.loading import load
from diptych.storage.read_store import Lease
from diptych.storage.read_store_schema import Checkpoint
from diptych.v1.events_pb2 import EventBatch, RecordedEvent
from projector.store.row_writer import RowWriter
from projector.store.sqlite_read_store import SqliteReadStore


def events_of(log: str, count: int) -> list[RecordedEvent]:
    """Return the first events of a log."""
    with closing(sqlite3.connect(log)) as connection:
        frames = connection.execute("SELECT frame FROM events ORDER BY position LIMIT ?", (count,)).fetchall()
    return list(EventBatch.FromString(b"".join(frame for (frame,) in frames)).events)


async def fold(folder: str, log: str, projection: str, events: int) -> dict[str, Any]:
    """Fold the events of one projection. The rate counts all events of the log, folded or not."""
    wanted = load("shop").domain.projections[projection]
    recorded = events_of(log, events)
    mine = [event for event in recorded if event.event.type_url.rpartition("/")[2] in wanted.event_types]
    file = SqliteReadStore(Path(folder) / f"fold-{time.monotonic_ns()}.db", "benchmarks")
    await file.open()
    lease = await file.acquire(wanted)
    assert isinstance(lease, Lease)
    writer = RowWriter(await file.open_generation(lease, lease.active))
    folding = 0.0
    began = time.perf_counter()
    for start in range(0, len(mine), 1000):
        batch = mine[start : start + 1000]
        committed = await writer.commit(batch, Checkpoint(batch[-1].position, batch[-1].event_id))
        if committed.folded.failure is not None:
            raise committed.folded.failure
        folding += committed.fold_seconds
    took = time.perf_counter() - began
    await file.close()
    return {"rate": len(recorded) / took, "seconds": took, "folding": folding, "events": len(mine)}
