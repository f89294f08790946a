"""The supervisor: starts servers as child processes, starts again those that die, and stops all in order."""

from __future__ import annotations

import asyncio
import enum
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from diptych.server.leash import LEASH

BACKOFF_SECONDS = (0.1, 5.0)
"""The pause before a dead child is started again: the first and the longest. Each is twice the one before."""
SETTLED_SECONDS = 10.0
"""A child that was healthy for so long starts again with the first pause."""
SLOW_START_SECONDS = 15.0
"""After so long without health it is said where to look."""
LOG_BYTES_MAX = 8 << 20
"""A child's log that is longer when the child starts is put aside, as `NAME.log.1`."""


class State(enum.Enum):
    """What a child is doing."""

    STARTING = "starting"
    SERVING = "serving"
    DOWN = "down"
    STOPPED = "stopped"


class ChildFailed(Exception):
    """A child that ended before it was healthy for the first time; the message says what it said."""


class Child:
    """A server that runs as a child process.

    It is ready when it prints its ready line, and healthy when `healthy` returns; that waits as long as it
    takes. What it writes to stderr goes to `log`, directly, so that it never waits for us.
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
        """The process id while the process runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def launch(self) -> None:
        """Starts the process."""
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
                start_new_session=True,  # Or the terminal's Ctrl-C would stop all at once, in no order.
            )

    async def until_healthy(self) -> bool:
        """Waits until the child is healthy; false if it ended before."""
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

    async def until_ended(self) -> str:
        """Waits until the process ended; returns how."""
        process, output = self._running()
        while await output.read(65536):  # A full pipe would stop it.
            pass
        status = await process.wait()
        self.state = State.DOWN
        if status < 0:
            return f"was killed by {_signal_name(-status)}"
        return f"ended with status {status}"

    def said(self, lines: int) -> list[str]:
        """The last lines that this run of the child wrote to stderr."""
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 65536))
            return log.read().decode("utf-8", "replace").splitlines()[-lines:]
        return []

    def signal(self, number: signal.Signals) -> None:
        """Sends the process a signal, if it runs."""
        if self.pid is not None and self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self, seconds: float) -> None:
        """Stops the process: asks it, and after so many seconds kills it."""
        if self._process is not None:
            self.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.until_ended(), seconds)
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


class Supervisor:
    """Runs children. `tell` shows a line to whoever runs us."""

    def __init__(self, children: Sequence[Child], tell: Callable[[str], None]) -> None:
        self.children = tuple(children)
        self._tell = tell
        self._healthy = {child.name: asyncio.Event() for child in children}
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Starts all children together and returns when all are healthy; raises `ChildFailed`."""
        self._keepers = [asyncio.create_task(self._keep(child)) for child in self.children]
        healthy = asyncio.create_task(self._until_all_healthy())
        try:
            await asyncio.wait((healthy, *self._keepers), return_when=asyncio.FIRST_COMPLETED)
            self._raise_failure()
        finally:
            healthy.cancel()

    async def watch(self) -> None:
        """Keeps the children running; it returns only by cancellation, or raises what went wrong with us."""
        await asyncio.wait(self._keepers, return_when=asyncio.FIRST_COMPLETED)
        self._raise_failure()

    async def stop(self, seconds: float) -> None:
        """Stops the children, those that were named first last; each gets so many seconds."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        first, *others = self.children
        await asyncio.gather(*(child.stop(seconds) for child in others))
        await first.stop(seconds)

    def kill(self) -> None:
        """Kills what still runs."""
        for child in self.children:
            child.signal(signal.SIGKILL)

    async def _until_all_healthy(self) -> None:
        for event in self._healthy.values():
            await event.wait()

    def _raise_failure(self) -> None:
        for keeper in self._keepers:
            if keeper.done() and not keeper.cancelled():
                keeper.result()

    async def _keep(self, child: Child) -> None:
        """Runs one child, again and again."""
        shortest, longest = BACKOFF_SECONDS
        pause = shortest
        down: float | None = None
        while True:
            await child.launch()
            healthy = None
            if await self._until_healthy(child):
                healthy = time.monotonic()
                if down is not None:
                    self._tell(f"{child.name} is serving again after {healthy - down:.1f} s")
                self._healthy[child.name].set()
            how = await child.until_ended()
            if not self._healthy[child.name].is_set():
                raise ChildFailed("\n".join([f"{child.name} {how} before it was healthy:", *child.said(50)]))
            down = time.monotonic()
            if healthy is not None and down - healthy > SETTLED_SECONDS:
                pause = shortest
            said = [f"    {line}" for line in child.said(3)] if "status" in how else []
            self._tell("\n".join([f"{child.name} {how}; it starts again in {pause:.1f} s (log: {child.log})", *said]))
            child.restarts += 1
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _until_healthy(self, child: Child) -> bool:
        healthy = asyncio.ensure_future(child.until_healthy())
        try:
            done, _ = await asyncio.wait((healthy,), timeout=SLOW_START_SECONDS)
            if not done:
                self._tell(f"{child.name} is not healthy after {SLOW_START_SECONDS:.0f} s (log: {child.log})")
            return await healthy
        finally:
            healthy.cancel()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
