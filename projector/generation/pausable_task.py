"""Steering: work that goes on until it is halted, and again when it is let go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from diptych.domain.refusal import Refusal
from diptych.server.router import internal_error

_PATIENCE_SECONDS = 0.1

T = TypeVar("T")


class Turns:
    """Changes that are made one after the other, each to its end even if whoever asks for it goes away."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()

    async def take(self, change: Callable[[], Awaitable[T]]) -> T:
        """Makes a change when those before it are made; returns what it does."""

        async def in_turn() -> T:
            async with self._turn:
                return await change()

        changing = asyncio.create_task(in_turn())
        self._changes.add(changing)
        changing.add_done_callback(self._changes.discard)
        try:
            return await asyncio.shield(changing)
        except asyncio.CancelledError:
            changing.add_done_callback(_without_hearer)
            raise

    async def settle(self) -> None:
        """Waits until no change is under way."""
        await asyncio.gather(*self._changes, return_exceptions=True)


def _without_hearer(change: asyncio.Task[Any]) -> None:
    """Whoever asked for a change is gone: a refusal is told to nobody, and what nobody foresaw to the log."""
    error = None if change.cancelled() else change.exception()
    if error is not None and not isinstance(error, Refusal):
        internal_error(error, "", where="change")


class Steering:
    """Steers one piece of work. Work that ends by itself stays ended until it is let go again."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], *, going: bool) -> None:
        self.step = asyncio.Lock()
        """Held by the work over what must not be cut short."""
        self._work = work
        self._working: asyncio.Task[None] | None = None
        self._go = asyncio.Event()
        self._turns = Turns()
        if going:
            self._go.set()

    async def run(self) -> None:
        """Runs the work, whenever it may go, until this is cancelled; raises what the work does."""
        while True:
            await self._go.wait()
            if not self._go.is_set():
                continue  # Halted again in the meantime.
            self._go.clear()
            self._working = asyncio.create_task(self._work())
            (ended,) = await asyncio.gather(self._working, return_exceptions=True)
            if isinstance(ended, Exception):
                raise ended

    def go(self) -> None:
        """Lets the work begin anew, after it was halted or has ended."""
        self._go.set()

    async def halt(self) -> bool:
        """Ends the work, not in the middle of a step, and returns when it has ended: whether it was going."""
        working = self._working
        going = self._go.is_set() or (working is not None and not working.done())
        self._go.clear()
        while working is not None and not working.done():
            async with self.step:
                working.cancel()
            # Something that was being closed may have taken the cancellation for its own: then it is cancelled again.
            await asyncio.wait((working,), timeout=_PATIENCE_SECONDS)
        return going

    async def change(self, change: Callable[[], Awaitable[None]]) -> None:
        """Makes a change, one after the other, and to the end even if whoever asks for it goes away."""
        await self._turns.take(change)
