"""The outlet: where a follower tells what it does, when it is the one that speaks for its projection."""

from __future__ import annotations

from diptych.internal.v1.feed_pb2 import ProjectionFeed
from diptych.server.health import Health
from projector.feed.feed import Feed
from projector.feed.pending_changes import Changes


class Outlet:
    """The feed and the health of one projection. Closed, it says nothing: another follower speaks."""

    def __init__(self, feed: Feed, health: Health, projection: str, *, speaking: bool) -> None:
        self.speaking = speaking
        self._feed = feed
        self._health = health
        self._service = f"diptych.projection.{projection}"

    @property
    def heard(self) -> bool:
        """Whether anybody listens; if not, changes need not be published."""
        return self.speaking and self._feed.heard

    def publish(self, state: ProjectionFeed, changes: Changes | None) -> None:
        """Tells a projection's new state, and the rows that changed; None: it is not known which."""
        if self.speaking:
            self._feed.publish(state, changes)

    async def tell_health(self, serving: bool) -> None:
        """Tells whether the projection is served."""
        if self.speaking:
            await self._health.set(self._service, serving)
