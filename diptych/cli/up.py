"""`diptych up`: the three servers under one supervisor, on SQLite files in one folder."""

from __future__ import annotations

import asyncio
import signal
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from diptych.cli import sample as samples
from diptych.cli.ports import PortTaken, Reservation
from diptych.cli.screen import Observation, Screen, screen
from diptych.cli.supervisor import Child, ChildFailed, Supervisor
from diptych.client import CallRefused, Connection, open_channel
from diptych.contract.token import Epoch, LogIdentity
from diptych.internal.v1 import log_pb2
from diptych.server.leash import hold_leash
from diptych.server.options import fail, with_settings
from diptych.server.settings import Address, CommandServerSettings, ProjectorSettings, QueryServerSettings
from diptych.v1 import projections_pb2

_STOP_SECONDS = 12.0
"""A server gives its calls 10 s to end; one that takes longer than this hangs."""
_REFRESH_SECONDS = 0.5


class UpSettings(BaseSettings):
    """What `diptych up` is told."""

    model_config = SettingsConfigDict(env_prefix="DIPTYCH_", env_ignore_empty=True, frozen=True, extra="ignore")

    domain: str = Field("shop", description="Python package of the domain to serve.")
    data: Path = Field(Path("data"), description="Folder for log.db, read.db and the servers' logs; it is made.")
    command_address: Address = Field(
        "127.0.0.1:50051", description="HOST:PORT of the command server; port 0 takes a free one."
    )
    query_address: Address = Field(
        "127.0.0.1:50052", description="HOST:PORT of the query server; port 0 takes a free one."
    )
    projector_address: Address = Field(
        "127.0.0.1:50053", description="HOST:PORT of the projector; port 0 takes a free one."
    )
    metrics_address: Address = Field(
        "127.0.0.1:0",
        description="HOST:PORT of the command server's Prometheus metrics; the projector's and the query server's "
        "are the next two ports. Port 0 takes free ones.",
    )
    empty: bool = Field(False, description="Load no sample data.")
    insecure: bool = Field(False, description="Allow addresses beyond loopback without TLS and authentication.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")
    log_format: Literal["console", "json"] = Field("console", description="How lines in the servers' logs look.")


class _Address(NamedTuple):
    serving: Reservation
    metrics: Reservation


@with_settings("up", UpSettings, CommandServerSettings, ProjectorSettings, QueryServerSettings)
def up(settings: UpSettings) -> int:
    """Starts command server, projector and query server, and keeps them running."""
    hold_leash()
    try:
        (settings.data / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail("up", f"--data: {settings.data} cannot be made: {error.strerror}.")
    try:
        command, query, projector = _reserve(settings)
    except PortTaken as error:
        fail("up", str(error), status=1)
    return asyncio.run(_up(settings, command, query, projector))


def _reserve(settings: UpSettings) -> list[_Address]:
    """Reserves all ports; raises `PortTaken`."""
    addresses = (settings.command_address, settings.query_address, settings.projector_address)
    serving = [Reservation(address) for address in addresses]
    host, _, port = settings.metrics_address.rpartition(":")
    steps = (0, 2, 1)  # In the order of the servers' own default ports.
    metrics = [Reservation(f"{host}:{int(port) + step if int(port) else 0}") for step in steps]
    return [_Address(*pair) for pair in zip(serving, metrics, strict=True)]


async def _up(settings: UpSettings, command: _Address, query: _Address, projector: _Address) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        pair = await stack.enter_async_context(
            Connection(command.serving.address, query.serving.address, retry_seconds=30)
        )
        projections = await stack.enter_async_context(open_channel(projector.serving.address))
        shown = screen()
        addresses, channels = (command, projector, query), (pair.commands, projections, pair.queries)
        supervisor = Supervisor(_children(settings, addresses, channels), shown.tell)
        running = asyncio.create_task(_run(settings, supervisor, shown, pair, projections))
        stopping = asyncio.create_task(stop.wait())
        with shown:
            await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            running.cancel()
            stop.clear()
            await _stop(supervisor, stop)
        stopping.cancel()
        try:
            await running
        except asyncio.CancelledError:
            return 0
        except ChildFailed as error:
            print(f"diptych up: {error}", file=sys.stderr, flush=True)
            return 1
    return 1


async def _stop(supervisor: Supervisor, again: asyncio.Event) -> None:
    """Stops all, and at once if we are told again."""
    orderly = asyncio.create_task(supervisor.stop(_STOP_SECONDS))
    impatient = asyncio.create_task(again.wait())
    await asyncio.wait((orderly, impatient), return_when=asyncio.FIRST_COMPLETED)
    impatient.cancel()
    if not orderly.done():
        supervisor.kill()
    await orderly


def _children(settings: UpSettings, addresses: Sequence[_Address], channels: Sequence[grpc.aio.Channel]) -> list[Child]:
    """The three servers; the command server first, as it stops last."""
    command, projector, _ = (each.serving.address for each in addresses)
    read_store = f"--read-store=sqlite:///{settings.data / 'read.db'}"
    programs = {
        "command-server": [f"--log=sqlite:///{settings.data / 'log.db'}"],
        "projector": [f"--commands={command}", read_store],
        "query-server": [f"--commands={command}", f"--projector={projector}", read_store],
    }
    return [
        Child(
            name,
            [
                *(sys.executable, "-m", name.replace("-", "_")),
                f"--domain={settings.domain}",
                f"--address={address.serving.address}",
                f"--metrics-address={address.metrics.address}",
                f"--log-level={settings.log_level}",
                f"--log-format={settings.log_format}",
                *(["--insecure"] if settings.insecure else []),
                *arguments,
            ],
            address=address.serving.address,
            metrics=address.metrics.address,
            log=settings.data / "logs" / f"{name}.log",
            healthy=_health_of(channel),
        )
        for (name, arguments), address, channel in zip(programs.items(), addresses, channels, strict=True)
    ]


def _health_of(channel: grpc.aio.Channel) -> Callable[[], Awaitable[None]]:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )

    async def healthy() -> None:
        """Waits until the server says that it is."""
        while True:
            with suppress(grpc.aio.AioRpcError):
                answer = await check(health_pb2.HealthCheckRequest(), timeout=2)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            await asyncio.sleep(0.05)

    return healthy


