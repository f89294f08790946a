"""The thread of a database: one call after the other, and what becomes of those that are given up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from diptych.storage.database_thread import DatabaseThread


async def test_calls_run_in_order_on_one_thread_of_their_own() -> None:
    thread = DatabaseThread("database")
    ran: list[tuple[int, str]] = []

    def call(number: int) -> int:
        ran.append((number, threading.current_thread().name))
        return number

    assert await asyncio.gather(*(thread.run(call, number) for number in range(5))) == [0, 1, 2, 3, 4]
    assert ran == [(number, "database") for number in range(5)]
    await thread.close()
    assert "database" not in {each.name for each in threading.enumerate()}


async def test_what_a_call_raises_is_raised_and_the_next_call_runs() -> None:
    thread = DatabaseThread("database")
    with pytest.raises(KeyError, match="gone"):
        await thread.run({}.__getitem__, "gone")
    assert await thread.run(len, "next") == 4
    await thread.close()


async def test_a_call_that_is_given_up_before_its_turn_does_not_run_and_one_under_way_ends() -> None:
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


async def test_a_thread_that_was_never_used_can_be_closed() -> None:
    await DatabaseThread("database").close()
