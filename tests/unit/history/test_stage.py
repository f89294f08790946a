"""Stage of history runs: a server that is killed while it starts counts as up only after the next start."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from diptych.domain.loading import load
from tests.history.records import History
from tests.history.stage import Actor, Stage


class SlowServer:
    """A server that runs from `restart` on, and is ready when the test says so."""

    def __init__(self) -> None:
        self.running = False
        self.env: dict[str, str] = {}
        self.starts = 0
        self.ready = asyncio.Event()

    async def restart(self) -> None:
        self.running = True
        self.starts += 1
        self.ready = asyncio.Event()
        await self.ready.wait()

    def kill(self) -> None:
        self.running = False

    def thaw(self) -> None:
        pass

    def wait(self) -> int:
        return -9

    def logged(self) -> str:
        return ""


async def test_a_kill_waits_for_the_next_start_when_it_meets_a_start_that_has_just_ended(tmp_path: Path) -> None:
    server: Any = SlowServer()
    stage = Stage(tmp_path, load("shop").domain, History(), random.Random(1))
    actor = stage.actors["command-server"] = Actor("command-server", server, "", 0.5)
    actor.killed = True  # The first process has a cause to have ended.
    minding = asyncio.create_task(stage._mind(actor))
    try:
        async with asyncio.timeout(10):
            while not server.starts:
                await asyncio.sleep(0)
            killing = asyncio.create_task(stage._kill(actor))
            server.ready.set()  # The kill comes first, and only then does the starting task go on.
            while server.starts == 1:
                await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
            assert not killing.done(), "the second process is not ready yet"
            server.ready.set()
            await killing
        assert server.running
        assert actor.up.is_set()
    finally:
        minding.cancel()
        await asyncio.gather(minding, return_exceptions=True)
