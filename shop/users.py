"""Users: who may log in and order. Email and username belong to one user at a time, active or deactivated.

A user is removed only if the user's registration failed. Email, username and id are then free again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from diptych import Aggregate, Deciding
from shop.masks import fields_to_write
from shop.refusals import EmailTaken, UserDeactivated, UserExists, UsernameTaken, UserNotFound
from shop.text import comparable, typed, with_typed
from shop.v1 import user_events_pb2 as events
from shop.v1.process_commands_pb2 import RemoveUserRequest
from shop.v1.user_commands_pb2 import (
    AssignRoleRequest,
    DeactivateUserRequest,
    ReactivateUserRequest,
    RecordLoginRequest,
    RegisterUserRequest,
    UpdateUserProfileRequest,
)
from shop.v1.users_pb2 import (
    USER_ROLE_CUSTOMER,
    USER_ROLE_UNSPECIFIED,
    USER_STATUS_ACTIVE,
    USER_STATUS_DEACTIVATED,
    USER_STATUS_UNSPECIFIED,
    UserRole,
    UserStatus,
)

PROFILE = ("email", "username", "first_name", "last_name", "bio", "avatar_uri", "preferences")
"""Fields that UpdateUserProfile can write."""

_TYPED = ("username", "first_name", "last_name")
"""Fields that are recorded in one form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserState:
    """State of a user, with the fields that decisions and other aggregates' events need."""

    email: str = ""
    username: str = ""
    first_name: str = ""
    last_name: str = ""
    bio: str = ""
    avatar_uri: str = ""
    preferences: tuple[tuple[str, str], ...] = ()
    role: UserRole = USER_ROLE_UNSPECIFIED
    status: UserStatus = USER_STATUS_UNSPECIFIED

    @property
    def exists(self) -> bool:
        """True while there is such a user. The stream of a removed user continues."""
        return self.status != USER_STATUS_UNSPECIFIED

    @property
    def display_name(self) -> str:
        """First and last name, or the username if both are empty."""
        return f"{self.first_name} {self.last_name}".strip() or self.username


user = Aggregate[UserState]("user", initial=UserState(), id="user_id")


@user.unique("email", taken=lambda email: EmailTaken(email=email))
def email_of(state: UserState) -> str:
    """Return the email, compared without regard to case."""
    return comparable(state.email)


@user.unique("username", taken=lambda username: UsernameTaken(username=username))
def username_of(state: UserState) -> str:
    """Return the username, compared without regard to case and Unicode form."""
    return comparable(state.username)


@user.decides(RegisterUserRequest)
def register(state: UserState, command: RegisterUserRequest, at: Deciding) -> Sequence[events.UserRegistered]:
    """Register a user, as a customer if no role is given."""
    if state.exists:
        raise UserExists(user_id=at.id)
    return [
        events.UserRegistered(
            user_id=at.id,
            email=command.email,
            username=typed(command.username),
            first_name=typed(command.first_name),
            last_name=typed(command.last_name),
            role=command.role or USER_ROLE_CUSTOMER,
            registration_source=command.registration_source,
        )
    ]


@user.decides(UpdateUserProfileRequest)
def update_profile(
    state: UserState, command: UpdateUserProfileRequest, at: Deciding
) -> Sequence[events.UserProfileUpdated]:
    """Change the given fields that differ."""
    _must_exist(state, at)
    command = with_typed(command, _TYPED)
    asked = {field: _profile_value(command, field) for field in fields_to_write(command, PROFILE)}
    changed = {field: value for field, value in asked.items() if value != getattr(state, field)}
    if not changed:
        return []
    return [
        events.UserProfileUpdated(
            user_id=at.id,
            changed_fields=FieldMask(paths=changed),
            previous_email=state.email if "email" in changed else "",
            previous_username=state.username if "username" in changed else "",
            **_as_fields(changed),
        )
    ]


