"""Members, who borrow copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diptych import Aggregate, AlreadyExists, Deciding
from library.v1.command_service_pb2 import RegisterMemberRequest
from library.v1.events_pb2 import MemberRegistered


class MemberExists(AlreadyExists, reason="MEMBER_EXISTS"):
    """The id is taken."""

    message = "Member {member_id} exists."
    member_id: str


class EmailTaken(AlreadyExists, reason="EMAIL_TAKEN"):
    """Another member has the email."""

    message = "Another member has the email {email}."
    email: str


@dataclass(frozen=True)
class MemberState:
    """State of a member for decisions."""

    email: str | None = None


member = Aggregate[MemberState]("member", initial=MemberState(), id="member_id")


@member.decides(RegisterMemberRequest)
def register(state: MemberState, command: RegisterMemberRequest, at: Deciding) -> Sequence[MemberRegistered]:
    if state.email is not None:
        raise MemberExists(member_id=at.id)
    return [MemberRegistered(member_id=at.id, email=command.email, name=command.name)]


@member.evolves(MemberRegistered)
def registered(state: MemberState, event: MemberRegistered) -> MemberState:
    return MemberState(email=event.email)


@member.unique("email", taken=lambda email: EmailTaken(email=email))
def email_of(state: MemberState) -> str | None:
    return state.email and state.email.casefold()
