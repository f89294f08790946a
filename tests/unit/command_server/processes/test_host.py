"""Processes on a real log and writer: their inputs, steps and outputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from command_server.store.records import Decided, ParkedInput, Reads, WorkKind
from command_server.store.sqlite_store import SqliteEventStore
from diptych import Calling, Deciding, EffectFailed, Process, Refused, Send, send
from diptych.contract.reasons import ProcessNotFound
from diptych.v1.commands_pb2 import CommandContext
from diptych.v1.processes_pb2 import ProcessStepped
from library.reservations import CopyReserved, reservation
from library.v1.command_service_pb2 import (
    BorrowCopyRequest,
    PutCopyAsideRequest,
    PutCopyBackRequest,
    ReturnCopyRequest,
)
from library.v1.events_pb2 import CopyBorrowed, CopyReturned, ReservationEnded, SendNoticeRequest, SendNoticeResponse
from tests.support.polling import eventually
from tests.support.process_stage import SECONDS, Mail, Stage, library, stage
from tests.support.reservations import EXPIRED, NOTIFIED, READY, STARTED, fill, reserve

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DAY = timedelta(days=1)


async def test_a_reservation_runs_from_start_to_end(tmp_path: Path) -> None:
    mail = Mail()
    async with stage(tmp_path, library(mail)) as on:
        await fill(on)
        await on.execute(reserve(pickup=timedelta(milliseconds=300)))
        await on.until("reservation/c1", *STARTED, *READY, *NOTIFIED, *EXPIRED)
        await on.settled()
        assert await on.names("copy/c1") == ["CopyAdded", "CopyPutAside", "CopyPutBack"]
        assert sorted(mail.keys.values()) == ["c1 waits for you until 3 days from now.", "c1 waits no more."]
        assert on.health == {"diptych.process.reservation": True}
        assert not on.host.outputs.instances["reservation"]


async def test_all_events_of_a_chain_have_one_correlation_id_and_one_trace(tmp_path: Path) -> None:
    mail = Mail()
    async with stage(tmp_path, library(mail)) as on:
        await fill(on)
        await on.execute(reserve(pickup=timedelta(milliseconds=1)), CommandContext(request_id="r1"), traceparent=TRACE)
        await on.until("reservation/c1", *STARTED, *READY, *NOTIFIED, *EXPIRED)
        await on.settled()
        chain = [*await on.log("reservation/c1"), *(await on.log("copy/c1"))[1:]]
        assert {one.metadata.correlation_id for one in chain} == {"r1"}
        assert {one.metadata.traceparent for one in chain} == {TRACE}
        assert {(calling.correlation_id, calling.traceparent) for _, calling in mail.calls} == {("r1", TRACE)}
        steps = [one for one in chain if one.event.TypeName() == "diptych.v1.ProcessStepped"]
        put_aside, put_back = chain[-2:]
        assert put_aside.metadata.actor == "process/reservation"
        assert (put_aside.metadata.causation_id, put_aside.metadata.request_id) == (
            steps[0].event_id,
            f"{steps[0].event_id}/0",
        )
        assert put_back.metadata.causation_id == steps[2].event_id
        assert [one.metadata.causation_id for one in chain[2:4]] == [steps[0].event_id] * 2
        assert steps[2].metadata.causation_id == steps[1].event_id


async def test_the_correlation_id_is_the_first_event_id_when_the_caller_sends_none(tmp_path: Path) -> None:
    mail = Mail()
    async with stage(tmp_path, library(mail)) as on:
        await fill(on)
        await on.execute(reserve())
        await on.until("reservation/c1", *STARTED, *READY, *NOTIFIED)
        first, _, *rest = await on.log("reservation/c1")
        assert {one.metadata.correlation_id for one in rest} == {first.event_id}
        assert mail.calls[0][1].correlation_id == first.event_id


async def test_a_step_records_its_cause_and_its_outputs(tmp_path: Path) -> None:
    async with stage(tmp_path, library(Mail())) as on:
        await fill(on)
        await on.execute(reserve())
        await on.until("reservation/c1", *STARTED, *READY, *NOTIFIED)
        log = await on.log("reservation/c1")
        started, ready = (ProcessStepped.FromString(log[index].event.value) for index in (0, 2))
        assert started.command_type == "library.v1.StartReservationRequest"
        assert [one.WhichOneof("output") for one in started.outputs] == ["command"]
        assert (ready.outcome.position, ready.outcome.ordinal) == (log[0].position, 0)
        assert [one.WhichOneof("output") for one in ready.outputs] == ["call", "timeout"]
        due = ready.outputs[1].timeout.due_time.ToDatetime()
        assert due == log[2].record_time.ToDatetime() + DAY


async def test_a_refusal_and_an_event_are_inputs(tmp_path: Path) -> None:
    async with stage(tmp_path, library(Mail())) as on:
        await fill(on)
        await on.execute(BorrowCopyRequest(copy_id="c1", member_id="m2"))
        await on.execute(reserve())
        await eventually(lambda: not list(on.host.outputs), seconds=SECONDS)
        assert await on.names("reservation/c1") == [*STARTED]
        with pytest.raises(CopyReserved):
            await on.execute(reserve(member_id="m2"))
        await on.execute(ReturnCopyRequest(copy_id="c1"))
        await on.until("reservation/c1", *STARTED, "ProcessStepped", *READY, *NOTIFIED)
        step = ProcessStepped.FromString((await on.log("reservation/c1"))[2].event.value)
        returned = [one for one in await on.log("copy/c1") if one.event.TypeName() == "library.v1.CopyReturned"]
        assert step.event_position == returned[0].position
        await on.execute(BorrowCopyRequest(copy_id="c1", member_id="m1"))
        await on.until("reservation/c1", *STARTED, "ProcessStepped", *READY, *NOTIFIED, "ReservationEnded")


async def test_an_open_effect_is_called_again_after_a_start(tmp_path: Path) -> None:
    mail = Mail()
    mail.failing = lambda request, calling: ConnectionError("away")
    async with stage(tmp_path, library(mail)) as on:
        await fill(on)
        await on.execute(reserve())
        await eventually(lambda: len(mail.calls) >= 3, seconds=SECONDS)
    assert [calling.attempt for _, calling in mail.calls[:3]] == [1, 2, 3]
    mail.failing = lambda request, calling: None
    async with stage(tmp_path, library(mail)) as on:
        await on.until("reservation/c1", *STARTED, *READY, *NOTIFIED)
    assert len(mail.keys) == 1
    assert (mail.opened, mail.closed) == (2, 2)


async def test_a_timeout_fires_after_a_start(tmp_path: Path) -> None:
    mail = Mail()
    async with stage(tmp_path, library(mail)) as on:
        await fill(on)
        await on.execute(reserve(pickup=timedelta(seconds=2)))
        await eventually(lambda: bool(mail.calls), seconds=SECONDS)
    async with stage(tmp_path, library(mail)) as on:
        await on.until("reservation/c1", *STARTED, *READY, *NOTIFIED, *EXPIRED)
        await on.settled()
        ready, ended = [(await on.log("reservation/c1"))[index].record_time.ToNanoseconds() for index in (2, -1)]
        assert ended - ready >= 2e9


async def test_an_event_is_taken_once_when_the_mark_is_behind_after_a_stop(tmp_path: Path) -> None:
    mail = Mail()
    async with stage(tmp_path, library(mail)) as on:
        await fill(on)
        await on.execute(BorrowCopyRequest(copy_id="c1", member_id="m2"))
        await on.execute(reserve())
        await on.settled()
        await on.execute(ReturnCopyRequest(copy_id="c1"))
        await on.until("reservation/c1", *STARTED, "ProcessStepped", *READY, *NOTIFIED)
        before = await on.log()
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()
    await store.put_process_marks({"reservation": 0})  # As if it had been killed before the mark was written.
    await store.close()
    async with stage(tmp_path, library(mail)) as on:
        assert on.host.marks["reservation"].start == 0
        await eventually(lambda: on.host.marks["reservation"].position >= before[-1].position, seconds=SECONDS)
        assert await on.log() == before


async def test_a_new_process_takes_events_from_its_first_start_on(tmp_path: Path) -> None:
    async with stage(tmp_path, library(Mail())) as on:
        await fill(on)
        await on.execute(BorrowCopyRequest(copy_id="c1", member_id="m2"))
    taken: list[str] = []
    async with stage(tmp_path, library(Mail(), processes=(reservation, _listener(taken)))) as on:
        await on.execute(ReturnCopyRequest(copy_id="c1"))
        await eventually(lambda: bool(taken), seconds=SECONDS)
        await on.execute(BorrowCopyRequest(copy_id="c1", member_id="m2"))
        await eventually(lambda: len(taken) == 2, seconds=SECONDS)
    assert taken == ["returned", "borrowed"]


@dataclass(frozen=True)
class Nothing:
    """No state."""


def _listener(taken: list[str]) -> Process[Nothing]:
    process = Process[Nothing]("listener", initial=Nothing(), id="copy_id")

    @process.reacts(CopyBorrowed, key=lambda e: e.copy_id)
    def borrowed(state: Nothing, event: CopyBorrowed, at: Deciding) -> Sequence[Send[PutCopyBackRequest]]:
        taken.append("borrowed")
        return []

    @process.reacts(CopyReturned, key=lambda e: e.copy_id)
    def returned(state: Nothing, event: CopyReturned, at: Deciding) -> Sequence[Send[PutCopyBackRequest]]:
        taken.append("returned")
        return []

    return process


async def test_a_permanent_failure_of_an_effect_is_one_input(tmp_path: Path) -> None:
    mail = Mail()
    mail.failing = lambda request, calling: EffectFailed("ADDRESS_REFUSED", "No such address.")
    async with stage(tmp_path, library(mail)) as on:
        await fill(on)
        await on.execute(reserve())
        await on.until("reservation/c1", *STARTED, *READY, "ProcessStepped", "ReservationEnded")
        ended = ReservationEnded.FromString((await on.log("reservation/c1"))[-1].event.value)
        assert ended.outcome == "ADDRESS_REFUSED"
        assert len(mail.calls) == 1
        await eventually(lambda: on.host.outputs.kinds["reservation", WorkKind.COMMAND] == 0, seconds=SECONDS)
        assert (await on.names("copy/c1"))[-1] == "CopyPutBack"


async def test_an_effect_is_retried_with_the_same_key_when_it_does_not_answer(tmp_path: Path) -> None:
    mail = SilentAtFirst()
    async with stage(tmp_path, library(mail, timeout=timedelta(milliseconds=200))) as on:
        await fill(on)
        await on.execute(reserve())
        await on.until("reservation/c1", *STARTED, *READY, *NOTIFIED)
        assert len(mail.calls) >= 2
        assert len(mail.keys) == 1


class SilentAtFirst(Mail):
    """A provider that does not answer the first call."""

    async def __call__(self, request: SendNoticeRequest, calling: Calling) -> SendNoticeResponse:
        answer = await super().__call__(request, calling)
        if len(self.calls) == 1:
            await asyncio.Event().wait()
        return answer


async def test_a_port_is_opened_later_when_it_cannot_be_opened(tmp_path: Path) -> None:
    mail = Mail()
    mail.refusing_to_open = 3
    async with stage(tmp_path, library(mail)) as on:
        assert on.health == {"diptych.process.reservation": False}
        await fill(on)
        await on.execute(reserve())
        await on.until("reservation/c1", *STARTED, *READY, *NOTIFIED)
        await eventually(lambda: on.health["diptych.process.reservation"], seconds=SECONDS)


async def test_a_failing_compensation_is_stuck_until_it_is_retried(tmp_path: Path) -> None:
    mail = Mail()
    mail.failing = lambda request, calling: (
        EffectFailed("MAILBOX_FULL", "It is full.") if "no more" in request.text else None
    )
    async with stage(tmp_path, library(mail)) as on:
        await fill(on)
        await on.execute(reserve(pickup=timedelta(milliseconds=1)))
        await eventually(lambda: on.host.outputs.stuck_instances("reservation") == {"c1"}, seconds=SECONDS)
        (stuck,) = on.host.outputs.stuck.values()
        assert (stuck.attempts, stuck.reason) == (3, "MAILBOX_FULL: It is full.")
        mail.failing = lambda request, calling: None
        assert await on.host.retry("reservation", "c1") is None
        await on.settled()
        assert not on.host.outputs.stuck_instances("reservation")
        with pytest.raises(ProcessNotFound):
            await on.host.retry("reservation", "c1")


async def test_a_compensating_command_is_sent_until_it_is_accepted(tmp_path: Path) -> None:
    process = Process[Nothing]("undoing", initial=Nothing(), id="copy_id")
    reasons: list[str] = []

    @process.reacts(CopyBorrowed, key=lambda e: e.copy_id)
    def borrowed(state: Nothing, event: CopyBorrowed, at: Deciding) -> Sequence[Send[PutCopyBackRequest]]:
        return [send(PutCopyBackRequest(copy_id=at.id), compensates=True)]

    @process.refused(PutCopyBackRequest)
    def refused(
        state: Nothing, refusal: Refused[PutCopyBackRequest], at: Deciding
    ) -> Sequence[Send[PutCopyBackRequest]]:
        reasons.append(refusal.reason)
        return []

    async with stage(tmp_path, library(Mail(), processes=(reservation, process))) as on:
        await fill(on)
        await on.execute(BorrowCopyRequest(copy_id="c1", member_id="m1"))
        await eventually(lambda: on.host.outputs.stuck_instances("undoing") == {"c1"}, seconds=SECONDS)
        (stuck,) = on.host.outputs.stuck.values()
        assert stuck.reason == "COPY_ON_LOAN: Copy c1 is on loan to m1."
        await on.execute(ReturnCopyRequest(copy_id="c1"))
        await on.settled()
        assert reasons == []


async def test_an_input_that_fails_parks_its_instance_with_all_later_inputs(tmp_path: Path) -> None:
    mail = Mail()
    poison, good = "100%", "c1"
    async with stage(tmp_path, library(mail)) as on:
        await fill(on, poison, good)
        await on.execute(reserve(poison))
        await eventually(lambda: on.host.queues.parked.counts["reservation"] == 1, seconds=SECONDS)
        await on.execute(BorrowCopyRequest(copy_id=poison, member_id="m1"))
        await on.execute(reserve(good))
        await on.until(f"reservation/{good}", *STARTED, *READY, *NOTIFIED)
        assert await on.names(f"reservation/{poison}") == [*STARTED]
        queue = on.host.queues.parked_queue("reservation", poison)
        assert queue is not None
        assert queue.parked is not None
        assert queue.parked.error.startswith("ValueError: unsupported format character")
        await eventually(lambda: len(queue.inputs) == 2, seconds=SECONDS)
        again = await on.host.retry("reservation", poison)
        assert again is not None
        assert again.attempts == 2
        assert await on.names(f"reservation/{poison}") == [*STARTED]


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_parked_instance_takes_its_inputs_in_order_when_the_code_is_fixed(
    tmp_path: Path, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = "100%"
    mail = Mail()
    async with stage(tmp_path, library(mail)) as on:
        await fill(on, poison)
        await on.execute(reserve(poison))
        await eventually(lambda: on.host.queues.parked.counts["reservation"] == 1, seconds=SECONDS)
        await on.execute(BorrowCopyRequest(copy_id=poison, member_id="m1"))

        async def written() -> bool:
            return len(await on.store.parked_inputs()) == 2

        await eventually(written)
        if not restarted:
            await _retry_fixed(on, monkeypatch)
    if restarted:
        async with stage(tmp_path, library(mail)) as on:
            assert on.host.queues.parked.counts["reservation"] == 1
            await _retry_fixed(on, monkeypatch)


async def test_an_input_behind_one_that_was_taken_starts_after_a_start(tmp_path: Path) -> None:
    poison = "100%"
    async with stage(tmp_path, library(Mail())) as on:
        await fill(on, poison)
        await on.execute(reserve(poison))
        await eventually(lambda: on.host.queues.parked.counts["reservation"] == 1, seconds=SECONDS)
        await on.execute(BorrowCopyRequest(copy_id=poison, member_id="m1"))

        async def written() -> bool:
            return len(await on.store.parked_inputs()) == 2

        await eventually(written)
        # As if it had been killed when the first was taken, and the second not yet.
        await on.store.delete_parked([one.key for one in await on.store.parked_inputs() if one.error])
        await on.store.commit(Reads({}, {}, ()), lambda loaded: Decided(settled=[(4, 0)]))
    async with stage(tmp_path, library(Mail())) as on:

        async def gone() -> bool:
            return not await on.store.parked_inputs()

        await eventually(gone)
        await on.settled()


async def _retry_fixed(on: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    poison = "100%"
    monkeypatch.setenv("LIBRARY_FIXED", "1")
    assert await on.host.retry("reservation", poison) is None
    await on.until(f"reservation/{poison}", *STARTED, *READY, "ReservationEnded", *NOTIFIED)
    await eventually(lambda: not on.host.queues.parked.counts["reservation"], seconds=SECONDS)

    async def gone() -> bool:
        return not await on.store.parked_inputs()

    await eventually(gone)


@asynccontextmanager
async def parked_on_an_event(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """A stage with an instance that is parked on an event; the code of the process is fixed already."""
    name = "library.v1.CopyReturned"
    binding = reservation.events[name]

    fixed = False

    def handle(state: Any, event: Any, at: Deciding) -> Any:
        if not fixed:
            raise RuntimeError("planted")
        return binding.handle(state, event, at)

    async with stage(folder, library(Mail())) as on:
        await fill(on)
        await on.execute(BorrowCopyRequest(copy_id="c1", member_id="m2"))
        await on.execute(reserve())
        await on.settled()
        monkeypatch.setitem(reservation.events, name, binding._replace(handle=handle))
        await on.execute(ReturnCopyRequest(copy_id="c1"))
        await eventually(lambda: on.host.queues.parked.counts["reservation"] == 1, seconds=SECONDS)
        fixed = True
        yield on


async def test_a_retried_input_is_not_parked_again_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with parked_on_an_event(tmp_path, monkeypatch) as on:

        async def written() -> bool:
            return len(await on.store.parked_inputs()) == 1

        await eventually(written, seconds=SECONDS)
        never = asyncio.Event()

        async def not_yet(keys: object) -> None:
            await never.wait()

        monkeypatch.setattr(on.store, "delete_parked", not_yet)
        assert await on.host.retry("reservation", "c1") is None
        assert await on.store.parked_inputs() == [], "the commit of the step releases the input"
    async with stage(tmp_path, library(Mail())) as on:
        assert on.host.queues.parked_queues() == []
        await on.until("reservation/c1", *STARTED, "ProcessStepped", *READY, *NOTIFIED)


async def test_a_retried_outcome_is_not_parked_again_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = "100%"
    async with stage(tmp_path, library(Mail())) as on:
        await fill(on, poison)
        await on.execute(reserve(poison))

        async def written() -> bool:
            return len(await on.store.parked_inputs()) == 1

        await eventually(written, seconds=SECONDS)
    monkeypatch.setenv("LIBRARY_FIXED", "1")
    async with stage(tmp_path, library(Mail())) as on:
        never = asyncio.Event()

        async def not_yet(keys: object) -> None:
            await never.wait()

        monkeypatch.setattr(on.store, "delete_parked", not_yet)
        assert await on.host.retry("reservation", poison) is None
        assert await on.store.parked_inputs() == [], "the commit of the step releases the input"
    async with stage(tmp_path, library(Mail())) as on:
        assert on.host.queues.parked_queues() == []


async def test_a_retry_waits_until_the_parked_input_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that was written after its release would park the instance at the next start."""
    original, writing = SqliteEventStore.put_parked, asyncio.Event()

    async def slow(self: SqliteEventStore, inputs: Sequence[ParkedInput]) -> None:
        await writing.wait()
        await original(self, inputs)

    monkeypatch.setattr(SqliteEventStore, "put_parked", slow)
    async with parked_on_an_event(tmp_path, monkeypatch) as on:
        retry = asyncio.create_task(on.host.retry("reservation", "c1"))
        done, _ = await asyncio.wait((retry,), timeout=0.2)
        assert not done
        writing.set()
        assert await retry is None
        assert await on.store.parked_inputs() == []


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_parked_input_can_be_discarded(tmp_path: Path, restarted: bool) -> None:
    poison = "100%"
    mail = Mail()
    async with stage(tmp_path, library(mail)) as on:
        await fill(on, poison)
        await on.execute(reserve(poison))

        async def written() -> bool:
            return len(await on.store.parked_inputs()) == 1

        await eventually(written)
        if not restarted:
            assert on.host.discard("reservation", poison) == 0
            await on.settled()
    async with stage(tmp_path, library(mail)) as on:
        if restarted:
            assert on.host.discard("reservation", poison) == 0
        await on.settled()
        assert not on.host.queues.parked.counts["reservation"]
        assert await on.names(f"reservation/{poison}") == [*STARTED]
        with pytest.raises(ProcessNotFound):
            on.host.discard("reservation", poison)


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_failing_key_function_parks_the_events_of_that_aggregate(tmp_path: Path, restarted: bool) -> None:
    broken = True
    taken: list[str] = []
    process = Process[Nothing]("keyed", initial=Nothing(), id="copy_id")

    def key(event: CopyBorrowed) -> str:
        if broken and event.copy_id == "c1":
            raise ValueError("what is that")
        return f"of-{event.copy_id}"

    @process.reacts(CopyBorrowed, key=key)
    def borrowed(state: Nothing, event: CopyBorrowed, at: Deciding) -> Sequence[Send[PutCopyBackRequest]]:
        taken.append(f"{at.id} {event.loan_id}")
        return []

    domain = library(Mail(), processes=(reservation, process))
    async with stage(tmp_path, domain) as on:
        await fill(on, "c1", "c2")
        for copy_id in ("c1", "c2"):
            await on.execute(BorrowCopyRequest(copy_id=copy_id, member_id="m1"))
        await on.execute(ReturnCopyRequest(copy_id="c1"))
        await on.execute(BorrowCopyRequest(copy_id="c1", member_id="m1"))

        async def written() -> bool:
            return len(await on.store.parked_inputs()) == 2

        await eventually(written)
        await eventually(lambda: taken == ["of-c2 c2.1"], seconds=SECONDS)
        (queue,) = on.host.queues.parked_queues()
        assert (queue.process, queue.id) == ("keyed", "@copy/c1")
        if not restarted:
            broken = False
            assert await on.host.retry("keyed", "@copy/c1") is None
            await eventually(lambda: taken == ["of-c2 c2.1", "of-c1 c1.1", "of-c1 c1.2"], seconds=SECONDS)
    async with stage(tmp_path, domain) as on:
        if restarted:
            broken = False
            assert await on.host.retry("keyed", "@copy/c1") is None
        await eventually(lambda: taken == ["of-c2 c2.1", "of-c1 c1.1", "of-c1 c1.2"], seconds=SECONDS)

        async def gone() -> bool:
            return not await on.store.parked_inputs()

        await eventually(gone)


