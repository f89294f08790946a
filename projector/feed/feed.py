"""Feed: the state of every projection and its changed rows, for the query servers.

The feed is conflated. A slow subscriber is sent the latest state of each projection, never a queue of states, and
once each row that changed since its last frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from diptych.contract.reasons import Overloaded
from diptych.contract.wire import delimited
from diptych.internal.v1.feed_pb2 import ProjectionFeed
from diptych.server import failpoints
from projector.feed.pending_changes import Changes, PendingChanges

_IDLE_SECONDS = 0.25
"""Seconds after which an idle subscriber is sent an empty frame, which shows that the projector runs."""


class Feed:
    """Latest state of every projection, and the subscribers."""

    def __init__(self, feeds_max: int) -> None:
        """Create a feed without projections.

        Args:
            feeds_max: Subscribers at once.
        """
        self._latest: dict[str, _State] = {}
        self._subscribers: set[Subscriber] = set()
        self._feeds_max = feeds_max
        self._closed = False

    @property
    def has_subscribers(self) -> bool:
        """True while there are subscribers. Without any, changed rows need not be published."""
        return bool(self._subscribers)

    def publish(self, state: ProjectionFeed, changes: Changes | None = ()) -> None:
        """Publish a projection's new state.

        Args:
            state: The state. The feed owns the message from now on.
            changes: Rows changed since the last state; None if rows have changed whose keys are not known.
        """
        latest = self._latest[state.name] = _State(state)
        for subscriber in self._subscribers:
            subscriber.add(latest, changes)

    def subscribe(self) -> Subscriber:
        """Return a new subscriber, to be ended by `unsubscribe`. Raise `Overloaded` if there are too many."""
        if len(self._subscribers) >= self._feeds_max:
            raise Overloaded(what="feeds", limit=self._feeds_max).with_details(retry_seconds=1)
        subscriber = Subscriber(self._latest)
        self._subscribers.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """End a subscription."""
        self._subscribers.discard(subscriber)

    async def follow(self) -> AsyncIterator[bytes]:
        """Yield serialised frames: first all projections, then those that have changed.

        Closing the iterator ends the subscription.

        Raises:
            Overloaded: There are too many subscribers.
        """
        subscriber = self.subscribe()
        try:
            while True:
                frame = subscriber.take()
                failpoints.hit("feed.taken")
                yield frame
                if self._closed:
                    break
                await subscriber.wait()
        finally:
            self.unsubscribe(subscriber)

    def close(self) -> None:
        """End every subscription after a last frame."""
        self._closed = True
        for subscriber in self._subscribers:
            subscriber.wake()


class _State:
    """State of a projection, serialised once for all subscribers."""

    __slots__ = ("_bytes", "message")

    def __init__(self, message: ProjectionFeed) -> None:
        self.message = message
        self._bytes = b""

    def serialised(self) -> bytes:
        if not self._bytes:
            self._bytes = self.message.SerializeToString()
        return self._bytes


class Subscriber:
    """States and changes that one subscriber was not sent yet."""

    def __init__(self, latest: Mapping[str, _State]) -> None:
        self._states = dict(latest)
        self._changes: dict[str, PendingChanges] = {}
        self._woken = asyncio.Event()

    def add(self, state: _State, changes: Changes | None) -> None:
        """Add a projection's new state with its changed rows."""
        name = state.message.name
        self._states[name] = state
        pending = self._changes.get(name)
        if pending is not None:  # Before the first frame of the projection the state suffices.
            if changes is None:
                pending.add_gap()
            else:
                pending.add(state.message.generation, changes)
        self._woken.set()

    def wake(self) -> None:
        """End a `wait`."""
        self._woken.set()

    def take(self) -> bytes:
        """Return a serialised frame of everything that was added; it is empty if nothing was."""
        parts = []
        for name, state in self._states.items():
            pending = self._changes.get(name)
            if pending is None:
                pending = self._changes[name] = PendingChanges(state.message.generation)
            # The concatenated fields of a message are that message.
            parts.append(delimited(1, state.serialised() + pending.take(state.message.applied_position)))
        self._states.clear()
        self._woken.clear()
        return b"".join(parts)

    async def wait(self) -> None:
        """Wait until something is added, at most until the next empty frame is due."""
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                await self._woken.wait()
        except TimeoutError:
            pass
