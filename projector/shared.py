"""Shared parts: one object of each kind for all runners and followers of a projector."""

from __future__ import annotations

from typing import NamedTuple

from diptych.server.channels import Channel
from diptych.server.health import Health
from diptych.server.settings import ProjectorSettings
from diptych.storage.read_store import ReadStore
from projector.feed.feed import Feed
from projector.generation.throttle import FoldingLoad
from projector.log_head import LogHead


class Shared(NamedTuple):
    """Parts that all followers and runners of a projector share."""

    store: ReadStore
    channel: Channel
    """Channel to the command server."""
    head: LogHead
    feed: Feed
    health: Health
    load: FoldingLoad
    settings: ProjectorSettings
