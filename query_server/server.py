"""The query server's parts, put together."""

from __future__ import annotations

import asyncio

from prometheus_client import REGISTRY

from diptych.domain.errors import DomainError
from diptych.domain.loading import LoadedDomain, load
from diptych.server import lifecycle
from diptych.server.errors import StartError
from diptych.server.health import Health
from diptych.server.lifecycle import Served
from diptych.server.router import Router
from diptych.server.settings import QueryServerSettings, sqlite_path
from query_server.cache.cache import Cache
from query_server.freshness.tracker import Freshness
from query_server.metrics import QueryServerMetrics
from query_server.queries import bind as queries
from query_server.queries.bind import Reading
from query_server.read_model_service import ReadModelService
from query_server.rows.row_reader import RowReader
from query_server.store_poller import StoreWatch
from query_server.upstream import Upstreams
from query_server.watch.service import Watches


def run(settings: QueryServerSettings) -> int:
    """Runs a query server until it is told to stop; returns the exit status."""

    async def start(health: Health) -> Served:
        try:
            loaded = load(settings.domain)
        except DomainError as error:
            raise StartError(str(error)) from error
        return await bootstrap(settings, loaded, health)

    return lifecycle.run("query-server", settings, start)


async def bootstrap(settings: QueryServerSettings, loaded: LoadedDomain, health: Health) -> Served:
    """Opens the parts of a query server and starts what it follows."""
    domain = loaded.domain
    upstreams = Upstreams(settings.commands, settings.projector)
    freshness = Freshness(domain, upstreams, waits_max=settings.waits_max)
    reader = RowReader(sqlite_path(settings.read_store), list(domain.projections.values()), settings.readers)
    freshness.events = reader
    router = Router(domain.package)
    cache = freshness.keeper = Cache(domain.projections.values(), settings.cache_bytes_max)
    reading = Reading(reader, freshness, cache, settings.wait_seconds, settings.combined_rows_max)
    queries.bind(router, loaded, reading)
    ReadModelService(domain, freshness, upstreams, settings.wait_seconds).bind(router)
    watches = Watches(domain, freshness, sqlite_path(settings.read_store), settings)
    watches.bind(router)
    metrics = QueryServerMetrics(freshness, reader, cache, watches)
    REGISTRY.register(metrics)
    watch = StoreWatch(reader, freshness, upstreams, health, sorted(router.services))
    following = upstreams.follow(freshness)
    await watch.look()
    running = [asyncio.create_task(watch.run()), asyncio.create_task(watches.run())]
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not failed.done() and (error := task.exception()) is not None:
            failed.set_exception(error)

    for task in (*running, *following):
        task.add_done_callback(ended)

    async def drain() -> None:
        freshness.close()
        await watches.drain()

    async def close() -> None:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await watches.close()
        REGISTRY.unregister(metrics)
        await upstreams.close()
        await reader.close()

    return Served(router, failed=failed, drain=drain, close=close, healthy=False)
