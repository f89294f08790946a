"""Folding into one table, a row for each event: the time of the projector's folding and writing alone.

A job parses events from the bytes that the command server streams, folds them and writes the rows, with the
projector's own parts and settings.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from benchmarks.bare_sqlite import review_key
from diptych.domain.projection import Projection
from diptych.domain.recorded import Recorded
from diptych.internal.v1.log_pb2 import FollowResponse
from diptych.storage.read_store import Lease
from diptych.storage.read_store_schema import Checkpoint
from projector.store.row_writer import RowWriter
from projector.store.sqlite_read_store import SqliteReadStore
from shop.reviews import id_of
from shop.v1.product_events_pb2 import ProductReviewed
from shop.v1.products_pb2 import Review

_GROUP = 1000

one_table = Projection("one_table", version=1)
rows = one_table.view("reviews", Review)


@rows.on(ProductReviewed, key=id_of)
def reviewed(row: Review | None, event: ProductReviewed, recorded: Recorded) -> Review:
    """Return a row of its own for each event."""
    return Review(
        product_id=event.product_id,
        user_id=event.user_id,
        rating=event.rating,
        text=event.text,
        create_time=recorded.record_time,
        update_time=recorded.record_time,
        version=recorded.version,
    )


def _frames(events: int) -> list[bytes]:
    frames: list[bytes] = []
    for start in range(1, events + 1, _GROUP):
        frame = FollowResponse()
        for n in range(start, min(events + 1, start + _GROUP)):
            product_id, _, user_id = review_key(n, events).partition("/")
            event = ProductReviewed(product_id=product_id, user_id=user_id, rating=1 + n % 5, text=f"Number {n}.")
            recorded = frame.events.add(position=n, version=1, event_id=str(uuid.UUID(int=n)))
            recorded.aggregate.type, recorded.aggregate.id = "review", id_of(event)
            recorded.record_time.seconds = 1_767_225_600 + n
            recorded.event.Pack(event)
        frames.append(frame.SerializeToString())
    return frames


async def fold(folder: str, *, events: int) -> dict[str, float]:
    """Fold events into a new file; return events per second and the bytes of a row."""
    frames = _frames(events)
    file = SqliteReadStore(Path(folder) / f"fold-{time.monotonic_ns()}.db", "benchmarks")
    await file.open()
    lease = await file.acquire(one_table)
    assert isinstance(lease, Lease)
    writer = RowWriter(await file.open_generation(lease, lease.active))
    size = 0
    began = time.perf_counter()
    for data in frames:
        batch = FollowResponse.FromString(data).events
        last = batch[-1]
        committed = await writer.commit(batch, Checkpoint(last.position, last.event_id))
        if committed.rows != len(batch):
            raise AssertionError(f"{committed.rows} rows of {len(batch)} events")
        if not size:
            size = len(next(iter(committed.folded.changed[0].values()))[2])
    took = time.perf_counter() - began
    await file.close()
    return {"rate": events / took, "row_bytes": size}
