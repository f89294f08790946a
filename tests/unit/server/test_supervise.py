"""Supervision: the first failure ends all tasks, and closing leaves none behind."""

from __future__ import annotations

import asyncio
from typing import Never

import pytest

from diptych.server.supervise import TaskFailedError, TaskSupervisor


async def forever() -> None:
    await asyncio.Event().wait()


async def fail(text: str) -> None:
    raise ValueError(text)


async def test_failure_ends_the_other_tasks_and_names_its_task() -> None:
    async with TaskSupervisor() as tasks:
        other = tasks.start(forever(), name="other")
        tasks.start(fail("broken"), name="the one")
        with pytest.raises(TaskFailedError, match="'the one'") as failed:
            await tasks.wait()
        assert isinstance(failed.value.__cause__, ValueError)
        assert other.cancelled()


async def test_first_of_several_failures_is_named() -> None:
    async def fail_when_cancelled() -> Never:
        try:
            await forever()
        finally:
            raise KeyError("second")

    async with TaskSupervisor() as tasks:
        tasks.start(fail_when_cancelled(), name="second")
        tasks.start(fail("first"), name="first")
        with pytest.raises(TaskFailedError, match="'first'") as failed:
            await tasks.wait()
        assert isinstance(failed.value.__cause__, ValueError)


async def test_closing_cancels_the_tasks_and_ends_the_wait() -> None:
    tasks = TaskSupervisor()
    async with tasks:
        task = tasks.start(forever(), name="one")
        waiting = asyncio.create_task(tasks.wait())
        await asyncio.sleep(0)
    assert task.cancelled()
    await waiting


async def test_closing_waits_for_the_cleanup_of_a_task() -> None:
    cleaned = []

    async def work() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    async with TaskSupervisor() as tasks:
        tasks.start(work(), name="one")
        await asyncio.sleep(0)
    assert cleaned == [True]


async def test_tasks_that_return_leave_the_others_running() -> None:
    async with TaskSupervisor() as tasks:
        running = tasks.start(forever(), name="running")
        ended = tasks.start(asyncio.sleep(0, "result"), name="ended")
        assert await ended == "result"
        assert not running.done()


async def test_cancelled_wait_leaves_the_tasks_running() -> None:
    async with TaskSupervisor() as tasks:
        task = tasks.start(forever(), name="one")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tasks.wait(), 0.01)
        assert not task.done()


async def test_wait_for_an_event_ends_when_it_is_set() -> None:
    event = asyncio.Event()
    async with TaskSupervisor() as tasks:
        task = tasks.start(forever(), name="one")
        asyncio.get_running_loop().call_soon(event.set)
        await tasks.wait_for(event)
        assert not task.done()


@pytest.mark.parametrize("late", [False, True])
async def test_wait_for_an_event_raises_the_failure_of_a_task(*, late: bool) -> None:
    async with TaskSupervisor() as tasks:
        failing = tasks.start(fail("broken"), name="the one")
        if late:
            await asyncio.wait((failing,))
        with pytest.raises(TaskFailedError, match="'the one'"):
            await tasks.wait_for(asyncio.Event())


async def test_exception_of_the_block_is_raised_as_it_is() -> None:
    started: list[asyncio.Task[None]] = []

    async def block() -> None:
        async with TaskSupervisor() as tasks:
            started.append(tasks.start(forever(), name="one"))
            raise LookupError

    with pytest.raises(LookupError):
        await block()
    assert started[0].cancelled()


@pytest.mark.parametrize("failed", [False, True])
async def test_start_is_refused_when_the_tasks_have_ended(*, failed: bool) -> None:
    async with TaskSupervisor() as tasks:
        if failed:
            tasks.start(fail("broken"), name="the one")
            with pytest.raises(TaskFailedError):
                await tasks.wait()
        else:
            await tasks.close()
        with pytest.raises(RuntimeError, match="'late' cannot start"):
            tasks.start(forever(), name="late")
