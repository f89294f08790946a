"""Projector server: the start of the program, and the order in which its parts open and close."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from diptych.domain.errors import DomainError
from diptych.domain.loading import load
from diptych.domain.projection import Projection
from diptych.server import lifecycle
from diptych.server.channels import open_server_channel
from diptych.server.dsn import sqlite_path, without_password
from diptych.server.errors import StartError
from diptych.server.health import Health
from diptych.server.lifecycle import ServerParts
from diptych.server.router import Router
from diptych.server.settings import ProjectorSettings
from diptych.server.supervise import TaskSupervisor
from diptych.storage.errors import ReadStoreError
from projector.feed.feed import Feed
from projector.feed_service import FeedService
from projector.log_head import LogHead, LogHeadFollower
from projector.projection_service import ProjectionService
from projector.store.sqlite_read_store import SqliteReadStore
from projector.takeover import Runners


def run(settings: ProjectorSettings) -> int:
    """Run a projector until SIGTERM, SIGINT or a failure, and return the exit status."""

    async def start(health: Health, tasks: TaskSupervisor) -> ServerParts:
        try:
            loaded = load(settings.domain)
        except DomainError as error:
            raise StartError(str(error)) from error
        projections = list(loaded.domain.projections.values())
        parts = await bootstrap(settings, loaded.name, projections, health, tasks, loaded.event_types)
        parts.description = {**loaded.description, **parts.description}
        return parts

    return lifecycle.run("projector", settings, start)


async def bootstrap(
    settings: ProjectorSettings,
    domain: str,
    projections: Sequence[Projection],
    health: Health,
    tasks: TaskSupervisor,
    event_types: Collection[str] = (),
) -> ServerParts:
    """Open the parts of a projector.

    1. Open the read store, which acquires the leases of the projections.
    2. Open a runner for each projection: it leads the projection, or stands by for its leader.
    3. Bind the services.
    4. Start the runners and the follower of the log's head.

    Args:
        settings: Settings of the projector.
        domain: Name of the domain.
        projections: Projections of the domain.
        health: Health of the projector.
        tasks: Supervisor of the projector's tasks.
        event_types: Event types of the domain, to compare with those of the command server. Empty: they are not.

    Raises:
        StartError: The read store cannot be opened, or does not fit the projections.
    """
    store = SqliteReadStore(sqlite_path(settings.read_store), health.address, roll_back=settings.roll_back)
    ordered = sorted(projections, key=lambda projection: projection.name)
    await store.open(ordered)
    channel = open_server_channel(settings.commands)
    head, feed = LogHead(), Feed(settings.feeds_max)
    runners = Runners(store, channel, head, feed, health, settings)
    try:
        await runners.open(ordered)
    except BaseException as error:
        await channel.close()
        await store.close()
        if isinstance(error, ReadStoreError):
            raise StartError(f"The read store {store.description} cannot be used: {error}.") from error
        raise
    router = Router(f"{domain}.v1")
    FeedService(feed, runners.by_projection, router)
    ProjectionService(runners.by_projection, router)
    runners.start(tasks)
    tasks.start(LogHeadFollower(channel, head, runners.on_head_change, event_types).run(), name="head of the log")

    async def drain() -> None:
        await tasks.close()
        feed.close()

    async def close() -> None:
        await channel.close()
        await runners.close()
        await store.close()

    description = {"domain": domain, "read_store": without_password(settings.read_store), "log": settings.commands}
    return ServerParts(router, drain=drain, close=close, description=description)
