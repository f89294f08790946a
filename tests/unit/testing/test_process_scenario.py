"""Scenarios of the library's reservation: a history, one input, and exactly the events and outputs that follow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from diptych import Deciding, EffectFailed, Process, Send, after, call, send
from diptych.contract.reasons import InvalidRequest
from diptych.testing import given
from library.copies import CopyNotFound, CopyOnLoan, UnknownMember
from library.members import member
from library.reservations import CopyReserved, reservation
from library.v1.command_service_pb2 import (
    PutCopyAsideRequest,
    PutCopyBackRequest,
    StartReservationRequest,
)
from library.v1.events_pb2 import (
    CopyAdded,
    CopyBorrowed,
    CopyReturned,
    MemberRegistered,
    PickupExpired,
    ReservationEnded,
    ReservationNotified,
    ReservationReady,
    ReservationStarted,
    SendNoticeRequest,
    SendNoticeResponse,
)
from tests.support.sources import ROOT

ADA = MemberRegistered(member_id="m1", email="ada@example.com", name="Ada")
STARTED = ReservationStarted(copy_id="c1", member_id="m1", email="ada@example.com")
STARTED.pickup_time.FromTimedelta(timedelta(days=3))
READY = ReservationReady(copy_id="c1")
ASIDE = PutCopyAsideRequest(copy_id="c1", member_id="m1")
NOTICE = SendNoticeRequest(email="ada@example.com", text="c1 waits for you until 3 days from now.")
COMMAND = StartReservationRequest(copy_id="c1", member_id="m1")


def ended(outcome: str) -> ReservationEnded:
    return ReservationEnded(copy_id="c1", member_id="m1", outcome=outcome)


def test_when_starts_a_process() -> None:
    given(reservation).when(COMMAND, also=[given(member, ADA)]).then(STARTED, send(ASIDE))


def test_starting_command_can_be_refused_or_invalid() -> None:
    given(reservation).when(COMMAND).refused(UnknownMember(member_id="m1"))
    given(reservation, STARTED).when(COMMAND, also=[given(member, ADA)]).refused(
        CopyReserved(copy_id="c1", member_id="m1")
    )
    given(reservation).when(StartReservationRequest(member_id="m1")).invalid("copy_id")


def test_accepted_and_refused_pass_the_outcome_of_a_command() -> None:
    given(reservation, STARTED).accepted(ASIDE).then(
        READY, call(NOTICE), after(timedelta(days=3), PickupExpired(number=1))
    )
    given(reservation, STARTED, READY).accepted(ASIDE).then_nothing()
    given(reservation, STARTED).refused(ASIDE, CopyOnLoan(copy_id="c1", member_id="m2")).then_nothing()
    given(reservation, STARTED).refused(
        PutCopyAsideRequest(copy_id="c1", member_id="m1"), CopyNotFound(copy_id="c1")
    ).then(ReservationEnded(copy_id="c1", member_id="m1", outcome="COPY_NOT_FOUND"))


def test_answered_and_failed_pass_the_outcome_of_an_effect() -> None:
    given(reservation, STARTED, READY).answered(NOTICE, SendNoticeResponse(notice_id="n1")).then(
        ReservationNotified(copy_id="c1", notice_id="n1")
    )
    given(reservation, STARTED, READY).failed(NOTICE, "ADDRESS_REFUSED").then(
        ended("ADDRESS_REFUSED"), send(PutCopyBackRequest(copy_id="c1"), compensates=True)
    )


def test_times_out_passes_a_timeout() -> None:
    given(reservation, STARTED, READY).times_out(PickupExpired(number=1)).then(
        ended("EXPIRED"),
        send(PutCopyBackRequest(copy_id="c1"), compensates=True),
        call(SendNoticeRequest(email="ada@example.com", text="c1 waits no more."), compensates=True),
    )
    given(reservation, STARTED, READY, ended("COLLECTED"), STARTED, READY).times_out(
        PickupExpired(number=1)
    ).then_nothing()


def test_reacts_passes_an_event_of_another_aggregate() -> None:
    given(reservation, STARTED).reacts(CopyReturned(copy_id="c1", member_id="m2")).then(send(ASIDE))
    given(reservation).reacts(CopyReturned(copy_id="c1")).then_nothing()
    given(reservation, STARTED, READY).reacts(CopyBorrowed(copy_id="c1", member_id="m1")).then(ended("COLLECTED"))
    given(reservation).reacts(CopyReturned()).then_nothing()


def test_wrong_use_of_a_process_scenario_raises() -> None:
    with pytest.raises(LookupError, match=r"Process reservation has no handler that reacts to library\.v1\.CopyAdded"):
        given(reservation, STARTED).reacts(CopyAdded(copy_id="c1"))
    with pytest.raises(ValueError, match="The history is of reservation c1, and the event is for c2"):
        given(reservation, STARTED).reacts(CopyReturned(copy_id="c2"))
    with pytest.raises(AssertionError, match=r"(?s)Expected nothing\nbut recorded:.*send PutCopyAsideRequest"):
        given(reservation, STARTED).reacts(CopyReturned(copy_id="c1")).then_nothing()
    with pytest.raises(AssertionError, match="Expected"):
        given(reservation).when(COMMAND, also=[given(member, ADA)]).then(send(ASIDE), STARTED)


@dataclass(frozen=True)
class Nothing:
    """No state."""


def test_wrong_outputs_fail_the_test() -> None:
    process = Process[Nothing]("sloppy", initial=Nothing(), id="copy_id")

    @process.reacts(CopyBorrowed, key=lambda e: e.copy_id)
    def borrowed(state: Nothing, event: CopyBorrowed, at: Deciding) -> Sequence[Send[PutCopyBackRequest]]:
        return [send(PutCopyBackRequest())]

    @process.reacts(CopyReturned, key=lambda e: e.copy_id)
    def returned(state: Nothing, event: CopyReturned, at: Deciding) -> Sequence[ReservationEnded]:
        return [after(timedelta(days=1), PickupExpired())]  # type: ignore[list-item]

    with pytest.raises(InvalidRequest, match="copy_id"):
        given(process).reacts(CopyBorrowed(copy_id="c1"))
    with pytest.raises(LookupError, match=r"Process sloppy has no handler for timeout library\.v1\.PickupExpired"):
        given(process).reacts(CopyReturned(copy_id="c1"))


def test_effect_failed_has_reason_and_message() -> None:
    failure = EffectFailed("CARD_DECLINED", "The card was declined.")
    assert (failure.reason, str(failure)) == ("CARD_DECLINED", "The card was declined.")


def test_code_in_the_documentation_is_code_of_the_library() -> None:
    folder = ROOT / "tests" / "library_domain" / "library"
    sources = ["".join(path.read_text().split()) for path in (*folder.glob("*.py"), Path(__file__))]
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "processes.md").read_text(), re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        assert any("".join(block.split()) in source for source in sources), f"nowhere in the library:\n{block}"


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (None, r"returned None; return a list of events and outputs, \[\] if there is nothing to do\."),
        (send(ASIDE), r"returned a Send; return a list of events and outputs"),
        ([ASIDE, "call"], r"returned a sequence with a str; return a list of events, send\(\.\.\.\), call"),
    ],
)
def test_handler_that_returns_no_list_is_named(result: Any, error: str) -> None:
    process = Process[Nothing]("listener", initial=Nothing(), id="copy_id")

    @process.starts(StartReservationRequest)
    def start(state: Nothing, command: StartReservationRequest, at: Deciding) -> Any:
        return result

    @process.reacts(CopyReturned, key=lambda e: e.copy_id)
    def returned(state: Nothing, event: CopyReturned, at: Deciding) -> Any:
        return result

    place = r"\(.*test_process_scenario\.py:\d+\)"
    with pytest.raises(TypeError, match=rf"Process listener, started by .*StartReserv\w+, start {place}, {error}"):
        given(process).when(COMMAND)
    with pytest.raises(TypeError, match=rf"Process listener on library\.v1\.CopyReturned, returned {place}, {error}"):
        given(process).reacts(CopyReturned(copy_id="c1"))
