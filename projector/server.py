"""The projector's parts, put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog

from diptych.domain.errors import DomainError
from diptych.domain.loading import load
from diptych.domain.projection import Projection
from diptych.server import lifecycle
from diptych.server.channels import open_server_channel
from diptych.server.errors import StartError
from diptych.server.health import Health
from diptych.server.lifecycle import ServerParts
from diptych.server.router import Router
from diptych.server.settings import ProjectorSettings, sqlite_path, without_password
from diptych.server.supervise import TaskSupervisor
from diptych.storage.errors import ReadStoreError, StoreError
from diptych.storage.read_store import Lease, LeaseHolder, ReadStore
from projector.feed.feed import Feed
from projector.generation.follower import Follower
from projector.generation.throttle import LAG_SECONDS, FoldingLoad
from projector.log_head import Head, HeadFollower
from projector.projection_runner import Line, Parts
from projector.services import Services
from projector.standby_runner import Standby
from projector.store.sqlite_read_store import SqliteReadStore

_BUSY_SECONDS = 0.25
"""A live projection that folded something so short a time ago will have something to fold soon."""

_COME_FIRST_SECONDS = 0.5

_log = structlog.get_logger(__name__)


def run(settings: ProjectorSettings) -> int:
    """Runs a projector until it is told to stop; returns the exit status."""

    async def start(health: Health, tasks: TaskSupervisor) -> ServerParts:
        try:
            loaded = load(settings.domain)
        except DomainError as error:
            raise StartError(str(error)) from error
        projections = list(loaded.domain.projections.values())
        parts = await bootstrap(settings, loaded.name, projections, health, tasks)
        parts.description = {**loaded.description, **parts.description}
        return parts

    return lifecycle.run("projector", settings, start)


async def bootstrap(
    settings: ProjectorSettings, domain: str, projections: Sequence[Projection], health: Health, tasks: TaskSupervisor
) -> ServerParts:
    """Opens the read store and follows the log for every projection; raises `StartError`."""
    store = SqliteReadStore(sqlite_path(settings.read_store), health.address)
    ordered = sorted(projections, key=lambda projection: projection.name)
    await store.open(ordered)
    channel = open_server_channel(settings.commands)
    head, feed = Head(), Feed(settings.feeds_max)
    lines: dict[str, Line | Standby] = {}

    def live() -> list[Follower]:
        return [line.live for line in lines.values() if isinstance(line, Line) and line.live is not None]

    def busy() -> list[Follower]:
        since = time.monotonic() - _BUSY_SECONDS
        return [follower for follower in live() if follower.worked >= since]

    share = FoldingLoad(
        live_lag_seconds=lambda: max((follower.lag_seconds for follower in live()), default=0.0),
        live_busy=lambda: not store.primary or bool(busy()),
        live_at_head=lambda: not store.primary or any(one.lag_seconds < LAG_SECONDS for one in busy()),
    )
    parts = Parts(store, channel, head, feed, health, share, settings)

    async def lead(lease: Lease) -> None:
        line = Line(parts, lease)
        await line.open()
        lines[lease.projection.name] = line

    async def stand_by(projection: Projection, holder: LeaseHolder) -> None:
        async def follow_on(lease: Lease) -> None:
            """Goes on with the projection in the other one's place, within the task of the standby."""
            await lead(lease)
            await lines[projection.name].run()

        standby = Standby(parts, projection, holder, follow_on)
        await standby.open()
        lines[projection.name] = standby

    try:
        for projection in ordered:
            acquired = await store.acquire(projection)
            await (lead(acquired) if isinstance(acquired, Lease) else stand_by(projection, acquired))
    except BaseException as error:
        await channel.close()
        await store.close()
        if isinstance(error, ReadStoreError):
            raise StartError(f"The read store {store.description} cannot be used: {error}.") from error
        raise

    def head_heard() -> None:
        for line in lines.values():
            line.head_heard()

    router = Router(f"{domain}.v1")
    Services(feed, lines).bind(router)
    # No task should fail: the failure of a projection becomes its state.
    for name, line in lines.items():
        tasks.start(line.run(), name=f"projection {name}")
    tasks.start(HeadFollower(channel, settings.commands, head, head_heard).run(), name="head of the log")
    if not store.primary:
        tasks.start(_come_first(store), name="primary projector's lock")

    async def drain() -> None:
        await tasks.close()
        feed.close()

    async def close() -> None:
        await channel.close()
        for line in lines.values():
            try:
                await line.close()
            except StoreError as error:
                _log.warning("a checkpoint is not written", projection=line.projection.name, error=str(error))
        await store.close()

    description = {"domain": domain, "read_store": without_password(settings.read_store), "log": settings.commands}
    return ServerParts(router, drain=drain, close=close, description=description)


async def _come_first(store: ReadStore) -> None:
    """Takes the file's own lock when the projector that came before has ended."""
    while True:
        await asyncio.sleep(_COME_FIRST_SECONDS)
        if store.become_primary():
            return
