"""PausableTask: work that stops between its steps and starts again."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from projector.generation.pausable_task import PausableTask

SECONDS = 10


class Work:
    """Work in steps, which counts begun and completed steps."""

    def __init__(self, *, started: bool = True) -> None:
        self.task = PausableTask(self.run, started=started)
        self.runs = self.begun = self.done = 0
        self.stepped = asyncio.Event()
        self.ended = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.ending: Exception | None = None
        self.end = False

    async def run(self) -> None:
        self.runs += 1
        while not self.end:
            async with self.task.step:
                self.begun += 1
                self.stepped.set()
                await self.gate.wait()
                self.done += 1
            await asyncio.sleep(0)
        self.ended.set()
        if self.ending is not None:
            raise self.ending

    async def wait_for_step(self) -> None:
        self.stepped.clear()
        async with asyncio.timeout(SECONDS):
            await self.stepped.wait()


@asynccontextmanager
async def running(work: Work) -> Any:
    task = asyncio.create_task(work.task.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, ValueError):
            await task


async def test_stop_waits_for_the_running_step() -> None:
    work = Work()
    async with running(work):
        await work.wait_for_step()
        work.gate.clear()
        await work.wait_for_step()
        stopping = asyncio.create_task(work.task.stop())
        for _ in range(5):  # Nothing but the gate ends the step: there is no timer that could end it later.
            await asyncio.sleep(0)
        assert not stopping.done()
        work.gate.set()
        assert await stopping
        assert work.begun == work.done, "no step was interrupted"
        steps = work.done
        assert not await work.task.stop(), "it was stopped already"
        await asyncio.sleep(0)
        work.task.start()
        await work.wait_for_step()
        assert (work.runs, work.done > steps) == (2, True)


async def test_stopped_task_starts_only_if_the_start_was_not_revoked() -> None:
    work = Work(started=False)
    async with running(work):
        await asyncio.sleep(0)
        work.task.start()
        assert await work.task.stop()
        for _ in range(5):
            await asyncio.sleep(0)
        assert work.runs == 0
        work.task.start()
        await work.wait_for_step()
        assert work.runs == 1


async def test_work_that_ended_stays_ended_until_started() -> None:
    work = Work()
    async with running(work):
        await work.wait_for_step()
        work.end = True
        async with asyncio.timeout(SECONDS):
            await work.ended.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not await work.task.stop()
        assert work.runs == 1
        work.end = False
        work.task.start()
        await work.wait_for_step()
        assert work.runs == 2


async def test_run_raises_the_error_of_the_work() -> None:
    work = Work()
    work.end, work.ending = True, ValueError("broken")
    async with running(work) as task:
        with pytest.raises(ValueError, match="broken"):
            await task
