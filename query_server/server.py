"""Query server: its parts, put together."""

from __future__ import annotations

from prometheus_client import REGISTRY

from diptych.domain.errors import DomainError
from diptych.domain.loading import LoadedDomain, load
from diptych.server import lifecycle
from diptych.server.dsn import sqlite_path, without_password
from diptych.server.errors import StartError
from diptych.server.health import Health
from diptych.server.lifecycle import ServerParts
from diptych.server.router import Router
from diptych.server.settings import QueryServerSettings
from diptych.server.supervise import TaskSupervisor
from query_server.cache.cache import Cache
from query_server.freshness.fresh_read import FreshReads
from query_server.freshness.token_judge import TokenJudge
from query_server.freshness.tracker import FreshnessTracker
from query_server.metrics import QueryServerMetrics
from query_server.queries import bind as queries
from query_server.queries.fresh import Reading
from query_server.read_model_service import ReadModelService
from query_server.rows.row_reader import RowReader
from query_server.store_poller import StorePoller
from query_server.upstream import Upstreams
from query_server.watch.service import WatchService


def run(settings: QueryServerSettings) -> int:
    """Run a query server until it is stopped; return the exit status."""

    async def start(health: Health, tasks: TaskSupervisor) -> ServerParts:
        try:
            loaded = load(settings.domain)
        except DomainError as error:
            raise StartError(str(error)) from error
        return await bootstrap(settings, loaded, health, tasks)

    return lifecycle.run("query-server", settings, start)


async def bootstrap(
    settings: QueryServerSettings, loaded: LoadedDomain, health: Health, tasks: TaskSupervisor
) -> ServerParts:
    """Open the parts of a query server and start its tasks.

    Args:
        settings: The server's settings.
        loaded: The domain.
        health: Health of this server's services and projections.
        tasks: Runs the tasks.
    """
    domain = loaded.domain
    upstreams = Upstreams(settings.commands, settings.projector)
    reader = RowReader(sqlite_path(settings.read_store), list(domain.projections.values()), settings.readers)
    tracker = FreshnessTracker(domain, waits_max=settings.waits_max, shows_commits=reader.shows_commits)
    tokens, fresh = TokenJudge(tracker, upstreams), FreshReads(tracker, reader)
    router = Router(domain.package)
    cache = tracker.row_cache = Cache(domain.projections.values(), settings.cache_bytes_max)
    reading = Reading(
        reader,
        tracker,
        tokens,
        fresh,
        cache,
        settings.wait_seconds,
        settings.combined_rows_max,
        settings.combined_bytes_max,
        settings.message_bytes_max,
    )
    queries.bind(router, loaded, reading)
    ReadModelService(domain, tracker, tokens, fresh, upstreams, settings.wait_seconds).bind(router)
    watches = WatchService(domain, tracker, sqlite_path(settings.read_store), settings)
    watches.bind(router)
    metrics = QueryServerMetrics(tracker, reader, cache, watches)
    REGISTRY.register(metrics)
    poller = StorePoller(reader, tracker, upstreams, health, sorted(router.services))
    upstreams.follow(tracker, tasks)
    await poller.poll()
    tasks.start(poller.run(), name="store poller")
    tasks.start(watches.run(), name="watches")

    async def drain() -> None:
        tracker.close()
        await watches.drain()

    async def close() -> None:
        await tasks.close()
        await watches.close()
        REGISTRY.unregister(metrics)
        await upstreams.close()
        await reader.close()

    description = {
        **loaded.description,
        "read_store": without_password(settings.read_store),
        "log": settings.commands,
        "projector": settings.projector,
    }
    return ServerParts(router, drain=drain, close=close, healthy=False, description=description)
