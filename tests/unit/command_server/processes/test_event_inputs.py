"""Events of old types, and of types without a handler, as inputs of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from diptych import Deciding, Process, Send
from diptych.domain.errors import DomainError
from diptych.domain.loading import LoadedDomain
from diptych.domain.upcasting import Upcaster
from library.copies import copy
from library.lending import activity, lending
from library.reservations import reservation
from library.v1.command_service_pb2 import BorrowCopyRequest, PutCopyBackRequest, ReturnCopyRequest
from library.v1.events_pb2 import CopyPutBack, CopyReturned
from tests.support.polling import eventually
from tests.support.process_stage import SECONDS, Mail, Stage, library, stage
from tests.support.reservations import fill, reserve

OLD, NEW = "library.v1.CopyReturned", "library.v1.CopyPutBack"


@dataclass(frozen=True)
class Nothing:
    pass


def listener(event: type[Message], taken: list[str], error: Exception | None = None) -> Process[Nothing]:
    """Return a process that reacts to one event type: it notes the event, or fails."""
    process = Process[Nothing]("listener", initial=Nothing(), id="copy_id")

    @process.reacts(event, key=lambda e: str(getattr(e, "copy_id", "")))
    def react(state: Nothing, event: Any, at: Deciding) -> Sequence[Send[PutCopyBackRequest]]:
        if error is not None:
            raise error
        taken.append(f"{event.DESCRIPTOR.name} {at.id}")
        return []

    return process


def rename(monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
    """Change the library as a release that renames CopyReturned to CopyPutBack."""

    def upcast(event: CopyReturned) -> CopyPutBack:
        if fails:
            raise RuntimeError("planted")
        return CopyPutBack(copy_id=event.copy_id)

    def decide(state: Any, command: Any, at: Deciding) -> Any:
        return [CopyPutBack(copy_id=at.id)]

    decide.__annotations__.clear()
    monkeypatch.delitem(copy.evolvers, OLD)
    command = "library.v1.ReturnCopyRequest"
    monkeypatch.setitem(copy.deciders, command, copy.deciders[command]._replace(decide=decide))
    for view in (*lending.views, *activity.views):
        monkeypatch.delitem(view.handlers, OLD, raising=False)
    monkeypatch.delitem(reservation.events, OLD)
    monkeypatch.setitem(copy.upcasters, OLD, Upcaster(CopyReturned, (CopyPutBack,), upcast))


def with_listener(process: Process[Nothing]) -> LoadedDomain:
    return library(Mail(), processes=(reservation, process))


async def give_back(on: Stage, copy_id: str = "c1") -> None:
    await on.execute(BorrowCopyRequest(copy_id=copy_id, member_id="m1"))
    await on.execute(ReturnCopyRequest(copy_id=copy_id))


async def until_parked(on: Stage, count: int = 1) -> None:
    async def written() -> bool:
        return len(await on.store.parked_inputs()) == count

    await eventually(written, seconds=SECONDS)


async def test_bug_event_of_a_renamed_type_was_lost_if_it_was_not_taken_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    async with stage(tmp_path, with_listener(listener(CopyReturned, []))) as on:
        await fill(on)
        await on.host.close()
        await give_back(on)
    rename(monkeypatch)
    async with stage(tmp_path, with_listener(listener(CopyPutBack, taken))) as on:
        await eventually(lambda: taken == ["CopyPutBack c1"], seconds=SECONDS)


async def test_bug_parked_event_of_a_renamed_type_was_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    async with stage(tmp_path, with_listener(listener(CopyReturned, [], RuntimeError("planted")))) as on:
        await fill(on)
        await give_back(on)
        await give_back(on)
        await until_parked(on, 2)
    rename(monkeypatch)
    async with stage(tmp_path, with_listener(listener(CopyPutBack, taken))) as on:
        assert await on.host.retry("listener", "c1") is None
        await eventually(lambda: taken == ["CopyPutBack c1"] * 2, seconds=SECONDS)


async def test_event_whose_upcaster_fails_parks_until_the_upcaster_is_fixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    async with stage(tmp_path, with_listener(listener(CopyReturned, []))) as on:
        await fill(on)
        await on.host.close()
        await give_back(on)
    with monkeypatch.context() as patch:
        patch.setattr("diptych.domain.checks._check_upcasters", lambda aggregate: None)
        rename(patch, fails=True)
        async with stage(tmp_path, with_listener(listener(CopyPutBack, taken))) as on:
            await until_parked(on)
            (queue,) = on.host.queues.parked_queues()
            assert (queue.id, queue.parked and queue.parked.error) == ("@copy/c1", "RuntimeError: planted")
    rename(monkeypatch)
    async with stage(tmp_path, with_listener(listener(CopyPutBack, taken))) as on:
        assert await on.host.retry("listener", "@copy/c1") is None
        await eventually(lambda: taken == ["CopyPutBack c1"], seconds=SECONDS)


async def test_parked_event_without_a_handler_stays_parked_until_it_is_discarded(tmp_path: Path) -> None:
    async with stage(tmp_path, with_listener(listener(CopyReturned, [], RuntimeError("planted")))) as on:
        await fill(on)
        await give_back(on)
        await until_parked(on)
    async with stage(tmp_path, with_listener(listener(CopyPutBack, []))) as on:
        parked = await on.host.retry("listener", "c1")
        assert parked is not None
        assert parked.error == (
            f"LookupError: process listener has no handler for event {OLD}: add the handler or an upcaster, or discard "
            "the input"
        )
        (queue,) = on.host.queues.parked_queues()
        assert queue.inputs[0].type == OLD
        assert on.host.discard("listener", "c1") == 0
        await until_parked(on, 0)


async def test_parked_outcome_without_a_handler_stays_parked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage(tmp_path, library(Mail())) as on:
        await fill(on, "100%")
        await on.execute(reserve("100%"))
        await until_parked(on)
    monkeypatch.delitem(reservation.acceptances, "library.v1.PutCopyAsideRequest")
    async with stage(tmp_path, library(Mail())) as on:
        parked = await on.host.retry("reservation", "100%")
        assert parked is not None
        assert parked.error.startswith("LookupError: process reservation has no handler for this outcome of")


def test_process_that_reacts_to_an_upcast_type_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rename(monkeypatch)
    with pytest.raises(DomainError, match=f"reacts to {OLD}: that event is upcast before the process takes it"):
        with_listener(listener(CopyReturned, []))


@pytest.mark.parametrize("key", ["shelf\0c1", "\ud800"])
async def test_bug_nul_in_an_instance_id_doubled_stream_versions(tmp_path: Path, key: str) -> None:
    process = Process[Nothing]("listener", initial=Nothing(), id="copy_id")

    @process.reacts(CopyReturned, key=lambda e: key if e.copy_id else None)
    def react(state: Nothing, event: CopyReturned, at: Deciding) -> Sequence[Send[PutCopyBackRequest]]:
        return []

    async with stage(tmp_path, with_listener(process)) as on:
        await fill(on)
        await give_back(on)
        await until_parked(on)
        (queue,) = on.host.queues.parked_queues()
        assert queue.id == "@copy/c1"
        assert queue.parked is not None
        assert queue.parked.error.startswith("AggregateIdError: an aggregate's id must")
