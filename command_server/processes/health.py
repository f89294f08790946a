"""Health of processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from command_server.processes.effects import Effects
from diptych.domain.process import Process

_CHECK_SECONDS = 0.25


class ProcessHealth:
    """Reports for each type of process if it is served.

    A type is served while the log can be read, no part of the host has failed, and all its ports are open.

    Args:
        processes: the types of process by name.
        ports: the effects by full name of the request.
        running: returns True while the log is read and no part of the host has failed.
        report: called with the health service of a type and its health, whenever that changes.
    """

    def __init__(
        self,
        processes: Mapping[str, Process[Any]],
        ports: Mapping[str, Effects],
        running: Callable[[], bool],
        report: Callable[[str, bool], Awaitable[None]],
    ) -> None:
        self._processes = processes
        self._ports = ports
        self._running = running
        self._report = report
        self._served: dict[str, bool] = {}

    async def run(self) -> None:
        """Check and report every 250 ms until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            await self.check()

    async def check(self) -> None:
        """Report the types whose health has changed."""
        for name, process in self._processes.items():
            ports = {*process.answers, *process.failures}
            served = self._running() and all(self._ports[port].open for port in ports)
            if self._served.get(name) != served:
                self._served[name] = served
                await self._report(f"diptych.process.{name}", served)
