"""Parked operations: an operator's list, discard and retry of parked streams."""

from __future__ import annotations

import asyncio

import structlog

from diptych.contract.reasons import LogUnavailable, ParkedNotFound, StillParked
from diptych.domain.aggregate import AggregateRef
from diptych.domain.folding import FoldFailure
from diptych.server.channels import CallError, Channel
from diptych.storage.errors import StreamNotParkedError
from diptych.storage.read_store import ParkedStream
from projector.followers import Followers
from projector.generation.event_batches import StreamEndedError
from projector.generation.follower import Follower
from projector.generation.log_stream import LogDivergedError, LogStream, check_identity
from projector.generation.operation_queue import OperationQueue
from projector.generation.parked_refold import ParkedRefold
from projector.store.parked_streams import error_of

_log = structlog.get_logger(__name__)


class ParkedOperations:
    """Operations on the parked streams of one projection's representative generation.

    A retry folds all parked events of a stream onto the rows as they are now:

    1. Read the log from the first parked event to the checkpoint, while the follower folds on: it may take long.
    2. In the operation queue stop the follower, and write its checkpoint.
    3. Read the events that were applied meanwhile.
    4. In one transaction fold the parked events, and release the stream.
    5. Start the follower again.
    """

    def __init__(self, channel: Channel, followers: Followers, operations: OperationQueue) -> None:
        """Create the operations.

        Args:
            channel: Channel to the command server.
            followers: Followers of the projection.
            operations: Queue of the projection's operations.
        """
        self._channel = channel
        self._followers = followers
        self._operations = operations
        self._retrying = asyncio.Lock()

    async def list(self, after: int, size: int, *, discarded: bool) -> tuple[list[ParkedStream], bool]:
        """Return parked streams by their first position, and True if there are more.

        Args:
            after: First position after which the page begins.
            size: Streams on the page at most.
            discarded: Include streams of which a part was discarded.

        Raises:
            ReadStoreError: The store cannot be read now.
        """
        return await self._followers.representative.writer.store.parked_page(after, size, discarded=discarded)

    async def discard(self, aggregate: AggregateRef) -> int:
        """Let a parked stream go on without its parked events; return their number.

        Cancelling the call does not cancel the operation.

        Raises:
            ParkedNotFound: The stream is not parked.
            LeaseLostError, ReadStoreError: The store cannot be written. Nothing is changed.
        """

        async def operation() -> int:
            follower = self._followers.representative
            try:
                count = await follower.writer.discard(aggregate)
            except StreamNotParkedError:
                raise _not_found(follower, aggregate) from None
            _log.warning(
                "parked events discarded",
                projection=follower.projection.name,
                aggregate=str(aggregate),
                events=count,
            )
            follower.publisher.publish()
            return count

        return await self._operations.run(operation)

    async def retry(self, aggregate: AggregateRef) -> int:
        """Fold the parked events of a stream in place, and let it go on; return their number.

        Cancelling the call does not cancel steps 2 to 5.

        Raises:
            ParkedNotFound: The stream is not parked.
            StillParked: An event of it fails again.
            EntangledError: Folding in place would differ from folding in order.
            LogUnavailable: The log cannot be read.
            LeaseLostError, ReadStoreError: The store cannot be written.

        After each of these errors the rows are as before.
        """
        async with self._retrying:
            while True:
                follower = self._followers.representative
                refold = await self._collect(follower, aggregate)

                async def operation(follower: Follower = follower, refold: ParkedRefold = refold) -> bool:
                    # A switch may have come between, to a generation that parks for itself.
                    if follower is not self._followers.representative:
                        return False
                    await self._refold(follower, aggregate, refold)
                    return True

                if await self._operations.run(operation):
                    return len(refold.events)

    async def _collect(self, follower: Follower, aggregate: AggregateRef) -> ParkedRefold:
        """Return the parked events of a stream, up to the checkpoint of this moment: step 1."""
        stream = await follower.writer.store.parked_stream(aggregate)
        if stream is None:
            raise _not_found(follower, aggregate)
        if follower.machine.diverged:
            raise LogUnavailable(cause=follower.machine.reason)
        refold = ParkedRefold(follower.projection, stream.first_position)
        await self._read_log(follower, refold)
        return refold

    async def _refold(self, follower: Follower, aggregate: AggregateRef, refold: ParkedRefold) -> None:
        running = await follower.task.stop()
        try:
            await follower.write_checkpoint()
            await self._read_log(follower, refold)
            failure = await _fold(follower, aggregate, refold)
            if failure is not None:
                raise StillParked(
                    projection=follower.projection.name,
                    aggregate=str(aggregate),
                    position=failure.position,
                    error=error_of(failure),
                )
            # Rows have changed before the checkpoint, so what the feed reported of unchanged rows is void.
            follower.progress.changed_at = follower.progress.checkpoint.position
            follower.publisher.publish(rows_known=False)
        finally:
            if running:
                follower.task.start()
        _log.warning(
            "parked stream folded",
            projection=follower.projection.name,
            aggregate=str(aggregate),
            events=len(refold.events),
        )

    async def _read_log(self, follower: Follower, refold: ParkedRefold) -> None:
        """Read the log from the refold's position to the checkpoint."""
        through = follower.progress.checkpoint.position
        if refold.position >= through or refold.failure is not None:
            return
        stream = LogStream(self._channel, follower.projection, refold.position)
        try:
            while refold.position < through and refold.failure is None:
                frame = await stream.next_frame()
                if frame.HasField("identity"):
                    check_identity(frame, follower.writer.identity)
                    continue
                events = [event for event in frame.events if event.position <= through]
                position = min(frame.position, through)
                left_out = await follower.writer.store.left_out_between(refold.position, position)
                await asyncio.to_thread(refold.add, events, left_out)
                refold.position = position
        except CallError as error:
            raise LogUnavailable(cause=f"{error.code().name}: {error.details()}") from error
        except (StreamEndedError, TimeoutError, LogDivergedError) as error:
            raise LogUnavailable(cause=str(error)) from error
        finally:
            stream.close()


async def _fold(follower: Follower, aggregate: AggregateRef, refold: ParkedRefold) -> FoldFailure | None:
    """Fold the collected events, or record that one of them failed before; return the failure."""
    writer = follower.writer
    try:
        if refold.failure is not None:
            await writer.fail_again(aggregate, refold.failure)
            return refold.failure
        return await writer.refold(aggregate, refold.first_position, refold.events)
    except StreamNotParkedError:
        raise _not_found(follower, aggregate) from None


def _not_found(follower: Follower, aggregate: AggregateRef) -> ParkedNotFound:
    return ParkedNotFound(projection=follower.projection.name, aggregate=str(aggregate))
