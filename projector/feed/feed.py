"""The feed: what the query servers are told of every projection.

It is conflated: a subscriber that is slow finds the latest state of each projection, never a queue of states, and
each row that changed since it was told last, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from diptych.contract.reasons import Overloaded
from diptych.contract.wire import delimited
from diptych.internal.v1.feed_pb2 import ProjectionFeed
from diptych.server import failpoints
from projector.feed.pending_changes import Changes, Untold

_IDLE_SECONDS = 0.25
"""How often an idle subscriber gets a sign of life."""


class Feed:
    """The latest state of every projection, and who wants to know."""

    def __init__(self, feeds_max: int) -> None:
        self._latest: dict[str, _State] = {}
        self._subscribers: set[Subscriber] = set()
        self._feeds_max = feeds_max
        self._closed = False

    @property
    def heard(self) -> bool:
        """Whether anybody listens; if not, changes need not be published."""
        return bool(self._subscribers)

    def publish(self, state: ProjectionFeed, changes: Changes | None = ()) -> None:
        """Tells a projection's new state, and the rows that changed since the last one; None: it is not known which.

        The message is the feed's from now on.
        """
        latest = self._latest[state.name] = _State(state)
        for subscriber in self._subscribers:
            subscriber.tell(latest, changes)

    def subscribe(self) -> Subscriber:
        """A new subscriber, to be given to `unsubscribe`; raises `Overloaded`."""
        if len(self._subscribers) >= self._feeds_max:
            raise Overloaded(what="feeds", limit=self._feeds_max).with_details(retry_seconds=1)
        subscriber = Subscriber(self._latest)
        self._subscribers.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Tells a subscriber nothing more."""
        self._subscribers.discard(subscriber)

    async def follow(self) -> AsyncIterator[bytes]:
        """The frames of one subscriber: every projection first, then each that changed, whole; raises `Overloaded`."""
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
        """Ends every subscription, with what it has not been told yet."""
        self._closed = True
        for subscriber in self._subscribers:
            subscriber.wake()


class _State:
    """A projection's state, serialised once for all who are told."""

    __slots__ = ("_bytes", "message")

    def __init__(self, message: ProjectionFeed) -> None:
        self.message = message
        self._bytes = b""

    def serialised(self) -> bytes:
        if not self._bytes:
            self._bytes = self.message.SerializeToString()
        return self._bytes


class Subscriber:
    """What one subscriber has not been told yet."""

    def __init__(self, latest: Mapping[str, _State]) -> None:
        self._states = dict(latest)
        self._changes: dict[str, Untold] = {}
        self._woken = asyncio.Event()

    def tell(self, state: _State, changes: Changes | None) -> None:
        name = state.message.name
        self._states[name] = state
        untold = self._changes.get(name)
        if untold is not None:  # If it was told nothing yet, all that is needed is in the state.
            if changes is None:
                untold.lose()
            else:
                untold.add(state.message.generation, changes)
        self._woken.set()

    def wake(self) -> None:
        self._woken.set()

    def take(self) -> bytes:
        """A frame of all that is untold; an empty one is a sign of life."""
        parts = []
        for name, state in self._states.items():
            untold = self._changes.get(name)
            if untold is None:
                untold = self._changes[name] = Untold(state.message.generation)
            # Fields of one message, one after the other, are that message.
            parts.append(delimited(1, state.serialised() + untold.take(state.message.applied_position)))
        self._states.clear()
        self._woken.clear()
        return b"".join(parts)

    async def wait(self) -> None:
        """Waits for news, but not too long."""
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                await self._woken.wait()
        except TimeoutError:
            pass
