"""Batch folder: applies batches of events to one generation, and parks streams whose events cannot be folded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from diptych.domain.folding import FoldFailure
from diptych.storage.read_store_schema import Checkpoint
from diptych.v1.events_pb2 import RecordedEvent
from projector.generation.event_batches import Batch
from projector.generation.fold_progress import FoldProgress
from projector.generation.retry_policy import RetryPolicy
from projector.generation.throttle import Throttle
from projector.metrics import ProjectionMetrics
from projector.store.parked_streams import error_of, trace_of
from projector.store.row_writer import RowWriter

_log = structlog.get_logger(__name__)


class FoldStoppedError(Exception):
    """An event cannot be folded, and its stream is not parked. The message is the reason of the stall."""

    def __init__(self, reason: str, event: RecordedEvent) -> None:
        super().__init__(reason)
        self.event = event


class BatchFolder:
    """Applies batches to one generation.

    A step of the pausable task surrounds each transaction and the record of its outcome. A follower that is stopped
    therefore knows all that was committed.
    """

    def __init__(
        self,
        writer: RowWriter,
        progress: FoldProgress,
        throttle: Throttle,
        retry_policy: RetryPolicy,
        step: asyncio.Lock,
        publish: Callable[[], None],
        *,
        parked_streams_max: int,
    ) -> None:
        """Create a folder.

        Args:
            writer: Writer of the generation.
            progress: Progress to advance.
            throttle: Limits of the batches.
            retry_policy: Attempts of an event before its stream is parked.
            step: Lock that `PausableTask.stop` waits for.
            publish: Function that publishes the progress before a backoff and after a stream is parked.
            parked_streams_max: Streams that may be parked; one more stalls the projection.
        """
        self.written_at = time.monotonic()
        """Time of the last written checkpoint by the monotonic clock, in seconds."""
        self._writer = writer
        self._progress = progress
        self._throttle = throttle
        self._retry_policy = retry_policy
        self._step = step
        self._publish = publish
        self._parked_streams_max = parked_streams_max
        self._metrics = ProjectionMetrics(writer.projection.name)
        self._log = _log.bind(projection=writer.projection.name)

    async def apply(self, batch: Batch) -> None:
        """Apply a batch.

        1. Drop events at or below the checkpoint, which were delivered twice.
        2. Fold and commit the others, up to the first that fails.
        3. Fold again from a failed event after a backoff, or park its stream and go on behind it.
        4. Advance to the end of the batch.

        Raises:
            FoldStoppedError: An event fails, and as many streams as allowed are parked.
            LeaseLostError: Another projector writes the generation.
            ReadStoreError: The store cannot be written now.
        """
        progress = self._progress
        end = batch.checkpoint or progress.checkpoint
        events: Sequence[RecordedEvent] = batch.events
        if events and events[0].position <= progress.checkpoint.position:
            events = [event for event in events if event.position > progress.checkpoint.position]
        while events and (failure := await self._fold(events, end)) is not None:
            parked = await self._retry_or_park(failure)
            first = failure.position + 1 if parked else failure.position
            events = [event for event in events if event.position >= first]
        progress.advance(batch.position, end)

    async def _fold(self, events: Sequence[RecordedEvent], end: Checkpoint) -> FoldFailure | None:
        """Fold and commit consecutive events; return the failure of the first that cannot be folded."""
        progress, writer = self._progress, self._writer
        async with self._throttle.turn(len(events)), self._step:
            started, progress.folded_at = time.perf_counter(), time.monotonic()
            committed = await writer.commit(events, end)
            folded = committed.folded
            self._metrics.record_batch(
                len(events), committed.rows, committed.fold_seconds, time.perf_counter() - started
            )
            if folded.changed_position:
                progress.changed_at = folded.changed_position
                progress.changed_rows = folded.changed
            if writer.stored == committed.checkpoint:
                self.written_at = time.monotonic()
            failure = folded.failure
            if failure is None:
                progress.advance(end.position, committed.checkpoint)
            else:
                progress.advance(failure.position - 1, committed.checkpoint)
                self._publish()  # The backoff may be long.
            return failure

    async def _retry_or_park(self, failure: FoldFailure) -> bool:
        """Back off before the event's next attempt, or park its stream; return True if it is parked."""
        backoff = self._retry_policy.record_failure(failure.position)
        if backoff is None:
            await self._park(failure)
            return True
        self._log.warning(
            "event failed, retrying",
            position=failure.position,
            attempt=self._retry_policy.attempts,
            backoff_seconds=backoff,
            cause=error_of(failure),
        )
        await asyncio.sleep(backoff)
        return False

    async def _park(self, failure: FoldFailure) -> None:
        event, attempts = failure.event, self._retry_policy.attempts
        parked = self._writer.left_out.streams
        if parked >= self._parked_streams_max:
            self._log.error("event failed, too many streams parked", position=event.position, trace=trace_of(failure))
            raise FoldStoppedError(
                f"PARKED_TOO_MANY: {parked} streams are parked, which looks like a defect of the code, so no more are. "
                f"{error_of(failure)}",
                event,
            )
        async with self._step:
            checkpoint = await self._writer.park(failure, attempts)
            self.written_at = time.monotonic()
            self._retry_policy.record_parked()
            self._progress.advance(event.position, checkpoint)
            self._publish()
        self._log.error(
            "stream parked",
            aggregate=f"{event.aggregate.type}/{event.aggregate.id}",
            position=event.position,
            attempts=attempts,
            parked_streams=parked + 1,
            trace=trace_of(failure),
        )
