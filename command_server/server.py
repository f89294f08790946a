"""The start and the end of the command server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog

from command_server.byte_limits import ByteLimit
from command_server.command_service import CommandService
from command_server.command_stream import CommandStreamService
from command_server.event_service import EventService
from command_server.event_tail import EventTail
from command_server.head_reader import HeadReader
from command_server.log_service import LogService
from command_server.log_watch import LogWatch
from command_server.processes.host import ProcessHost
from command_server.processes.service import ProcessService
from command_server.request_sweep import RequestSweep
from command_server.store.event_store import StoreUnavailable
from command_server.store.sqlite_store import SqliteEventStore
from command_server.store.unique_refold import UniqueConflict
from command_server.writer import Writer
from diptych.domain.errors import DomainError
from diptych.domain.loading import LoadedDomain, load
from diptych.domain.process import STEPPED
from diptych.server import lifecycle
from diptych.server.dsn import sqlite_path, without_password
from diptych.server.errors import StartError
from diptych.server.health import Health
from diptych.server.lifecycle import ServerParts
from diptych.server.router import Router
from diptych.server.settings import CommandServerSettings
from diptych.server.supervise import TaskSupervisor

_ANSWER_SECONDS = 1.0
"""Time for the last answers when the server stops; at most half of `stop_seconds`."""


_TYPES_MAX = 20
"""Event types that the error of a start names."""


_log = structlog.get_logger(__name__)


def run(settings: CommandServerSettings) -> int:
    """Run the command server until it is stopped, and return the exit status."""

    async def start(health: Health, tasks: TaskSupervisor) -> ServerParts:
        return await bootstrap(settings, health, tasks)

    return lifecycle.run("command-server", settings, start)


async def bootstrap(settings: CommandServerSettings, health: Health, tasks: TaskSupervisor) -> ServerParts:
    """Open the log, start the writer and the processes, and bind the services.

    Raises:
        StartError: the domain, the log or the processes cannot be loaded.
    """
    try:
        domain = load(settings.domain)
    except DomainError as error:
        raise StartError(str(error)) from error
    store = SqliteEventStore(sqlite_path(settings.log), health.address)
    try:
        await store.open()
        missing = await store.take_event_types({*domain.event_types, STEPPED})
        if missing:
            await store.close()
            raise StartError(_missing_event_types(settings, missing))
        await _refold_uniques(store, settings, domain)
        tail = EventTail(store, await store.head(), settings)
    except StoreUnavailable as error:
        raise StartError(f"The log {settings.log} cannot be opened: {error}.") from error
    head = HeadReader(store)
    writer = Writer(domain, store, settings, tail.publish)
    following = tasks.start(tail.run(), name="event tail")
    writing = tasks.start(writer.run(), name="writer")
    router = Router(domain.domain.package)
    commands = ByteLimit("bytes of waiting commands", settings.commands_bytes_max)
    CommandService(domain, writer, tail, router, commands)
    stream_service = CommandStreamService(domain, writer, tail, router, settings, commands)
    EventService(domain, store, tail, head, router, settings)
    LogService(store, tail, head, router, settings, domain.event_types)
    host = ProcessHost(domain, store, tail, writer, health.set)
    try:
        await host.start()
    except StoreUnavailable as error:
        raise StartError(f"The log {settings.log} cannot be read: {error}.") from error
    ProcessService(host, store, router)
    sweep = RequestSweep(store, settings.request_ids_days, writer.wait_for_room)
    sweeping = tasks.start(sweep.run(), name="sweep of request ids")
    tasks.start(LogWatch(store, health, {"", *router.services}).run(), name="log watch")

    async def drain() -> None:
        stream_service.close()
        tail.close()
        # Callers of a commit that hangs are answered before their calls are cut.
        seconds = settings.stop_seconds - min(_ANSWER_SECONDS, settings.stop_seconds / 2)
        asyncio.get_running_loop().call_later(seconds, writer.give_up)

    async def close() -> None:
        sweeping.cancel()
        await host.close()
        writer.close()
        await asyncio.wait((writing,))
        following.cancel()
        await store.close()

    description = {
        **domain.description,
        "log": without_password(settings.log),
        "head_position": tail.head,
    }
    return ServerParts(router, drain=drain, close=close, description=description)


async def _refold_uniques(store: SqliteEventStore, settings: CommandServerSettings, domain: LoadedDomain) -> None:
    """Fold the unique values again whose code has changed. Raise `StartError` if two aggregates have one value."""
    begun = time.monotonic()
    try:
        results = await store.refold_uniques(list(domain.domain.aggregates.values()))
    except UniqueConflict as error:
        await store.close()
        raise StartError(
            f"The code of unique values has changed, and by the new code the log {without_password(settings.log)} has "
            f"conflicts: {error}. Nothing was changed. Correct the function, or resolve them with the old code."
        ) from error
    for names, aggregates, values in results:
        seconds = round(time.monotonic() - begun, 3)
        _log.info("unique values refolded", names=names, aggregates=aggregates, values=values, seconds=seconds)


def _missing_event_types(settings: CommandServerSettings, missing: Sequence[tuple[str, int]]) -> str:
    """Return the error for event types of the log that the domain does not have."""
    types = ", ".join(f"{name} (first at position {position})" for name, position in missing[:_TYPES_MAX])
    more = f" and {len(missing) - _TYPES_MAX} more" if len(missing) > _TYPES_MAX else ""
    return (
        f"The log {without_password(settings.log)} has events of types that the domain {settings.domain} does not "
        f"have: {types}{more}. Restore each message and its evolver, or declare an upcaster; see docs/evolution.md."
    )