async def test_inputs_of_one_instance_are_taken_in_order(tmp_path: Path) -> None:
    taken: list[str] = []
    async with stage(tmp_path, library(Mail(), processes=(reservation, _listener(taken)))) as on:
        await fill(on)
        commands = []
        for _ in range(50):
            commands.append(on.execute(BorrowCopyRequest(copy_id="c1", member_id="m1")))
            commands.append(on.execute(ReturnCopyRequest(copy_id="c1")))
        await asyncio.gather(*commands)
        await eventually(lambda: len(taken) == 100, seconds=SECONDS)
    assert taken == ["borrowed", "returned"] * 50


async def test_a_command_that_breaks_its_contract_is_refused(tmp_path: Path) -> None:
    reasons: list[str] = []
    process = Process[Nothing]("sloppy", initial=Nothing(), id="copy_id")

    @process.reacts(CopyBorrowed, key=lambda e: e.copy_id)
    def borrowed(state: Nothing, event: CopyBorrowed, at: Deciding) -> Sequence[Send[PutCopyAsideRequest]]:
        return [send(PutCopyAsideRequest(copy_id=at.id))]

    @process.refused(PutCopyAsideRequest)
    def refused(
        state: Nothing, refusal: Refused[PutCopyAsideRequest], at: Deciding
    ) -> Sequence[Send[PutCopyAsideRequest]]:
        reasons.append(refusal.reason)
        return []

    async with stage(tmp_path, library(Mail(), processes=(reservation, process))) as on:
        await fill(on)
        await on.execute(BorrowCopyRequest(copy_id="c1", member_id="m1"))
        await eventually(lambda: reasons == ["INVALID_REQUEST"], seconds=SECONDS)
        await on.settled()