@user.decides(AssignRoleRequest)
def assign_role(state: UserState, command: AssignRoleRequest, at: Deciding) -> Sequence[events.RoleAssigned]:
    """Give the user another role, active or deactivated."""
    _must_exist(state, at)
    if command.role == state.role:
        return []
    return [events.RoleAssigned(user_id=at.id, role=command.role, previous_role=state.role, status=state.status)]


@user.decides(DeactivateUserRequest)
def deactivate(state: UserState, command: DeactivateUserRequest, at: Deciding) -> Sequence[events.UserDeactivated]:
    """Deactivate the user. A repeat records nothing, and the first reason stays."""
    _must_exist(state, at)
    if state.status == USER_STATUS_DEACTIVATED:
        return []
    return [events.UserDeactivated(user_id=at.id, reason=command.reason, role=state.role)]


@user.decides(ReactivateUserRequest)
def reactivate(state: UserState, command: ReactivateUserRequest, at: Deciding) -> Sequence[events.UserReactivated]:
    """Make a deactivated user active again."""
    _must_exist(state, at)
    if state.status == USER_STATUS_ACTIVE:
        return []
    return [events.UserReactivated(user_id=at.id, role=state.role)]


@user.decides(RecordLoginRequest)
def record_login(state: UserState, command: RecordLoginRequest, at: Deciding) -> Sequence[events.LoginRecorded]:
    """Record a login now; each one counts."""
    _must_exist(state, at)
    if state.status == USER_STATUS_DEACTIVATED:
        raise UserDeactivated(user_id=at.id)
    return [events.LoginRecorded(user_id=at.id, login_time=at.now)]


@user.decides(RemoveUserRequest, internal=True)
def remove(state: UserState, command: RemoveUserRequest, at: Deciding) -> Sequence[events.UserRemoved]:
    """Remove a user whose registration failed. A missing user records nothing."""
    if not state.exists:
        return []
    return [events.UserRemoved(user_id=at.id, reason=command.reason, role=state.role, status=state.status)]


@user.evolves(events.UserRegistered)
def registered(state: UserState, event: events.UserRegistered) -> UserState:
    """Start as active."""
    return UserState(
        email=event.email,
        username=event.username,
        first_name=event.first_name,
        last_name=event.last_name,
        role=event.role,
        status=USER_STATUS_ACTIVE,
    )


@user.evolves(events.UserProfileUpdated)
def profile_updated(state: UserState, event: events.UserProfileUpdated) -> UserState:
    """Set the changed fields."""
    return replace(state, **{field: _profile_value(event, field) for field in event.changed_fields.paths})


@user.evolves(events.RoleAssigned)
def role_assigned(state: UserState, event: events.RoleAssigned) -> UserState:
    """Set the new role."""
    return replace(state, role=event.role)


@user.evolves(events.UserDeactivated)
def deactivated(state: UserState, event: events.UserDeactivated) -> UserState:
    """Set the status to deactivated. Email and username stay taken."""
    return replace(state, status=USER_STATUS_DEACTIVATED)


@user.evolves(events.UserReactivated)
def reactivated(state: UserState, event: events.UserReactivated) -> UserState:
    """Set the status to active."""
    return replace(state, status=USER_STATUS_ACTIVE)


@user.evolves(events.LoginRecorded)
def login_recorded(state: UserState, event: events.LoginRecorded) -> UserState:
    """Return the state unchanged: no decision needs logins."""
    return state


@user.evolves(events.UserRemoved)
def removed(state: UserState, event: events.UserRemoved) -> UserState:
    """Clear the state, so that email and username are free."""
    return UserState()


def _must_exist(state: UserState, at: Deciding) -> None:
    if not state.exists:
        raise UserNotFound(user_id=at.id)


def _profile_value(message: UpdateUserProfileRequest | events.UserProfileUpdated, field: str) -> Any:
    """Return a field of a profile in the form of the state."""
    if field == "preferences":
        return tuple(sorted(message.preferences.items()))
    return getattr(message, field)


def _as_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a profile in the form of a message."""
    return {field: dict(value) if field == "preferences" else value for field, value in values.items()}
