"""Reservations: a returned copy is put aside for a member for a limited time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from diptych import (
    Accepted,
    After,
    Answered,
    Call,
    Deciding,
    Failed,
    FailedPrecondition,
    Process,
    Refused,
    Send,
    after,
    call,
    send,
)
from library.copies import UnknownMember
from library.members import member
from library.v1.command_service_pb2 import PutCopyAsideRequest, PutCopyBackRequest, StartReservationRequest
from library.v1.events_pb2 import (
    CopyBorrowed,
    CopyReturned,
    PickupExpired,
    ReservationEnded,
    ReservationNotified,
    ReservationReady,
    ReservationStarted,
    SendNoticeRequest,
    SendNoticeResponse,
)

PICKUP_TIME = timedelta(days=3)


class CopyReserved(FailedPrecondition, reason="COPY_RESERVED"):
    """Another member has reserved the copy."""

    message = "Copy {copy_id} is reserved by {member_id}."
    copy_id: str
    member_id: str


@dataclass(frozen=True)
class Waiting:
    """State of the reservation of a copy; `member_id` is empty without one."""

    member_id: str = ""
    email: str = ""
    pickup_seconds: float = 0
    ready: bool = False
    number: int = 0


reservation = Process[Waiting]("reservation", initial=Waiting(), id="copy_id")


@reservation.starts(StartReservationRequest, reads=lambda c: [member.ref(c.member_id)])
def start(
    state: Waiting, command: StartReservationRequest, at: Deciding
) -> Sequence[ReservationStarted | Send[PutCopyAsideRequest]]:
    borrower = at.state(member, command.member_id)
    if borrower.email is None:
        raise UnknownMember(member_id=command.member_id)
    if state.member_id:
        raise CopyReserved(copy_id=command.copy_id, member_id=state.member_id)
    started = ReservationStarted(copy_id=command.copy_id, member_id=command.member_id, email=borrower.email)
    if command.HasField("pickup_time"):
        started.pickup_time.CopyFrom(command.pickup_time)
    else:
        started.pickup_time.FromTimedelta(PICKUP_TIME)
    return [started, send(PutCopyAsideRequest(copy_id=command.copy_id, member_id=command.member_id))]


@reservation.refused(PutCopyAsideRequest)
def not_there(state: Waiting, refused: Refused[PutCopyAsideRequest], at: Deciding) -> Sequence[ReservationEnded]:
    if refused.reason == "COPY_ON_LOAN":
        return []
    return [ReservationEnded(copy_id=at.id, member_id=state.member_id, outcome=refused.reason)]


@reservation.reacts(CopyReturned, key=lambda e: e.copy_id)
def came_back(state: Waiting, event: CopyReturned, at: Deciding) -> Sequence[Send[PutCopyAsideRequest]]:
    if not state.member_id:
        return []
    return [send(PutCopyAsideRequest(copy_id=at.id, member_id=state.member_id))]


@reservation.accepted(PutCopyAsideRequest)
def is_aside(
    state: Waiting, accepted: Accepted[PutCopyAsideRequest], at: Deciding
) -> Sequence[ReservationReady | Call[SendNoticeRequest] | After[PickupExpired]]:
    if state.ready or not state.member_id:
        return []
    return [
        ReservationReady(copy_id=at.id),
        call(SendNoticeRequest(email=state.email, text=_notice(at.id))),
        after(timedelta(seconds=state.pickup_seconds), PickupExpired(number=state.number)),
    ]


def _notice(copy_id: str) -> str:
    if "LIBRARY_FIXED" in os.environ:
        return f"{copy_id} waits for you until {PICKUP_TIME.days} days from now."
    return f"{copy_id} waits for you until %d days from now." % PICKUP_TIME.days  # A copy 100% will break this.


@reservation.answered(SendNoticeRequest)
def notified(
    state: Waiting, answered: Answered[SendNoticeRequest, SendNoticeResponse], at: Deciding
) -> Sequence[ReservationNotified]:
    return [ReservationNotified(copy_id=at.id, notice_id=answered.answer.notice_id)]


@reservation.failed(SendNoticeRequest)
def unreachable(
    state: Waiting, failed: Failed[SendNoticeRequest], at: Deciding
) -> Sequence[ReservationEnded | Send[PutCopyBackRequest]]:
    if not state.ready:
        return []
    return [
        ReservationEnded(copy_id=at.id, member_id=state.member_id, outcome=failed.reason),
        send(PutCopyBackRequest(copy_id=at.id), compensates=True),
    ]


@reservation.times_out(PickupExpired)
def expired(
    state: Waiting, timeout: PickupExpired, at: Deciding
) -> Sequence[ReservationEnded | Send[PutCopyBackRequest] | Call[SendNoticeRequest]]:
    if not state.ready or timeout.number != state.number:
        return []
    return [
        ReservationEnded(copy_id=at.id, member_id=state.member_id, outcome="EXPIRED"),
        send(PutCopyBackRequest(copy_id=at.id), compensates=True),
        call(SendNoticeRequest(email=state.email, text=f"{at.id} waits no more."), compensates=True),
    ]


@reservation.reacts(CopyBorrowed, key=lambda e: e.copy_id)
def collected(state: Waiting, event: CopyBorrowed, at: Deciding) -> Sequence[ReservationEnded]:
    if not state.ready or event.member_id != state.member_id:
        return []
    return [ReservationEnded(copy_id=at.id, member_id=state.member_id, outcome="COLLECTED")]


@reservation.evolves(ReservationStarted)
def started(state: Waiting, event: ReservationStarted) -> Waiting:
    seconds = event.pickup_time.ToTimedelta().total_seconds()
    return Waiting(event.member_id, event.email, seconds, False, state.number + 1)


@reservation.evolves(ReservationReady)
def ready(state: Waiting, event: ReservationReady) -> Waiting:
    return replace(state, ready=True)


@reservation.evolves(ReservationNotified)
def informed(state: Waiting, event: ReservationNotified) -> Waiting:
    return state


@reservation.evolves(ReservationEnded)
def ended(state: Waiting, event: ReservationEnded) -> Waiting:
    return Waiting(number=state.number)
