"""OperationQueue: operations run one at a time, and to their end."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest

from diptych.contract.reasons import Overloaded
from diptych.server import errors
from projector.generation.operation_queue import OperationQueue


async def test_operation_runs_to_its_end_when_its_caller_is_cancelled() -> None:
    queue = OperationQueue()
    gate, completed = asyncio.Event(), []

    async def first() -> None:
        await gate.wait()
        completed.append("first")

    async def second() -> None:
        completed.append("second")

    calling = asyncio.create_task(queue.run(first))
    await asyncio.sleep(0)
    other = asyncio.create_task(queue.run(second))
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    gate.set()
    await other
    assert completed == ["first", "second"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(Overloaded(what="operations", limit=1), []), (RuntimeError("a defect"), [RuntimeError])],
)
async def test_bug_refusal_of_an_operation_whose_caller_was_cancelled_left_a_traceback(
    error: Exception, expected: list[type[Exception]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal concerns the caller alone; asyncio reported it as never retrieved. A defect is logged."""
    logged: list[type[Exception]] = []
    unretrieved: list[dict[str, Any]] = []
    log = SimpleNamespace(error=lambda _, exc_info, **where: logged.append(type(exc_info)))
    monkeypatch.setattr(errors, "_log", log)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unretrieved.append(context))
    queue, gate = OperationQueue(), asyncio.Event()

    async def operation() -> None:
        await gate.wait()
        raise error

    calling = asyncio.create_task(queue.run(operation))
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    gate.set()
    await queue.wait_idle()
    await asyncio.sleep(0)
    del calling
    gc.collect()
    assert (logged, unretrieved) == (expected, [])
