"""The follower: keeps one generation of a projection at the head of the log.

It follows, folds what came, and follows again from its checkpoint whenever the stream is lost. What it cannot go
on from it says: the projection is STALLED, with the reason, in the log, by rpc, health, metrics and feed. The
others go on. An operator can pause it, and let it go on or try again.

A generation that is being filled has a follower of its own, which is silent as long as another answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration

from diptych.contract.identity_codec import identity_from_message, identity_to_message
from diptych.contract.reasons import LogUnavailable, ParkedNotFound, StillParked
from diptych.contract.token import LogIdentity
from diptych.domain.aggregate import AggregateRef
from diptych.domain.folding import ChangedRow, FoldFailure
from diptych.domain.projection import Projection
from diptych.internal.v1 import log_pb2, log_pb2_grpc
from diptych.internal.v1.feed_pb2 import ProjectionFeed
from diptych.server import failpoints
from diptych.server.channels import CallError, Channel
from diptych.server.stream_log import StreamLog
from diptych.storage.errors import LeaseLostError, ReadStoreError, StreamNotParkedError
from diptych.storage.read_store import GenerationStore, ParkedStream
from diptych.storage.read_store_schema import Checkpoint, shape
from diptych.v1 import projections_pb2 as states
from diptych.v1.events_pb2 import RecordedEvent
from projector.feed.pending_changes import changes_of
from projector.generation.change_queue import ChangeQueue
from projector.generation.event_batches import Batch, EventBatches, StreamEndedError
from projector.generation.parked_refold import ParkedRefold
from projector.generation.pausable_task import PausableTask
from projector.generation.retry_policy import RetryPolicy
from projector.generation.status_publisher import Outlet
from projector.generation.throttle import Throttle
from projector.log_head import RETRY_SECONDS, Head, Lag
from projector.metrics import ProjectionMetrics
from projector.store.parked_streams import error_of, trace_of
from projector.store.row_writer import RowWriter

CHECKPOINT_SECONDS = 1.0
"""How often a checkpoint that no row came with is written."""

_SILENCE_SECONDS = 5.0
"""A stream that brings nothing for so long, though there are events after the checkpoint, is opened anew."""

_BEHIND_SECONDS = 1.0
"""A projection that was at the head is CATCHING_UP when it has not been there for so long."""

_REFUSED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)
"""With these the log says that it will not be followed like this; all others may pass by themselves."""

_DIVERGED = "LOG_DIVERGED"

_STANDING = (states.PROJECTION_STATE_PAUSED, states.PROJECTION_STATE_STALLED)
"""In these it applies nothing."""

_log = structlog.get_logger(__name__)


class _StalledError(Exception):
    """The projection cannot go on."""


class Follower:
    """Follows the log for one generation of a projection."""

    def __init__(
        self,
        writer: RowWriter,
        channel: Channel,
        head: Head,
        outlet: Outlet,
        pace: Throttle,
        patience: RetryPolicy,
        *,
        answering: bool,
        parked_streams_max: int,
        going: bool = True,
    ) -> None:
        self.projection: Projection = writer.projection
        self.state: states.ProjectionState = (
            states.PROJECTION_STATE_PAUSED if writer.paused else states.PROJECTION_STATE_CATCHING_UP
        )
        self.reason = ""
        self.answering = answering
        """Whether its generation is read; if not, it is being filled."""
        self.rebuilding = False
        """Whether another generation is being filled, to answer in place of this one."""
        self.followed = False
        """Whether the log is being followed now, and is the one that this was filled from."""
        self.worked = float("-inf")
        """When it last folded anything, by the monotonic clock."""
        self.applied_position = writer.stored.position
        """Everything up to here is applied; on disk may be less."""
        self._writer = writer
        self._stub = log_pb2_grpc.LogServiceStub(channel)
        self._head = head
        self._lag = Lag(head)
        self._outlet = outlet
        self._pace = pace
        self._patience = patience
        self._parked_streams_max = parked_streams_max
        self._shape = shape(writer.projection)
        self._steering = PausableTask(self._keep_up, started=going and not writer.paused)
        self._changes = ChangeQueue()
        self._stalled_event: RecordedEvent | None = None
        self._checkpoint = writer.stored
        # Where the last row changed is not kept; that it was not after the checkpoint is enough.
        self._changed_position = writer.stored.position
        # By view, those that the feed has not been told of yet.
        self._changed_rows: list[dict[str, ChangedRow]] = []
        self._moved = asyncio.Event()
        self._written = time.monotonic()
        self._log = _log.bind(projection=self.projection.name)
        self._stream_log = StreamLog(self._log, stream="Follow", server="command-server")
        self._metrics = ProjectionMetrics(self.projection.name)

    @property
    def generation(self) -> int:
        """The generation that it fills."""
        return self._writer.generation

    @property
    def told_state(self) -> states.ProjectionState:
        """What others are told that it is doing."""
        if self.state not in _STANDING and (self.rebuilding or not self.answering):
            return states.PROJECTION_STATE_REBUILDING
        return self.state

    @property
    def diverged(self) -> bool:
        """Whether what it holds is of another life of the log, so that its positions mean nothing any more."""
        return self.state == states.PROJECTION_STATE_STALLED and self.reason.startswith(_DIVERGED)

    @property
    def lag_seconds(self) -> float:
        """For how long it has not been at the head; zero while it applies nothing."""
        return 0.0 if self.state in _STANDING else self._lag.seconds(self.applied_position)

    @property
    def place(self) -> tuple[GenerationStore, Checkpoint]:
        """What writes its generation, and the checkpoint that it has reached."""
        return self._writer.store, self._checkpoint

    @property
    def step(self) -> asyncio.Lock:
        """Held while it folds."""
        return self._steering.step

    @property
    def lag_events(self) -> int:
        """Events after the applied position, as far as is known."""
        return max(0, self._head.position - self.applied_position)

    async def begin(self) -> None:
        """Tells health and feed of the projection, before anybody can ask."""
        self._show()
        if self.state == states.PROJECTION_STATE_PAUSED:
            self._log.warning("PAUSED", applied_position=self.applied_position)
        await self._tell_health()
        self._publish()

    async def run(self) -> None:
        """Follows until the task is cancelled, but for as long as the projection is paused or has stalled."""
        await self._steering.run()

    async def take_over(self) -> None:
        """Answers from now on, and speaks for the projection."""
        self.answering, self._outlet.speaking = True, True
        self._show()
        self._settle()
        self._publish(known=False)
        await self._tell_health()

    async def reach(self, other: Follower) -> None:
        """Waits until this one has all that another one has."""
        while self.applied_position < other.applied_position or self._checkpoint.position < other._checkpoint.position:
            self._moved.clear()
            await self._moved.wait()

    def give_up(self) -> None:
        """Says nothing any more: another answers."""
        self._outlet.speaking = False

    def tell_rebuilding(self, rebuilding: bool) -> None:
        """Tells whether another generation is being filled."""
        self.rebuilding = rebuilding
        self._publish()

    async def halt(self) -> bool:
        """Stops folding, between two steps, and tells nobody; whether it was going."""
        return await self._steering.stop()

    def go(self) -> None:
        """Goes on after that."""
        self._steering.start()

    def _show(self) -> None:
        """Has the metrics show this one."""
        self._metrics.watch(
            applied=lambda: self.applied_position,
            lag_events=lambda: self.lag_events,
            lag_seconds=lambda: self._lag.seconds(self.applied_position),
            state=self._state_name,
            parked_streams=lambda: self._writer.left_out.streams,
            left_out_events=lambda: self._writer.left_out.events,
        )

    async def pause(self) -> None:
        """Applies nothing more, also after a restart; raises `LeaseLostError`, `ReadStoreError`."""
        await self._changes.run(self._pause)

    async def resume(self) -> None:
        """Goes on, or tries again what it stalled on; raises `LeaseLostError`, `ReadStoreError`."""
        await self._changes.run(self._resume)

    async def _pause(self) -> None:
        if not self._writer.paused:
            await self._halt(paused=True)
            self._become(states.PROJECTION_STATE_PAUSED)
            await self._tell_health()

    async def _resume(self) -> None:
        if self.state in _STANDING:
            await self._halt(paused=False)
            self._patience.reset()
            # Whoever asks now is to wait for what comes of it.
            self._become(states.PROJECTION_STATE_CATCHING_UP)
            self._steering.start()
            await self._tell_health()

    async def _halt(self, *, paused: bool) -> None:
        """Stops following, and writes whether it is for long; if that cannot be written, all is as before."""
        working = await self._steering.stop()
        try:
            await self._writer.write_paused(paused, self._checkpoint)
        except BaseException:
            if working:
                self._steering.start()
            raise

    async def _keep_up(self) -> None:
        """Follows until the projection stalls for good."""
        pause = RETRY_SECONDS[0]
        while True:
            before = self.applied_position
            try:
                await self._follow()
            except _StalledError as stalled:
                self._stall(str(stalled))
                break
            except LeaseLostError as lost:
                self._stall(f"LEAD_LOST: {lost}.")
                break
            except ReadStoreError as error:
                self._stall(f"READ_STORE_UNAVAILABLE: {error}; it is tried again.")
            except CallError as error:
                code = error.code()
                if code in _REFUSED:
                    self._stall(f"LOG_REFUSED: the log will not be followed ({error.details()}); it is tried again.")
                else:
                    self._lose(f"{code.name}: {error.details()}")
            except (StreamEndedError, TimeoutError) as error:
                self._lose(str(error))
            except Exception as error:
                self._log.exception("unforeseen exception")
                self._stall(f"INTERNAL: {type(error).__name__} in the projector, see its log.")
                break
            await self._tell_health()
            if self.applied_position > before:
                pause = RETRY_SECONDS[0]
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_SECONDS[1])
        await self._tell_health()

    async def write_checkpoint(self) -> int:
        """Writes the checkpoint to the read store if a later one is not there; returns the position on disk."""
        if self._checkpoint.position > self._writer.stored.position:
            await self._writer.write_checkpoint(self._checkpoint)
        self._written = time.monotonic()
        return self._writer.stored.position

    def head_heard(self) -> None:
        """Takes word that the head, or the silence about it, has changed."""
        self._lag.note(self.applied_position)
        if self.state not in _STANDING and self._settle():
            self._publish()

    def status(self) -> states.ProjectionStatus:
        """What operators are told."""
        identity, lag = self._writer.identity, Duration()
        lag.FromNanoseconds(int(self._lag.seconds(self.applied_position) * 1e9))
        return states.ProjectionStatus(
            name=self.projection.name,
            version=self.projection.version,
            generation=self._writer.generation,
            state=self.told_state,
            reason=self.reason,
            stalled_event=self._stalled_event,
            progress=states.VersionProgress(
                token=identity.token(self.applied_position) if identity is not None else "",
                applied_position=self.applied_position,
                head_position=self._head.position,
                lag_events=self.lag_events,
                lag_time=lag,
            ),
            views=views_of(self.projection),
            parked_streams=self._writer.left_out.streams,
            left_out_events=self._writer.left_out.events,
        )

    async def list_parked(self, after: int, size: int, *, discarded: bool) -> tuple[list[ParkedStream], bool]:
        """Parked streams by their first position, after one, and whether there are more; raises `ReadStoreError`."""
        return await self._writer.store.parked_page(after, size, discarded=discarded)

    async def discard_parked(self, aggregate: AggregateRef) -> int:
        """Lets a parked stream go on without what is left out; returns how many events that is.

        Raises `ParkedNotFound`, `LeaseLostError`, `ReadStoreError`.
        """
        try:
            count = await self._writer.discard(aggregate)
        except StreamNotParkedError:
            raise ParkedNotFound(projection=self.projection.name, aggregate=str(aggregate)) from None
        self._log.warning("DISCARDED: what is parked of a stream", aggregate=str(aggregate), events=count)
        self._publish()
        return count

    async def collect_parked(self, aggregate: AggregateRef) -> ParkedRefold:
        """Reads the log for what is parked of a stream, while others are folded, as it may take long.

        Raises `ParkedNotFound`, `EntangledError`, `LogUnavailable`, `ReadStoreError`.
        """
        found = await self._writer.store.parked_stream(aggregate)
        if found is None:
            raise ParkedNotFound(projection=self.projection.name, aggregate=str(aggregate))
        if self.diverged:
            raise LogUnavailable(cause=self.reason)
        refold = ParkedRefold(self.projection, found.first_position)
        await self._reread(refold)
        return refold

    async def refold_parked(self, aggregate: AggregateRef, refold: ParkedRefold) -> int:
        """Folds what is parked of a stream in place, and lets it go on; returns how many events that is.

        Raises `ParkedNotFound`, `StillParked`, `EntangledError`, `LogUnavailable`, `LeaseLostError`, `ReadStoreError`.
        Then everything is as before.
        """
        await self._changes.run(lambda: self._refold(aggregate, refold))
        return len(refold.events)

    async def _reread(self, refold: ParkedRefold) -> None:
        """Reads the log up to the checkpoint, from where it was read to; raises `LogUnavailable`, `EntangledError`."""
        through = self._checkpoint.position
        if refold.position >= through or refold.failure is not None:
            return
        try:
            await self._reread_through(refold, through)
        except CallError as error:
            raise LogUnavailable(cause=f"{error.code().name}: {error.details()}") from error
        except (StreamEndedError, TimeoutError, _StalledError) as error:
            raise LogUnavailable(cause=str(error)) from error

    async def _reread_through(self, refold: ParkedRefold, through: int) -> None:
        stream = self._stub.Follow(
            log_pb2.FollowRequest(position=refold.position, event_types=sorted(self.projection.event_types))
        )
        try:
            while refold.position < through and refold.failure is None:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    frame = await stream.read()
                if not isinstance(frame, log_pb2.FollowResponse):
                    raise StreamEndedError("the log ended the stream")
                if frame.HasField("identity"):
                    self._same_log(frame)
                    continue
                events = [event for event in frame.events if event.position <= through]
                position = min(frame.position, through)
                left_out = await self._writer.store.left_out_between(refold.position, position)
                await asyncio.to_thread(refold.add, events, left_out)
                refold.position = position
        finally:
            stream.cancel()

    async def _refold(self, aggregate: AggregateRef, refold: ParkedRefold) -> None:
        """With all standing still: looks at what came since, folds, and lets all go on."""
        working = await self._steering.stop()
        try:
            await self.write_checkpoint()
            await self._reread(refold)
            try:
                failure = refold.failure
                if failure is not None:
                    await self._writer.fail_again(aggregate, failure)
                else:
                    failure = await self._writer.refold(aggregate, refold.first_position, refold.events)
            except StreamNotParkedError:
                raise ParkedNotFound(projection=self.projection.name, aggregate=str(aggregate)) from None
            if failure is not None:
                raise StillParked(
                    projection=self.projection.name,
                    aggregate=str(aggregate),
                    position=failure.position,
                    error=error_of(failure),
                )
            # What was told of rows that had not changed is void.
            self._changed_position = self._checkpoint.position
            self._publish(known=False)
        finally:
            if working:
                self._steering.start()
        self._log.warning("what was parked is folded", aggregate=str(aggregate), events=len(refold.events))

    async def _follow(self) -> None:
        """Follows from the checkpoint until the stream ends, by an exception."""
        stream = self._stub.Follow(
            log_pb2.FollowRequest(position=self._checkpoint.position, event_types=sorted(self.projection.event_types))
        )
        try:
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    first = await stream.read()
            except TimeoutError:
                raise TimeoutError("the log does not answer") from None
            if not isinstance(first, log_pb2.FollowResponse):
                raise StreamEndedError("the log ended the stream")
            await self._verify(first)
            self.followed = True
            await self._regain()
            intake = EventBatches(stream, self._pace)
            try:
                await self._take(intake)
            finally:
                await intake.close()
        finally:
            self.followed = False
            stream.cancel()

    async def _take(self, intake: EventBatches) -> None:
        """Applies batches as they come, and writes the checkpoint in between."""
        heard = time.monotonic()
        while True:
            unwritten = self._checkpoint.position > self._writer.stored.position
            batch = await intake.next(CHECKPOINT_SECONDS if unwritten else _SILENCE_SECONDS)
            now = time.monotonic()
            if batch is not None:
                heard = now
                await self._apply(batch)
            elif self.lag_events and now - heard >= _SILENCE_SECONDS:
                raise TimeoutError("the log has more events, and the stream is silent")
            if unwritten and time.monotonic() - self._written >= CHECKPOINT_SECONDS:
                await self.write_checkpoint()

    async def _apply(self, batch: Batch) -> None:
        self._head.hear(max(batch.head_position, batch.position), at_least=True)
        position, through = batch.position, batch.checkpoint or self._checkpoint
        events: Sequence[RecordedEvent] = batch.events
        if events and events[0].position <= self._checkpoint.position:  # Sent twice.
            events = [event for event in events if event.position > self._checkpoint.position]
        while events and (failure := await self._fold(events, through)) is not None:
            # All before it is applied.
            if not await self._give_up(failure):
                events = [event for event in events if event.position >= failure.position]
            else:
                events = [event for event in events if event.position > failure.position]
        self._advance(position, through)
        self._settle()
        self._publish()
        failpoints.hit("fold.told")

    async def _fold(self, events: Sequence[RecordedEvent], through: Checkpoint) -> FoldFailure | None:
        """Applies consecutive events, up to the first that fails, which it returns."""
        async with self._pace.turn(len(events)), self._steering.step:  # What is committed must be known here.
            started, self.worked = time.perf_counter(), time.monotonic()
            committed = await self._writer.commit(events, through)
            folded = committed.folded
            self._metrics.committed(len(events), committed.rows, committed.fold_seconds, time.perf_counter() - started)
            if folded.changed_position:
                self._changed_position = folded.changed_position
                self._changed_rows = folded.changed
            if self._writer.stored == committed.checkpoint:
                self._written = time.monotonic()
            failure = folded.failure
            if failure is None:
                self._advance(through.position, committed.checkpoint)
            else:
                self._advance(failure.position - 1, committed.checkpoint)
                self._publish()  # It may take some time.
            return failure

    async def _give_up(self, failure: FoldFailure) -> bool:
        """Pauses before an event is tried again, or parks its stream: whether it did that.

        Raises `_StalledError` if too many streams are parked.
        """
        pause, event = self._patience.record_failure(failure.position), failure.event
        attempts = self._patience.attempts
        if pause is not None:
            self._log.warning(
                "an event cannot be folded, and is tried again",
                position=event.position,
                attempt=attempts,
                pause_seconds=pause,
                error=error_of(failure),
            )
            await asyncio.sleep(pause)
            return False
        parked = self._writer.left_out.streams
        if parked >= self._parked_streams_max:
            self._stalled_event = event
            self._log.error("an event cannot be folded", position=event.position, exception=trace_of(failure))
            raise _StalledError(
                f"PARKED_TOO_MANY: {parked} streams are parked, which looks like a defect of the code, so no more are. "
                f"{error_of(failure)}"
            )
        async with self._steering.step:
            checkpoint = await self._writer.park(failure, attempts)
            self._written = time.monotonic()
            self._patience.record_parked()
            self._advance(event.position, checkpoint)
            self._publish()
        self._log.error(
            "PARKED: an event cannot be folded, and is left out, as is what follows it in its stream",
            aggregate=f"{event.aggregate.type}/{event.aggregate.id}",
            position=event.position,
            attempts=attempts,
            parked_streams=parked + 1,
            exception=trace_of(failure),
        )
        return True

    def _advance(self, position: int, through: Checkpoint) -> None:
        self.applied_position = max(self.applied_position, position)
        if through.position > self._checkpoint.position:
            self._checkpoint = through
        self._lag.note(self.applied_position)
        self._moved.set()

    async def _verify(self, first: log_pb2.FollowResponse) -> None:
        """Compares the log with what this projection was filled from, and remembers its identity."""
        if not first.HasField("identity"):
            raise StreamEndedError("the log did not say which log it is")
        identity = self._same_log(first)
        position, event_id = self._checkpoint
        if position and first.checkpoint_event_id != event_id:
            there = f"event {first.checkpoint_event_id}" if first.checkpoint_event_id else "no event"
            raise _StalledError(
                f"{_DIVERGED}: at position {position} the read store has event {event_id}, and the log has {there}. "
                "The log was restored to an earlier state, and this projection holds events that it has lost: "
                f"`diptych rebuild {self.projection.name}` fills it anew."
            )
        # A projection that stalled on the store goes on when it can write again, which this tries.
        if identity != self._writer.identity or self.state == states.PROJECTION_STATE_STALLED:
            await self._writer.write_identity(identity)

    def _same_log(self, first: log_pb2.FollowResponse) -> LogIdentity:
        """The identity of the log that is followed; raises `_StalledError` if the rows come from another."""
        identity = identity_from_message(first.identity)
        assert identity is not None, "the command server names its log in the first response"
        known = self._writer.identity
        if known is not None and known.log_id != identity.log_id:
            raise _StalledError(
                f"{_DIVERGED}: the read store was filled from log {known.log_id.hex()}, and the command server has "
                f"log {identity.log_id.hex()}. Use that log's own read store, or remove this one to fill it anew."
            )
        return identity

    def _settle(self) -> bool:
        """Decides between RUNNING and CATCHING_UP; whether that changed."""
        before = self.state
        if self._head.heard is None:
            self.state = states.PROJECTION_STATE_CATCHING_UP
        else:
            behind = self._lag.seconds(self.applied_position)
            if not behind:
                self.state = states.PROJECTION_STATE_RUNNING
            elif behind >= _BEHIND_SECONDS:
                self.state = states.PROJECTION_STATE_CATCHING_UP
        if self.state != before:
            self._log.info(self._state_name(), applied_position=self.applied_position, lag_events=self.lag_events)
        return self.state != before

    def _become(self, state: states.ProjectionState) -> None:
        """Takes a state that is not STALLED, and tells it."""
        self.state, self.reason, self._stalled_event = state, "", None
        self._log.info(self._state_name(), applied_position=self.applied_position, lag_events=self.lag_events)
        self._publish()

    def _stall(self, reason: str) -> None:
        if self.reason != reason:
            self._log.error("STALLED", reason=reason, applied_position=self.applied_position)
        self.state, self.reason = states.PROJECTION_STATE_STALLED, reason
        self._publish()

    def _lose(self, trouble: str) -> None:
        self._stream_log.lost(trouble)

    async def _regain(self) -> None:
        """The log is followed, and the store answers."""
        self._stream_log.connected(checkpoint=self._checkpoint.position)
        if self.state == states.PROJECTION_STATE_STALLED:
            self._become(states.PROJECTION_STATE_CATCHING_UP)
        self._settle()
        self._publish()
        await self._tell_health()

    async def _tell_health(self) -> None:
        await self._outlet.tell_health(self.state not in _STANDING)

    def _publish(self, *, known: bool = True) -> None:
        """Tells the feed. With `known` it is told which rows have changed, else that this is not known."""
        left_out = self._writer.left_out
        feed = ProjectionFeed(
            name=self.projection.name,
            version=self.projection.version,
            generation=self._writer.generation,
            state=self.told_state,
            reason=self.reason,
            stalled_event=self._stalled_event,
            applied_position=self.applied_position,
            changed_position=self._changed_position,
            parked_streams=left_out.streams,
            left_out_events=left_out.events,
            left_out_position=left_out.position,
            filling=self._writer.filling,
            filling_up=not self.answering,
            shape=self._shape,
        )
        identity = self._writer.identity
        if identity is not None:
            feed.identity.CopyFrom(identity_to_message(identity))
        changed, self._changed_rows = self._changed_rows, []
        told = changes_of(self.projection.views, changed) if changed and self._outlet.heard else ()
        self._outlet.publish(feed, told if known else None)

    def _state_name(self) -> str:
        return states.ProjectionState.Name(self.told_state).removeprefix("PROJECTION_STATE_")


def views_of(projection: Projection) -> list[states.ViewInfo]:
    """What operators are told of a projection's views."""
    return [
        states.ViewInfo(name=view.name, row_type=view.row.DESCRIPTOR.full_name)
        for view in sorted(projection.views, key=lambda view: view.name)
    ]