async def _run(
    settings: UpSettings,
    supervisor: Supervisor,
    shown: Screen,
    pair: Connection,
    projections: grpc.aio.Channel,
) -> None:
    """Starts all, loads the sample, shows what to try, and then how things stand, for ever."""
    refreshing = asyncio.create_task(_refresh(supervisor, shown, pair, projections))
    try:
        await supervisor.start()
        addresses = " ".join(f"{child.name}={child.address}" for child in supervisor.children)
        shown.tell(f"diptych up ready {addresses}")
        await _show_sample(settings, supervisor, shown, pair)
        watching = asyncio.create_task(supervisor.watch())
        await asyncio.wait((watching, refreshing), return_when=asyncio.FIRST_COMPLETED)
        for task in (watching, refreshing):
            if task.done():
                task.result()
    finally:
        refreshing.cancel()


async def _show_sample(settings: UpSettings, supervisor: Supervisor, shown: Screen, pair: Connection) -> None:
    """Loads the domain's sample into a new log, and shows calls to try."""
    sample = samples.find(settings.domain)
    # A log that a load was broken off in is not empty: this file says that there is more to come.
    unfinished = settings.data / "sample.unfinished"
    try:
        head = await _head(pair)
        if not settings.empty and sample.commands and (head == 0 or unfinished.exists()):
            unfinished.touch()
            await samples.load(pair, sample)
            unfinished.unlink()
            shown.tell(f"Loaded the sample of {settings.domain}: {len(sample.commands)} commands.")
    except CallRefused as refused:
        shown.tell(f"The sample of {settings.domain} could not be loaded: {refused}")
    command, query = supervisor.children[0].address, supervisor.children[2].address
    lines = ["Try (add -v to see the token that each answer carries):"]
    for title, line in samples.calls(sample, commands=command, queries=query, token=pair.token):
        lines += ["", f"  # {title}", f"  {line}"]
    metrics = " ".join(f"http://{child.metrics}/metrics" for child in supervisor.children)
    shown.tell("\n".join([*lines, "", f"Metrics: {metrics}", f"Logs: {settings.data / 'logs'}", ""]))


async def _head(pair: Connection) -> int:
    try:
        answer = await _get_head(pair.commands)(log_pb2.GetHeadRequest(), timeout=10, wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        raise CallRefused.of(error) from None
    identity = LogIdentity(
        answer.identity.log_id,
        [Epoch(epoch.epoch, epoch.first_position) for epoch in answer.identity.epochs],
    )
    pair.add_token(identity.token(answer.head_position))
    return answer.head_position


async def _refresh(supervisor: Supervisor, shown: Screen, pair: Connection, projections: grpc.aio.Channel) -> None:
    """Asks each server how far it is, and shows it, for ever."""
    metrics = f"http://{supervisor.children[0].metrics}/metrics"
    get_head = _get_head(pair.commands)
    list_projections = projections.unary_unary(
        "/diptych.v1.ProjectionService/ListProjections",
        request_serializer=projections_pb2.ListProjectionsRequest.SerializeToString,
        response_deserializer=projections_pb2.ListProjectionsResponse.FromString,
    )
    while True:
        seen = Observation()
        with suppress(grpc.aio.AioRpcError):
            answer = await get_head(log_pb2.GetHeadRequest(), timeout=1)
            seen = seen._replace(head=answer.head_position)
        with suppress(grpc.aio.AioRpcError):
            listed = await list_projections(projections_pb2.ListProjectionsRequest(), timeout=1)
            seen = seen._replace(projections=tuple(listed.projections))
        if shown.counts_commands and seen.head is not None:
            seen = seen._replace(commands=await asyncio.to_thread(_commands_answered, metrics))
        shown.show(supervisor.children, seen)
        await asyncio.sleep(_REFRESH_SECONDS)


def _commands_answered(metrics: str) -> int | None:
    """How many commands the command server has answered, as its metrics tell."""
    try:
        with urllib.request.urlopen(metrics, timeout=1) as answer:
            lines = answer.read().decode("utf-8").splitlines()
    except OSError:
        return None
    return round(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("diptych_commands_total{")))


def _get_head(channel: grpc.aio.Channel) -> grpc.aio.UnaryUnaryMultiCallable[Any, log_pb2.GetHeadResponse]:
    return channel.unary_unary(
        "/diptych.internal.v1.LogService/GetHead",
        request_serializer=log_pb2.GetHeadRequest.SerializeToString,
        response_deserializer=log_pb2.GetHeadResponse.FromString,
    )
