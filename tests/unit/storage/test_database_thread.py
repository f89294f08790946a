"""Database thread: calls run one after the other, and cancelled calls don't run."""

from __future__ import annotations

import asyncio
import threading

import pytest

from diptych.storage.database_thread import DatabaseThread


async def test_calls_run_in_order_on_one_thread() -> None:
    thread = DatabaseThread("database")
    ran: list[tuple[int, str]] = []

    def call(number: int) -> int:
        ran.append((number, threading.current_thread().name))
        return number

    assert await asyncio.gather(*(thread.run(call, number) for number in range(5))) == [0, 1, 2, 3, 4]
    assert ran == [(number, "database") for number in range(5)]
    await thread.close()
    assert "database" not in {each.name for each in threading.enumerate()}


async def test_error_of_a_call_is_raised_and_the_next_call_runs() -> None:
    thread = DatabaseThread("database")
    with pytest.raises(KeyError, match="gone"):
        await thread.run({}.__getitem__, "gone")
    assert await thread.run(len, "next") == 4
    await thread.close()


async def test_cancelled_call_does_not_run_unless_it_has_begun() -> None:
    thread = DatabaseThread("database")
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    ran: list[str] = []

    def hang() -> None:
        begun.set()
        go_on.wait(30)
        ended.set()

    under_way = asyncio.create_task(thread.run(hang))
    waiting = asyncio.create_task(thread.run(ran.append, "given up"))
    await asyncio.to_thread(begun.wait, 30)
    for task in (under_way, waiting):
        task.cancel()
    await asyncio.wait((under_way, waiting))
    go_on.set()
    await thread.run(ran.append, "later")
    assert ended.is_set()
    assert ran == ["later"]
    await thread.close()


async def test_unused_thread_can_be_closed() -> None:
    await DatabaseThread("database").close()
