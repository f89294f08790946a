"""The lifecycle that all servers share, from the port to the exit status.

A server is a `Start` function that opens its parts. `run` then takes these steps:

1. Bind the ports of calls and metrics, so that a second start fails before it touches a file.
2. Start the parts. A `StartError` ends the process with status 1.
3. Bind health and reflection, check that every rpc has a handler, and serve.
4. Print the ready line once the server is healthy.
5. Wait for SIGTERM, SIGINT or the failure of a background task.
6. Stop: health says NOT_SERVING, streams are drained, calls get `stop_seconds` to end, and the parts are closed.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
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
from diptych.server.supervise import TaskFailedError, TaskSupervisor
from diptych.server.telemetry import configure_logging, serve_metrics

_log = structlog.get_logger(__name__)

_SWITCH_INTERVAL_SECONDS = 0.001
"""Time for which one thread may hold the interpreter. The event loop must not wait 5 ms, the default, for another."""

_GARBAGE_OBJECTS = 5000
"""New objects between two searches for garbage cycles. Python's default of 700 means one search for every 20 calls."""


async def _do_nothing() -> None:
    return None


@dataclass
class ServerParts:
    """The opened parts of a server, as its `Start` function returns them."""

    router: Router
    drain: Callable[[], Awaitable[None]] = _do_nothing
    """First step of stopping: end the streams and refuse new ones."""
    close: Callable[[], Awaitable[None]] = _do_nothing
    """Last step of stopping: close every part."""
    healthy: bool = True
    """True if health is SERVING from the start; False if the server itself sets it later."""
    description: Mapping[str, object] = field(default_factory=dict)
    """Fields of the log event `started`: the domain, the store and the head."""


Start = Callable[[Health, TaskSupervisor], Awaitable[ServerParts]]
"""Opens the parts of a server. Background tasks run in the supervisor; the failure of one stops the server."""


def check_addresses(settings: ServerSettings) -> None:
    """Check that the server listens on loopback only, or that the settings allow more.

    Raises:
        StartError: An address is beyond loopback and `insecure` is not set.
    """
    for address in (settings.address, settings.metrics_address):
        if address is not None and not settings.insecure and not _is_loopback(address):
            raise StartError(
                f"{address} can be reached from other machines, and neither TLS nor authentication is set up: "
                "listen on a loopback address, or say --insecure."
            )


def run(program: str, settings: ServerSettings, start: Start) -> int:
    """Run a server until SIGTERM, SIGINT or a failure, and return the exit status.

    Args:
        program: Name of the server, for log lines and the ready line.
        settings: Settings of the server.
        start: Function that opens the parts.
    """
    configure_logging(program, settings.log_level, settings.log_format)
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    try:
        _arm_failpoints()
        check_addresses(settings)
        return uvloop.run(_serve(program, settings, start))
    except StartError as error:
        print(f"diptych {program}: {error}", file=sys.stderr, flush=True)
        return 1


async def _serve(program: str, settings: ServerSettings, start: Start) -> int:
    stop = _stop_event()
    server = GrpcServer(settings.message_bytes_max)
    health = Health(server.bind_port(settings.address))
    stop_metrics = serve_metrics(settings.metrics_address)
    async with TaskSupervisor() as tasks:
        parts = await start(health, tasks)
        await _open(server, parts, health, settings)
        _freeze_garbage()
        _log.info("started", address=health.address, **parts.description)
        tasks.start(_announce(program, health), name="announce")
        status = await _run_until_stopped(stop, tasks)
        health.stop()
        await parts.drain()
        await server.stop(settings.stop_seconds)
        await parts.close()
        stop_metrics()
    _log.info("stopped", status=status)
    return status


def _stop_event() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _open(server: GrpcServer, parts: ServerParts, health: Health, settings: ServerSettings) -> None:
    """Bind the services of gRPC itself, check the router, and serve."""
    router = parts.router
    router.calls_max = settings.calls_max
    services = sorted(router.services)
    health.bind(router)
    bind_reflection(router, (*services, HEALTH))
    router.check_complete()
    for service in {"", *services} - health.serving.keys():
        await health.set(service, parts.healthy)
    await server.start(router)


def _freeze_garbage() -> None:
    """Exempt the objects of the start from garbage collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS)


async def _announce(program: str, health: Health) -> None:
    """Print the ready line. A query server listens before it is healthy, as its read store may not exist yet."""
    await health.ready.wait()
    print(f"diptych {program} ready address={health.address}", flush=True)
    _log.info("ready", address=health.address)


async def _run_until_stopped(stop: asyncio.Event, tasks: TaskSupervisor) -> int:
    """Wait for the end, and return the exit status."""
    try:
        await tasks.wait_for(stop)
    except TaskFailedError as error:
        _log.error("background task failed, stopping", exc_info=error)
        return 1
    return 0


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
