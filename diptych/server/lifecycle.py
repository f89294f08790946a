"""Serving: what is the same for all three servers, from the port to the exit status.

A server is made by a `start` function that opens its parts and returns them as a `Served`; `run` binds the port,
tells health, prints the ready line, waits for SIGTERM or SIGINT, and stops everything in order.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
import uvloop

from diptych.server import failpoints
from diptych.server.errors import StartError
from diptych.server.grpc_transport import GrpcServer
from diptych.server.health import HEALTH, Health
from diptych.server.reflection import bind_reflection
from diptych.server.router import Router
from diptych.server.settings import ServerSettings
from diptych.server.telemetry import configure_logging, serve_metrics

_log = structlog.get_logger(__name__)

_GARBAGE_OBJECTS = 5000
"""How many new objects there must be before cycles among them are looked for; with 700, it is after every 20 calls."""


async def _nothing() -> None:
    return None


@dataclass
class Served:
    """What a server has opened."""

    router: Router
    failed: asyncio.Future[None] | None = None
    """Fails when a part that the server cannot live without does."""
    drain: Callable[[], Awaitable[None]] = _nothing
    """Called first when stopping: ends streams and lets nothing new in."""
    close: Callable[[], Awaitable[None]] = _nothing
    """Called last: closes what was opened."""
    healthy: bool = True
    """Whether "" and the services are told SERVING at start; if not, the server itself tells when they are."""
    services: tuple[str, ...] = field(default=())


Start = Callable[[Health], Awaitable[Served]]


def check_addresses(settings: ServerSettings) -> None:
    """Refuses an address beyond loopback unless the settings say `insecure`."""
    for address in (settings.address, settings.metrics_address):
        if address is not None and not settings.insecure and not _is_loopback(address):
            raise StartError(
                f"{address} can be reached from other machines, and neither TLS nor authentication is set up: "
                "listen on a loopback address, or say --insecure."
            )


def _arm_failpoints() -> None:
    try:
        failpoints.arm(os.environ.get(failpoints.VARIABLE, ""))
    except ValueError as error:
        raise StartError(f"{failpoints.VARIABLE}: {error}") from error


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run(program: str, settings: ServerSettings, start: Start) -> int:
    """Runs a server until it is told to stop; returns the exit status."""
    configure_logging(program, settings.log_level, settings.log_format)
    sys.setswitchinterval(0.001)  # The loop shares the interpreter with a database thread, and must not wait 5 ms.
    try:
        _arm_failpoints()
        check_addresses(settings)
        return uvloop.run(_serve(program, settings, start))
    except StartError as error:
        print(f"diptych {program}: {error}", file=sys.stderr, flush=True)
        return 1


async def _serve(program: str, settings: ServerSettings, start: Start) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = GrpcServer(settings.message_bytes_max)
    served_health = Health(server.bind_port(settings.address))
    served = await start(served_health)
    served.router.calls_max = settings.calls_max
    services = sorted(served.router.services)
    served_health.bind(served.router)
    bind_reflection(served.router, (*services, HEALTH))
    served.router.check_complete()
    for service in {"", *services} - served_health.told.keys():
        await served_health.set(service, served.healthy)
    await server.start(served.router)
    metrics = serve_metrics(settings.metrics_address)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS)
    announcing = asyncio.create_task(_announce(program, served_health))
    status = await _until_stopped(stop, served)
    announcing.cancel()
    served_health.stop()
    await served.drain()
    await server.stop(settings.stop_seconds)
    await served.close()
    metrics()
    _log.info("stopped")
    return status


async def _announce(program: str, served_health: Health) -> None:
    """Prints the line that others wait for. A query server listens before it is healthy: its read store may come."""
    _log.info("listening", address=served_health.address)
    await served_health.ready.wait()
    print(f"diptych {program} ready address={served_health.address}", flush=True)
    _log.info("ready", address=served_health.address)


async def _until_stopped(stop: asyncio.Event, served: Served) -> int:
    waiting: set[asyncio.Future[object]] = {asyncio.ensure_future(stop.wait())}
    if served.failed is not None:
        waiting.add(served.failed)  # type: ignore[arg-type]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if served.failed is not None and served.failed in done:
        _log.error("a part of the server failed", exc_info=served.failed.exception())
        return 1
    return 0
