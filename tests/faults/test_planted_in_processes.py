"""Bugs planted in the marks, timers and outputs of processes: the unit tests find each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from command_server.processes.marks import Mark
from command_server.processes.outputs import OpenOutputs, Retry
from command_server.processes.timers import Timers
from tests.unit.command_server.processes import test_give_up, test_marks, test_timers

Original = Callable[..., Any]
PLANTS: dict[str, tuple[Callable[[Path], Any], Any, str, Callable[[Original], Original]]] = {}


def _marks(folder: Path) -> None:
    test_marks.test_a_mark_never_passes_an_event_that_is_not_finished()


def _timers(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _run(test_timers.test_timeouts_that_start_while_others_are_read_fire_once(folder, patch, 0))


def _retry(folder: Path) -> None:
    _run(test_give_up.test_retry_of_an_operator_cancels_the_running_timer(folder))


def _counters(folder: Path) -> None:
    _run(test_give_up.test_counters_of_open_outputs_follow_each_output_once(folder))


def _run(test: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(limited())


def plant(test: Callable[[Path], Any], owner: Any, name: str) -> Callable[[Any], Any]:
    """Register a replacement of a function, and the test that must find it."""

    def register(around: Callable[[Original], Original]) -> Callable[[Original], Original]:
        PLANTS[around.__name__] = (test, owner, name, around)
        return around

    return register


@plant(_marks, Mark, "position")
def a_mark_is_one_too_far(original: Any) -> Any:
    def position(self: Any) -> Any:
        mark = original.fget(self)
        return mark + 1 if self._begun else mark

    return property(position)


@plant(_marks, Mark, "finish")
def a_mark_passes_all_events_before_a_finished_one(original: Original) -> Original:
    def finish(self: Any, position: int) -> None:
        for earlier in list(self._begun):
            if earlier <= position:
                original(self, earlier)

    return finish


@plant(_marks, Mark, "finish")
def a_mark_forgets_events_that_finish_out_of_turn(original: Original) -> Original:
    def finish(self: Any, position: int) -> None:
        if self._begun and position == self._begun[0]:
            original(self, position)

    return finish


@plant(_retry, Retry, "start_now")
def a_retry_leaves_the_timer_running(original: Original) -> Original:
    return lambda self: self.start()


@plant(_counters, OpenOutputs, "close")
def an_output_is_counted_down_twice(original: Original) -> Original:
    def close(self: Any, key: Any) -> None:
        output = self.get(key)
        original(self, key)
        if output is not None:
            self.kinds[output.work.process, output.work.kind] -= 1

    return close


@plant(_timers, OpenOutputs, "add_stored")
def a_timeout_that_only_the_store_has_is_counted_again(original: Original) -> Original:
    def add_stored(self: Any, work: Any) -> Any:
        added = original(self, work)
        self.kinds[work.process, work.kind] += added
        return added

    return add_stored


@plant(_timers, Timers, "_take")
def the_horizon_ends_one_timeout_too_late(original: Original) -> Original:
    def take(self: Any, page: Any, through: int, count: int) -> None:
        original(self, page[:-1], through, len(page) - 1 if len(page) == count else count)
        if self._horizon is not None:
            self._horizon = (page[-1].due, (page[-1].position, page[-1].ordinal))

    return take


@pytest.mark.parametrize("bug", PLANTS)
def test_a_planted_bug_in_a_process_part_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bug: str) -> None:
    test, owner, name, around = PLANTS[bug]
    with monkeypatch.context() as patch:
        patch.setattr("tests.unit.command_server.processes.test_timers.SECONDS", 2.0)
        patch.setattr(owner, name, around(vars(owner)[name]))
        with pytest.raises((AssertionError, BaseExceptionGroup)):
            test(tmp_path)
