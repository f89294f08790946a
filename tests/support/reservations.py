"""Reservations of the library: commands that tests start with, and the events of each part of a run."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from library.v1.command_service_pb2 import AddCopyRequest, RegisterMemberRequest, StartReservationRequest
from tests.support.process_stage import Stage

STARTED = ("ProcessStepped", "ReservationStarted")
READY = ("ProcessStepped", "ReservationReady")
NOTIFIED = ("ReservationNotified",)
EXPIRED = ("ProcessStepped", "ReservationEnded", *NOTIFIED)
DAY = timedelta(days=1)


def reserve(copy_id: str = "c1", member_id: str = "m1", pickup: timedelta = DAY) -> StartReservationRequest:
    """Return the command that reserves a copy."""
    made = StartReservationRequest(copy_id=copy_id, member_id=member_id, pickup_time=Duration())
    made.pickup_time.FromTimedelta(pickup)
    return made


async def fill(on: Stage, *copies: str) -> None:
    """Register two members and add copies; `c1` if none is named."""
    for name in ("m1", "m2"):
        await on.execute(RegisterMemberRequest(member_id=name, email=f"{name}@example.com", name=name))
    for copy_id in copies or ("c1",):
        await on.execute(AddCopyRequest(copy_id=copy_id, title="Notes"))
