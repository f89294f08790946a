"""Feed service: the feed and checkpoints, for query servers and standby projectors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import structlog

from diptych.contract.reasons import InvalidRequest, ReadModelNotReady
from diptych.contract.validation import parse
from diptych.internal.v1 import feed_pb2
from diptych.server.request_context import RequestContext
from diptych.server.router import Router
from diptych.storage.errors import StoreError
from projector.feed.feed import Feed
from projector.projection_runner import ProjectionRunner
from projector.standby_runner import StandbyRunner

_SERVICE = feed_pb2.DESCRIPTOR.services_by_name["FeedService"].full_name

_log = structlog.get_logger(__name__)


class FeedService:
    """Handlers of FeedService."""

    def __init__(self, feed: Feed, runners: Mapping[str, ProjectionRunner | StandbyRunner], router: Router) -> None:
        """Bind the handlers.

        Args:
            feed: The feed.
            runners: Runner of each projection, by name.
            router: Router to bind to.
        """
        self._feed = feed
        self._runners = runners
        router.bind_stream(_SERVICE, "FollowFeed", self.follow_feed)
        router.bind_unary(_SERVICE, "WriteCheckpoint", self.write_checkpoint)

    async def follow_feed(self, request: bytes, context: RequestContext) -> AsyncIterator[bytes]:
        """Send the state of every projection, then each change."""
        parse(feed_pb2.FollowFeedRequest, request)
        async for frame in self._feed.follow():
            yield frame

    async def write_checkpoint(self, request: bytes, context: RequestContext) -> bytes:
        """Write a projection's checkpoint to the read store.

        Raises:
            InvalidRequest: This projector has no such projection.
            ReadModelNotReady: The checkpoint cannot be written.
        """
        name = parse(feed_pb2.WriteCheckpointRequest, request).projection
        runner = self._runners.get(name)
        if runner is None:
            raise InvalidRequest.of(("projection", f"there is no projection {name[:200]!r} here"))
        try:
            position = await runner.write_checkpoint()
        except StoreError as error:
            _log.warning("checkpoint not written", projection=name, cause=str(error))
            raise ReadModelNotReady(projection=name) from error
        return feed_pb2.WriteCheckpointResponse(position=position).SerializeToString()
