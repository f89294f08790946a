"""Steering: work that is halted between its steps and let go again."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest

from diptych.contract.reasons import Overloaded
from diptych.server import router as binder
from projector.generation.pausable_task import Steering, Turns

SECONDS = 10


class Work:
    """Takes steps until it is told to end, and knows what was cut short."""

    def __init__(self, *, going: bool = True) -> None:
        self.steering = Steering(self.run, going=going)
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
            async with self.steering.step:
                self.begun += 1
                self.stepped.set()
                await self.gate.wait()
                self.done += 1
            await asyncio.sleep(0)
        self.ended.set()
        if self.ending is not None:
            raise self.ending

    async def until_it_steps(self) -> None:
        self.stepped.clear()
        async with asyncio.timeout(SECONDS):
            await self.stepped.wait()


@asynccontextmanager
async def running(work: Work) -> Any:
    task = asyncio.create_task(work.steering.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, ValueError):
            await task


async def test_halting_waits_for_the_step_and_nothing_follows() -> None:
    work = Work()
    async with running(work):
        await work.until_it_steps()
        work.gate.clear()
        await work.until_it_steps()
        halting = asyncio.create_task(work.steering.halt())
        await asyncio.wait((halting,), timeout=0.05)
        assert not halting.done()
        work.gate.set()
        assert await halting
        assert work.begun == work.done, "no step was cut short"
        steps = work.done
        assert not await work.steering.halt(), "it was halted already"
        await asyncio.sleep(0)
        work.steering.go()
        await work.until_it_steps()
        assert (work.runs, work.done > steps) == (2, True)


async def test_what_begins_halted_begins_when_it_may_and_not_if_that_was_taken_back() -> None:
    work = Work(going=False)
    async with running(work):
        await asyncio.sleep(0)
        work.steering.go()
        assert await work.steering.halt()
        for _ in range(5):
            await asyncio.sleep(0)
        assert work.runs == 0
        work.steering.go()
        await work.until_it_steps()
        assert work.runs == 1


async def test_work_that_ended_stays_ended_until_it_is_let_go() -> None:
    work = Work()
    async with running(work):
        await work.until_it_steps()
        work.end = True
        async with asyncio.timeout(SECONDS):
            await work.ended.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not await work.steering.halt()
        assert work.runs == 1
        work.end = False
        work.steering.go()
        await work.until_it_steps()
        assert work.runs == 2


async def test_what_the_work_raises_is_raised() -> None:
    work = Work()
    work.end, work.ending = True, ValueError("broken")
    async with running(work) as task:
        with pytest.raises(ValueError, match="broken"):
            await task


async def test_a_change_is_made_to_the_end_though_nobody_waits_for_it_any_more() -> None:
    steering = Work().steering
    gate, made = asyncio.Event(), []

    async def first() -> None:
        await gate.wait()
        made.append("first")

    async def second() -> None:
        made.append("second")

    asking = asyncio.create_task(steering.change(first))
    await asyncio.sleep(0)
    next_one = asyncio.create_task(steering.change(second))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    gate.set()
    await next_one
    assert made == ["first", "second"]


@pytest.mark.parametrize(
    ("error", "told"),
    [(Overloaded(what="changes", limit=1), []), (RuntimeError("a defect"), [RuntimeError])],
)
async def test_bug_a_change_that_was_refused_when_its_caller_was_gone_left_a_traceback(
    error: Exception, told: list[type[Exception]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal is for whoever asked; asyncio wrote of an exception that was never retrieved. A defect is logged."""
    logged: list[type[Exception]] = []
    unretrieved: list[dict[str, Any]] = []
    log = SimpleNamespace(error=lambda _, exc_info, **where: logged.append(type(exc_info)))
    monkeypatch.setattr(binder, "_log", log)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unretrieved.append(context))
    turns, gate = Turns(), asyncio.Event()

    async def change() -> None:
        await gate.wait()
        raise error

    asking = asyncio.create_task(turns.take(change))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    gate.set()
    while turns._changes:
        await asyncio.sleep(0)
    del asking
    gc.collect()
    assert (logged, unretrieved) == (told, [])
