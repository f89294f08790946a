"""Follower: keeps one generation of a projection at the head of the log."""

from __future__ import annotations

import asyncio
import logging
import time

import structlog

from diptych.domain.projection import Projection
from diptych.server import failpoints
from diptych.server.stream_log import StreamLog
from diptych.storage.read_store import Handover
from projector.generation.batch_folder import BatchFolder
from projector.generation.event_batches import Batch, EventBatches
from projector.generation.failures import record_failure
from projector.generation.fold_progress import FoldProgress
from projector.generation.log_stream import LogStream, check_checkpoint, check_identity
from projector.generation.pausable_task import PausableTask
from projector.generation.retry_policy import RetryPolicy
from projector.generation.state_machine import ProjectionStateMachine
from projector.generation.status_publisher import StatusPublisher
from projector.generation.throttle import Throttle
from projector.log_head import RETRY_SECONDS
from projector.shared import Shared
from projector.store.row_writer import RowWriter

CHECKPOINT_SECONDS = 1.0
"""Seconds between two checkpoints that no row is written with."""

_SILENCE_SECONDS = 5.0
"""Seconds without a frame, while the log has events after the checkpoint, after which the stream is opened again."""

_log = structlog.get_logger(__name__)


class Follower:
    """Follows the log for one generation of a projection.

    The fold loop:

    1. Open a stream of the log after the checkpoint.
    2. Verify that the log is the one that the rows were folded from, and store its identity.
    3. Take a batch: the events that have arrived, up to the throttle's limit.
    4. Fold it, and commit rows and checkpoint in one transaction. Retry a failing event, then park its stream.
    5. Publish progress, state and changed rows.
    6. Write a checkpoint that no row was written with, at most once a second. Without events, check that the store's
       files still have their names. Go on with step 3.

    Each error ends the stream. The state machine records it; after a backoff the loop goes on with step 1. After an
    error that an operator must judge the loop ends until `resume`.
    """

    def __init__(
        self,
        shared: Shared,
        writer: RowWriter,
        throttle: Throttle,
        *,
        answers: bool,
        publishes: bool,
        started: bool = True,
    ) -> None:
        """Create a follower, which does nothing before `run` and, while paused, before `resume`.

        Args:
            shared: Parts of the projector.
            writer: Writer of the generation.
            throttle: Limits of the batches.
            answers: True if queries read the generation; False while it is being filled.
            publishes: True if the follower represents the projection to feed, health and metrics.
            started: False if the first run waits for `task.start`, as it does while paused.
        """
        settings = shared.settings
        self.projection: Projection = writer.projection
        self.generation = writer.generation
        self.writer = writer
        self.machine = ProjectionStateMachine(paused=writer.paused, answers=answers)
        self.progress = FoldProgress(writer.stored, shared.head)
        self.publisher = StatusPublisher(
            shared.feed, shared.health, writer, self.progress, self.machine, enabled=publishes
        )
        self.task = PausableTask(self._follow, started=started and not writer.paused)
        self._channel = shared.channel
        self._head = shared.head
        self._throttle = throttle
        self._retry_policy = RetryPolicy(settings.park_attempts, settings.park_pause_seconds)
        self._folder = BatchFolder(
            writer,
            self.progress,
            throttle,
            self._retry_policy,
            self.task.step,
            self.publisher.publish,
            parked_streams_max=settings.parked_streams_max,
        )
        self._log = _log.bind(projection=self.projection.name)
        self._stream_log = StreamLog(self._log, stream="Follow", server="command-server")

    @property
    def handover(self) -> Handover:
        """The generation with the checkpoint that this follower has reached."""
        return self.writer.store, self.progress.checkpoint

    @property
    def lag_seconds(self) -> float:
        """Seconds since the follower was at the head; 0 if it is there, and while it is paused or stalled."""
        return 0.0 if self.machine.idle else self.progress.lag_seconds

    async def announce(self) -> None:
        """Publish the state before the first stream."""
        self.publisher.expose_metrics()
        if self.machine.idle:
            self.publisher.log_state("projection is paused", logging.WARNING)
        await self._publish_all()

    async def run(self) -> None:
        """Follow the log until this call is cancelled, except while the projection is paused or stalled."""
        await self.task.run()

    async def pause(self) -> None:
        """Stop applying events, also after a restart.

        Raises:
            LeaseLostError, ReadStoreError: The pause cannot be written; the follower goes on.
        """
        if not self.writer.paused:
            await self._stop_and_write(paused=True)
            self._log_if(self.machine.paused())
            await self._publish_all()

    async def resume(self) -> None:
        """Apply events again after a pause, or try again after a stall.

        Raises:
            LeaseLostError, ReadStoreError: The end of the pause cannot be written; the follower stays as it was.
        """
        if self.machine.idle:
            await self._stop_and_write(paused=False)
            self._retry_policy.reset()
            # The state changes before the first attempt, so that callers wait for its outcome.
            self._log_if(self.machine.resumed())
            self.publisher.publish()
            self.task.start()
            await self.publisher.publish_health()

    async def promote(self) -> None:
        """Represent the projection from now on, after the generation became active."""
        self.machine.answers, self.publisher.enabled = True, True
        self.publisher.expose_metrics()
        self._measure_lag()
        self.publisher.publish(rows_known=False)
        await self.publisher.publish_health()

    def set_rebuilding(self, rebuilding: bool) -> None:
        """Publish the start or the end of a rebuild that is to replace this generation."""
        self.machine.rebuilding = rebuilding
        self.publisher.publish()

    def on_head_change(self) -> None:
        """Measure the lag after the head, or its age, has changed."""
        self.progress.observe_head()
        if not self.machine.idle and self._measure_lag():
            self.publisher.publish()

    async def write_checkpoint(self) -> int:
        """Write the checkpoint unless it is stored; return the stored position.

        Raises:
            LeaseLostError: Another projector writes the generation.
            ReadStoreError: The store cannot be written now.
        """
        if self.progress.checkpoint.position > self.writer.stored.position:
            await self.writer.write_checkpoint(self.progress.checkpoint)
        self._folder.written_at = time.monotonic()
        return self.writer.stored.position

    async def _follow(self) -> None:
        """Run the fold loop until an operator must judge an error."""
        backoff = RETRY_SECONDS[0]
        retry = True
        while retry:
            before = self.progress.applied_position
            try:
                await self._follow_stream()
            except Exception as error:
                retry = self._on_failure(error)
            await self._publish_all()
            if retry:
                if self.progress.applied_position > before:
                    backoff = RETRY_SECONDS[0]
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, RETRY_SECONDS[1])

    async def _follow_stream(self) -> None:
        """Apply one stream, until an error ends it: steps 1 to 6."""
        stream = LogStream(self._channel, self.projection, self.progress.checkpoint.position)
        try:
            await self._verify_log(stream)
            self._stream_log.connected(checkpoint=self.progress.checkpoint.position)
            self._log_if(self.machine.stream_opened())
            self._measure_lag()
            await self._publish_all()
            batches = EventBatches(stream.call, self._throttle)
            try:
                await self._apply_batches(batches)
            finally:
                await batches.close()
        finally:
            self.machine.stream_lost()
            stream.close()

    async def _verify_log(self, stream: LogStream) -> None:
        first = await stream.next_frame()
        identity = check_identity(first, self.writer.identity)
        check_checkpoint(first, self.progress.checkpoint, self.projection.name)
        # The write also proves that the store is writable, for a projection that stalled on it.
        if identity != self.writer.identity or self.machine.idle:
            await self.writer.write_identity(identity)

    async def _apply_batches(self, batches: EventBatches) -> None:
        last_batch_at = time.monotonic()
        while True:
            unwritten = self.progress.checkpoint.position > self.writer.stored.position
            batch = await batches.next(CHECKPOINT_SECONDS)
            now = time.monotonic()
            if batch is not None:
                last_batch_at = now
                await self._apply(batch)
            elif self.progress.lag_events and now - last_batch_at >= _SILENCE_SECONDS:
                raise TimeoutError("the log has more events, and the stream is silent")
            else:
                await self.writer.store.check_files()
            if unwritten and time.monotonic() - self._folder.written_at >= CHECKPOINT_SECONDS:
                await self.write_checkpoint()

    async def _apply(self, batch: Batch) -> None:
        self._head.observe(max(batch.head_position, batch.position), at_least=True)
        await self._folder.apply(batch)
        self._measure_lag()
        self.publisher.publish()
        failpoints.hit("fold.published")

    def _on_failure(self, error: Exception) -> bool:
        """Record the error that ended the stream; return True if the stream is to be opened again."""
        failure = record_failure(self.machine, error)
        if failure.unforeseen:
            self._log.error("unforeseen exception", exc_info=error)
        if failure.lost_cause:
            self._stream_log.lost(failure.lost_cause)
        if failure.stalled:
            self.publisher.log_state("projection stalled", logging.ERROR)
        return failure.retry

    def _measure_lag(self) -> bool:
        """Set RUNNING or CATCHING_UP by the current lag; return True if the state changed."""
        return self._log_if(self.machine.batch_applied(self.progress.measured_lag))

    def _log_if(self, changed: bool) -> bool:
        if changed:
            self.publisher.log_state("state changed")
        return changed

    async def _publish_all(self) -> None:
        self.publisher.publish()
        await self.publisher.publish_health()

    async def _stop_and_write(self, *, paused: bool) -> None:
        """Stop, and write whether the projection is paused; go on as before if that cannot be written."""
        running = await self.task.stop()
        try:
            await self.writer.write_paused(paused, self.progress.checkpoint)
        except BaseException:
            if running:
                self.task.start()
            raise
