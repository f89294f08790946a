"""Outputs that keep failing: final failures, and outputs that an operator gives up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from command_server.processes.effects import FINAL_ATTEMPTS
from command_server.processes.outputs import OpenOutputs
from command_server.store.records import Work, WorkKind
from command_server.store.sqlite_store import SqliteEventStore
from diptych import Call, Calling, Deciding, Failed, Process, Refused, Send, call, send
from diptych.contract.reasons import ProcessNotFound
from library.reservations import reservation
from library.v1.command_service_pb2 import AddCopyRequest, BorrowCopyRequest, PutCopyBackRequest, ReturnCopyRequest
from library.v1.events_pb2 import CopyAdded, CopyReturned, SendNoticeRequest, SendNoticeResponse
from tests.support.polling import eventually
from tests.support.process_stage import SECONDS, Mail, Stage, library, stage
from tests.support.reservations import NOTIFIED, READY, STARTED, fill, reserve

FAILED = ("ProcessStepped", "ReservationEnded")


@pytest.fixture
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("command_server.processes.outputs.backoff", lambda attempts: 0.001)


@dataclass(frozen=True)
class Nothing:
    pass


def away(request: SendNoticeRequest, calling: Calling) -> Exception:
    return ConnectionError("the provider\nis away")


async def until_stuck(on: Stage, process: str = "reservation", id: str = "c1") -> None:
    await eventually(lambda: on.host.outputs.stuck_instances(process) == {id}, seconds=SECONDS)


@pytest.mark.usefixtures("short_backoff")
@pytest.mark.parametrize("error", [ValueError("no address:\n 'ä'"), TypeError("no address"), KeyError("address")])
async def test_bug_effect_whose_request_fails_always_was_stuck_for_ever(tmp_path: Path, error: Exception) -> None:
    mail = Mail()
    mail.failing = lambda request, calling: error
    async with stage(tmp_path, library(mail)) as on:
        await fill(on)
        await on.execute(reserve())
        await on.until("reservation/c1", *STARTED, *READY, *FAILED)
        ended = (await on.log("reservation/c1"))[-1]
        assert b"EFFECT_ERROR" in ended.event.value
        assert [calling.attempt for _, calling in mail.calls] == list(range(1, FINAL_ATTEMPTS + 1))


@pytest.mark.usefixtures("short_backoff")
@pytest.mark.parametrize(
    "error", [ConnectionError("away"), TimeoutError(), RuntimeError("busy"), json.JSONDecodeError("page", "<html>", 0)]
)
async def test_temporary_errors_of_an_effect_are_retried_without_limit(tmp_path: Path, error: Exception) -> None:
    mail = Mail()
    mail.failing = lambda request, calling: error if calling.attempt <= 2 * FINAL_ATTEMPTS else None
    async with stage(tmp_path, library(mail)) as on:
        await fill(on)
        await on.execute(reserve())
        await on.until("reservation/c1", *STARTED, *READY, *NOTIFIED)


async def test_given_up_effect_is_a_failure_for_the_process(tmp_path: Path) -> None:
    mail = Mail()
    mail.failing = away
    async with stage(tmp_path, library(mail)) as on:
        await fill(on)
        with pytest.raises(ProcessNotFound):
            await on.host.give_up("reservation", "c1")
        await on.execute(reserve())
        await until_stuck(on)
        (stuck,) = on.host.outputs.stuck.values()
        assert stuck.reason == "ConnectionError: the provider is away", "the error is one line"
        assert await on.host.give_up("reservation", "c1") == (1, None)
        calls = len(mail.calls)
        assert await on.names("reservation/c1") == [*STARTED, *READY, *FAILED]
        assert b"GIVEN_UP" in (await on.log("reservation/c1"))[-1].event.value
        assert not on.host.outputs.stuck_instances("reservation")
        assert stuck.retry is not None
        assert stuck.retry.timer.cancelled()
        await on.until("copy/c1", "CopyAdded", "CopyPutAside", "CopyPutBack")
        assert len(mail.calls) == calls


async def test_given_up_compensation_is_a_refusal_for_the_process(tmp_path: Path) -> None:
    reasons: list[str] = []
    process = Process[Nothing]("undoing", initial=Nothing(), id="copy_id")

    @process.reacts(CopyReturned, key=lambda e: e.copy_id)
    def returned(state: Nothing, event: CopyReturned, at: Deciding) -> Sequence[Send[AddCopyRequest]]:
        return [send(AddCopyRequest(copy_id=at.id, title="Notes"), compensates=True)]

    @process.refused(AddCopyRequest)
    def refused(state: Nothing, refusal: Refused[AddCopyRequest], at: Deciding) -> Sequence[Send[PutCopyBackRequest]]:
        reasons.append(refusal.reason)
        return []

    async with stage(tmp_path, library(Mail(), processes=(reservation, process))) as on:
        await fill(on)
        await on.execute(BorrowCopyRequest(copy_id="c1", member_id="m1"))
        await on.execute(ReturnCopyRequest(copy_id="c1"))
        await until_stuck(on, "undoing")
        assert await on.host.give_up("undoing", "c1") == (1, None)
        assert reasons == ["GIVEN_UP"]
        await on.settled()


@pytest.mark.parametrize("handled", [True, False])
async def test_result_of_an_attempt_that_runs_while_its_output_is_given_up_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handled: bool
) -> None:
    """Without a handler of the failure no request key drops the late answer."""
    if not handled:
        monkeypatch.delitem(reservation.failures, "library.v1.SendNoticeRequest")
    mail, running, end, answered = Mail(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    mail.failing = away
    async with stage(tmp_path, library(mail)) as on:
        await fill(on)
        await on.execute(reserve())
        await until_stuck(on)

        async def hang(self: Mail, request: SendNoticeRequest, calling: Calling) -> SendNoticeResponse:
            running.set()
            await end.wait()
            answered.set()
            return SendNoticeResponse(notice_id="late")

        patch = pytest.MonkeyPatch()
        patch.setattr(Mail, "__call__", hang)
        await on.host.retry("reservation", "c1")
        await asyncio.wait_for(running.wait(), SECONDS)
        assert await on.host.give_up("reservation", "c1") == (1, None)
        patch.undo()
        end.set()
        await asyncio.wait_for(answered.wait(), SECONDS)
        if handled:
            await on.until("copy/c1", "CopyAdded", "CopyPutAside", "CopyPutBack")
        await eventually(lambda: not on.host.queues.waiting, seconds=SECONDS)
        assert await on.names("reservation/c1") == [*STARTED, *READY, *(FAILED if handled else ())]


async def test_output_of_a_parked_instance_is_given_up_durably(tmp_path: Path) -> None:
    """The failure waits behind the parked input, and is not lost by a restart."""
    broken, reasons = True, list[str]()
    process = Process[Nothing]("both", initial=Nothing(), id="copy_id")

    @process.reacts(CopyAdded, key=lambda e: e.copy_id)
    def added(state: Nothing, event: CopyAdded, at: Deciding) -> Sequence[Call[SendNoticeRequest]]:
        return [call(SendNoticeRequest(email="a@example.com", text="hello"))]

    @process.reacts(CopyReturned, key=lambda e: e.copy_id)
    def returned(state: Nothing, event: CopyReturned, at: Deciding) -> Sequence[Send[PutCopyBackRequest]]:
        if broken:
            raise RuntimeError("planted\nover two lines")
        return []

    @process.failed(SendNoticeRequest)
    def failed(state: Nothing, failure: Failed[SendNoticeRequest], at: Deciding) -> Sequence[Send[PutCopyBackRequest]]:
        reasons.append(failure.reason)
        return []

    mail = Mail()
    mail.failing = away
    domain = library(mail, processes=(reservation, process))
    async with stage(tmp_path, domain) as on:
        await fill(on)
        await on.execute(BorrowCopyRequest(copy_id="c1", member_id="m1"))
        await on.execute(ReturnCopyRequest(copy_id="c1"))
        await until_stuck(on, "both")
        await eventually(lambda: on.host.queues.parked.counts["both"] == 1, seconds=SECONDS)
        outputs, parked = await on.host.give_up("both", "c1")
        assert outputs == 1
        assert parked is not None
        assert parked.error == "RuntimeError: planted over two lines"
    calls = len(mail.calls)
    async with stage(tmp_path, domain) as on:
        broken = False
        assert await on.host.retry("both", "c1") is None
        await eventually(lambda: reasons == ["GIVEN_UP"], seconds=SECONDS)
        await on.settled()
        assert await on.store.parked_inputs() == []
        assert len(mail.calls) == calls


async def test_retry_of_an_operator_cancels_the_running_timer(tmp_path: Path) -> None:
    """A timer that went on would make a second external call."""
    outputs, attempts = OpenOutputs(SqliteEventStore(tmp_path / "log.db")), list[str]()
    output = outputs.add(Work(1, 0, "reservation", "c1", WorkKind.EFFECT, 0))

    def attempt(name: str) -> Callable[[], None]:
        return lambda: attempts.append(name)

    outputs.retry_later(output, "away", attempt("first"))
    retry = output.retry
    assert retry is not None
    retry.start_now()
    assert (attempts, retry.timer.cancelled(), output.retry) == (["first"], True, None)
    outputs.retry_later(output, "away", attempt("second"))
    assert output.retry is not None
    assert not output.retry.timer.cancelled()
    output.retry.timer.cancel()


async def test_counters_of_open_outputs_follow_each_output_once(tmp_path: Path) -> None:
    outputs = OpenOutputs(SqliteEventStore(tmp_path / "log.db"))
    kinds = (WorkKind.COMMAND, WorkKind.EFFECT, WorkKind.TIMEOUT)
    for ordinal, kind in enumerate(kinds):
        outputs.add(Work(1, ordinal, "reservation", "c1", kind, 0))
    outputs.add(Work(2, 0, "reservation", "c2", WorkKind.EFFECT, 0))
    assert [outputs.kinds["reservation", kind] for kind in kinds] == [1, 2, 1]
    assert outputs.instances["reservation"] == {"c1": 3, "c2": 1}
    for _ in range(2):  # The second call finds nothing to close.
        outputs.close((1, 1))
        outputs.close((2, 0))
    assert [outputs.kinds["reservation", kind] for kind in kinds] == [1, 0, 1]
    assert outputs.instances["reservation"] == {"c1": 2}
