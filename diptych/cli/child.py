"""Child: a server that runs as a child process of `diptych up`."""

from __future__ import annotations

import asyncio
import enum
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from diptych.server.leash import LEASH

LOG_BYTES_MAX = 8 << 20
"""Length of a child's log above which the next start renames it to `NAME.log.1`."""


class State(enum.Enum):
    """State of a child."""

    STARTING = "starting"
    SERVING = "serving"
    DOWN = "down"
    STOPPED = "stopped"


class Child:
    """A server that runs as a child process.

    The child is ready when it prints its ready line, and healthy when `healthy` returns; `healthy` waits without a
    limit. The child's stderr goes to the file `log` directly, so the child never waits for the supervisor.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        address: str,
        log: Path,
        healthy: Callable[[], Awaitable[None]],
        metrics: str = "",
    ) -> None:
        self.name = name
        self.address = address
        self.metrics = metrics
        self.log = log
        self.state = State.STOPPED
        self.restarts = 0
        self._command = list(command)
        self._healthy = healthy
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Process id while the process runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def launch(self) -> None:
        """Start the process."""
        self.state = State.STARTING
        self._rotate_log()
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, LEASH: "1"},
                start_new_session=True,  # Otherwise Ctrl-C on the terminal stops all children at once, in no order.
            )

    async def wait_until_healthy(self) -> bool:
        """Wait until the child is healthy. Return False if the process ended before."""
        process, output = self._running()
        ready = f"diptych {self.name} ready address=".encode()
        while not (line := await output.readline()).startswith(ready):
            if not line:
                await process.wait()
                return False
        health = asyncio.ensure_future(self._healthy())
        ended = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait((health, ended), return_when=asyncio.FIRST_COMPLETED)
            if not health.done():
                return False
            health.result()
        finally:
            health.cancel()
            ended.cancel()
        self.state = State.SERVING
        return True

    async def wait_until_ended(self) -> str:
        """Wait until the process has ended. Return a predicate with the cause, such as `ended with status 1`."""
        process, output = self._running()
        while await output.read(65536):  # A full pipe would block the child.
            pass
        status = await process.wait()
        self.state = State.DOWN
        if status < 0:
            return f"was killed by {_signal_name(-status)}"
        return f"ended with status {status}"

    def last_log_lines(self, count: int) -> list[str]:
        """Return the last lines that this run of the child wrote to stderr."""
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 65536))
            return log.read().decode("utf-8", "replace").splitlines()[-count:]
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal, if it runs."""
        if self.pid is not None and self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self, seconds: float) -> None:
        """Stop the process with SIGTERM, and kill it if it still runs after `seconds`."""
        if self._process is not None:
            self.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.wait_until_ended(), seconds)
            except TimeoutError:
                self.signal(signal.SIGKILL)
                await self._process.wait()
        self.state = State.STOPPED

    def _running(self) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader]:
        assert self._process is not None, "launched before"
        assert self._process.stdout is not None, "a pipe"
        return self._process, self._process.stdout

    def _rotate_log(self) -> None:
        with suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_BYTES_MAX:
                self.log.replace(self.log.with_name(f"{self.log.name}.1"))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
