"""The three servers as children of `diptych up`: their ports, arguments and health checks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from diptych.cli.calls import call
from diptych.cli.child import Child
from diptych.cli.ports import Reservation
from diptych.server.channels import CallError, Channel
from diptych.server.dsn import sqlite_dsn
from diptych.server.settings import Address

_HEALTH_SECONDS = 2.0
_HEALTH_PAUSE_SECONDS = 0.05


class UpSettings(BaseSettings):
    """Settings of `diptych up`."""

    model_config = SettingsConfigDict(env_prefix="DIPTYCH_", env_ignore_empty=True, frozen=True, extra="ignore")

    domain: str = Field("shop", description="Python package of the domain to serve.")
    data: Path = Field(
        Path("data"),
        description="Folder for log.db, read.db and the servers' logs; it is created if it is missing.",
    )
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
    log_format: Literal["console", "json"] = Field("console", description="Format of lines in the servers' logs.")

    @property
    def log_dsn(self) -> str:
        """DSN of the log."""
        return sqlite_dsn(self.data / "log.db")

    @property
    def read_store_dsn(self) -> str:
        """DSN of the read store."""
        return sqlite_dsn(self.data / "read.db")


class Ports(NamedTuple):
    """Reserved ports of one server."""

    serving: Reservation
    metrics: Reservation


class ServerPorts(NamedTuple):
    """Reserved ports of all servers."""

    command_server: Ports
    projector: Ports
    query_server: Ports


def reserve_ports(settings: UpSettings) -> ServerPorts:
    """Reserve the ports of all servers. Raise `PortTaken` if one is in use."""
    command, query, projector = (
        Reservation(address, flag)
        for address, flag in (
            (settings.command_address, "--command-address"),
            (settings.query_address, "--query-address"),
            (settings.projector_address, "--projector-address"),
        )
    )
    host, _, port = settings.metrics_address.rpartition(":")
    # The steps follow the order of the servers' own default ports.
    metrics = [Reservation(f"{host}:{int(port) + step if int(port) else 0}", "--metrics-address") for step in (0, 2, 1)]
    return ServerPorts(Ports(command, metrics[0]), Ports(projector, metrics[1]), Ports(query, metrics[2]))


def server_children(
    settings: UpSettings, ports: ServerPorts, channels: tuple[Channel, Channel, Channel]
) -> list[Child]:
    """Return the three servers; the command server is the first, because it stops last.

    Args:
        settings: Settings of `diptych up`.
        ports: Ports of all servers.
        channels: Channels to command server, projector and query server, for their health checks.
    """
    command, projector = ports.command_server.serving.address, ports.projector.serving.address
    read_store = f"--read-store={settings.read_store_dsn}"
    arguments = {
        "command-server": [f"--log={settings.log_dsn}"],
        "projector": [f"--commands={command}", read_store],
        "query-server": [f"--commands={command}", f"--projector={projector}", read_store],
    }
    return [
        Child(
            name,
            [
                *(sys.executable, "-m", name.replace("-", "_")),
                f"--domain={settings.domain}",
                f"--address={server_ports.serving.address}",
                f"--metrics-address={server_ports.metrics.address}",
                f"--log-level={settings.log_level}",
                f"--log-format={settings.log_format}",
                *(["--insecure"] if settings.insecure else []),
                *own_arguments,
            ],
            address=server_ports.serving.address,
            metrics=server_ports.metrics.address,
            log=settings.data / "logs" / f"{name}.log",
            healthy=_health_check(channel),
        )
        for (name, own_arguments), server_ports, channel in zip(arguments.items(), ports, channels, strict=True)
    ]


def _health_check(channel: Channel) -> Callable[[], Awaitable[None]]:
    async def wait_until_serving() -> None:
        """Wait until the server's health is SERVING."""
        while True:
            with suppress(CallError):
                method = "grpc.health.v1.Health/Check"
                answer = await call(channel, method, HealthCheckRequest(), HealthCheckResponse, _HEALTH_SECONDS)
                if answer.status == HealthCheckResponse.SERVING:
                    return
            await asyncio.sleep(_HEALTH_PAUSE_SECONDS)

    return wait_until_serving
