"""Supervisor: starts child processes, restarts those that end, and stops all in order."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence

from diptych.cli.child import Child

BACKOFF_SECONDS = (0.1, 5.0)
"""First and longest backoff before a restart. Each is twice the one before."""
SETTLED_SECONDS = 10.0
"""A child that was healthy for longer restarts with the first backoff."""
SLOW_START_SECONDS = 15.0
"""Time without health after which a line names the child's log."""
_FAILURE_LINES = 50
"""Lines of its log in the message about a child that fails at its first start."""


class ChildFailed(Exception):
    """A child ended before it was healthy for the first time. The message has the last lines of its log."""


class Supervisor:
    """Runs children.

    Args:
        children: Children in the order of their start. The first one stops last.
        print_line: Function that shows a line to the operator.
    """

    def __init__(self, children: Sequence[Child], print_line: Callable[[str], None]) -> None:
        self.children = tuple(children)
        self._print_line = print_line
        self._healthy = {child.name: asyncio.Event() for child in children}
        self._runs: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start all children together and return when all are healthy. Raise `ChildFailed` if one ends before."""
        self._runs = [asyncio.create_task(self._run(child)) for child in self.children]
        healthy = asyncio.create_task(self._wait_until_all_healthy())
        try:
            await asyncio.wait((healthy, *self._runs), return_when=asyncio.FIRST_COMPLETED)
            self._raise_failure()
        finally:
            healthy.cancel()

    async def watch(self) -> None:
        """Wait while the children run. Return only when cancelled; raise an error of the supervisor itself."""
        await asyncio.wait(self._runs, return_when=asyncio.FIRST_COMPLETED)
        self._raise_failure()

    async def stop(self, seconds: float) -> None:
        """Stop all children, the first one last. Kill a child that still runs `seconds` after its turn."""
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        first, *others = self.children
        await asyncio.gather(*(child.stop(seconds) for child in others))
        await first.stop(seconds)

    def kill(self) -> None:
        """Kill all children that still run."""
        for child in self.children:
            child.signal(signal.SIGKILL)

    async def _wait_until_all_healthy(self) -> None:
        for event in self._healthy.values():
            await event.wait()

    def _raise_failure(self) -> None:
        for run in self._runs:
            if run.done() and not run.cancelled():
                run.result()

    async def _run(self, child: Child) -> None:
        """Run one child, and restart it each time it ends."""
        shortest, longest = BACKOFF_SECONDS
        backoff = shortest
        down_since: float | None = None
        while True:
            await child.launch()
            healthy_since = None
            if await self._wait_until_healthy(child):
                healthy_since = time.monotonic()
                if down_since is not None:
                    self._print_line(f"{child.name} is serving again after {healthy_since - down_since:.1f} s")
                self._healthy[child.name].set()
            ending = await child.wait_until_ended()
            if not self._healthy[child.name].is_set():
                lines = child.last_log_lines(_FAILURE_LINES)
                raise ChildFailed("\n".join([f"{child.name} {ending} before it was healthy:", *lines]))
            down_since = time.monotonic()
            if healthy_since is not None and down_since - healthy_since > SETTLED_SECONDS:
                backoff = shortest
            cause = [f"    {line}" for line in child.last_log_lines(3)] if "status" in ending else []
            restart = f"{child.name} {ending}; it starts again in {backoff:.1f} s (log: {child.log})"
            self._print_line("\n".join([restart, *cause]))
            child.restarts += 1
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, longest)

    async def _wait_until_healthy(self, child: Child) -> bool:
        healthy = asyncio.ensure_future(child.wait_until_healthy())
        try:
            done, _ = await asyncio.wait((healthy,), timeout=SLOW_START_SECONDS)
            if not done:
                self._print_line(f"{child.name} is not healthy after {SLOW_START_SECONDS:.0f} s (log: {child.log})")
            return await healthy
        finally:
            healthy.cancel()
