"""Projection `users`: users one by one, in lists, and counted by role."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from diptych import Column, Find, Projection, Recorded
from shop.refusals import UserNotFound
from shop.resources import mark_changed
from shop.text import comparable
from shop.v1.user_events_pb2 import (
    LoginRecorded,
    RoleAssigned,
    UserDeactivated,
    UserProfileUpdated,
    UserReactivated,
    UserRegistered,
    UserRemoved,
)
from shop.v1.user_queries_pb2 import (
    FindUsersByEmailRequest,
    FindUsersByEmailResponse,
    GetRoleStatisticsRequest,
    GetUserRequest,
    ListActiveUsersRequest,
    ListActiveUsersResponse,
    ListUsersRequest,
    ListUsersResponse,
)
from shop.v1.users_pb2 import (
    USER_ROLE_ADMINISTRATOR,
    USER_ROLE_CUSTOMER,
    USER_ROLE_SELLER,
    USER_ROLE_SUPPORT,
    USER_STATUS_ACTIVE,
    USER_STATUS_DEACTIVATED,
    RoleCount,
    RoleStatistics,
    User,
    UserRole,
    UserSummary,
)

_BUYS = {"orders.cancel", "orders.place", "products.review"}
_SELLS = {"products.adjust_stock", "products.change_price", "products.create", "products.update"}
_HELPS = {"orders.read", "orders.update", "users.read"}
_RUNS = {"orders.import", "returns.import", "users.assign_role", "users.deactivate", "users.update"}

PERMISSIONS: dict[int, tuple[str, ...]] = {
    USER_ROLE_CUSTOMER: tuple(sorted(_BUYS)),
    USER_ROLE_SELLER: tuple(sorted(_BUYS | _SELLS)),
    USER_ROLE_SUPPORT: tuple(sorted(_HELPS)),
    USER_ROLE_ADMINISTRATOR: tuple(sorted(_BUYS | _SELLS | _HELPS | _RUNS)),
}
"""Permissions of each role, in alphabetical order."""

NEVER = datetime.min.replace(tzinfo=UTC)
"""Login time of a user without a login; sorts before all others."""


users = Projection("users", version=3)

# View `users`: the complete document.

user_rows = users.view("users", User)
user_rows.get(GetUserRequest, key=lambda q: q.user_id, missing=lambda q: UserNotFound(user_id=q.user_id))


@user_rows.on(UserRegistered, key=lambda e: e.user_id)
def registered(row: User | None, event: UserRegistered, at: Recorded) -> User:
    """Add a document."""
    return User(
        user_id=event.user_id,
        email=event.email,
        username=event.username,
        first_name=event.first_name,
        last_name=event.last_name,
        role=event.role,
        permissions=PERMISSIONS[event.role],
        status=USER_STATUS_ACTIVE,
        registration_source=event.registration_source,
        version=at.version,
        create_time=at.record_time,
        update_time=at.record_time,
    )


@user_rows.on(UserProfileUpdated, key=lambda e: e.user_id)
def profile_updated(row: User | None, event: UserProfileUpdated, at: Recorded) -> User:
    """Set the changed fields."""
    assert row is not None
    for field in event.changed_fields.paths:
        if field == "preferences":
            row.preferences.clear()
            row.preferences.update(event.preferences)
        else:
            setattr(row, field, getattr(event, field))
    mark_changed(row, at)
    return row


@user_rows.on(RoleAssigned, key=lambda e: e.user_id)
def role_assigned(row: User | None, event: RoleAssigned, at: Recorded) -> User:
    """Set the role and its permissions."""
    assert row is not None
    row.role = event.role
    row.permissions[:] = PERMISSIONS[event.role]
    mark_changed(row, at)
    return row


@user_rows.on(UserDeactivated, key=lambda e: e.user_id)
def deactivated(row: User | None, event: UserDeactivated, at: Recorded) -> User:
    """Set time and cause of the deactivation."""
    assert row is not None
    row.status = USER_STATUS_DEACTIVATED
    row.deactivation_reason = event.reason
    row.deactivation_time.CopyFrom(at.record_time)
    mark_changed(row, at)
    return row


@user_rows.on(UserReactivated, key=lambda e: e.user_id)
def reactivated(row: User | None, event: UserReactivated, at: Recorded) -> User:
    """Clear the deactivation."""
    assert row is not None
    row.status = USER_STATUS_ACTIVE
    row.ClearField("deactivation_reason")
    row.ClearField("deactivation_time")
    mark_changed(row, at)
    return row


@user_rows.on(LoginRecorded, key=lambda e: e.user_id)
def login_recorded(row: User | None, event: LoginRecorded, at: Recorded) -> User:
    """Count the login."""
    assert row is not None
    row.login_count += 1
    row.last_login_time.CopyFrom(event.login_time)
    mark_changed(row, at)
    return row


@user_rows.on(UserRemoved, key=lambda e: e.user_id)
def removed(row: User | None, event: UserRemoved, at: Recorded) -> None:
    """Delete the document."""
    return


# View `user_summaries`: the columns of lists.


def _last_login(row: UserSummary) -> datetime:
    return row.last_login_time.ToDatetime(UTC) if row.HasField("last_login_time") else NEVER


def _names(row: UserSummary) -> str:
    # A search text has no line break, so none matches across the two lines.
    return f"{comparable(row.username)}\n{comparable(row.first_name)} {comparable(row.last_name)}"


user_summaries = users.view("user_summaries", UserSummary)
user_id = user_summaries.column("user_id", lambda row: row.user_id)
email = user_summaries.text("email", lambda row: comparable(row.email), indexed=True)
username = user_summaries.text("username", lambda row: comparable(row.username), indexed=True)
names = user_summaries.text("names", _names)
role = user_summaries.column("role", lambda row: int(row.role))
status = user_summaries.column("status", lambda row: int(row.status), indexed=False)
create_time = user_summaries.column("create_time", lambda row: row.create_time.ToDatetime(UTC))
last_login_time = user_summaries.column("last_login_time", _last_login)

ORDERS: dict[str, Column[Any]] = {
    "user_id": user_id,
    "email": email,
    "username": username,
    "create_time": create_time,
    "last_login_time": last_login_time,
}
"""Columns by which lists of users can be sorted."""


@user_summaries.on(UserRegistered, key=lambda e: e.user_id)
def summary_registered(row: UserSummary | None, event: UserRegistered, at: Recorded) -> UserSummary:
    """Add a line."""
    return UserSummary(
        user_id=event.user_id,
        email=event.email,
        username=event.username,
        first_name=event.first_name,
        last_name=event.last_name,
        role=event.role,
        status=USER_STATUS_ACTIVE,
        version=at.version,
        create_time=at.record_time,
        update_time=at.record_time,
    )


@user_summaries.on(UserProfileUpdated, key=lambda e: e.user_id)
def summary_updated(row: UserSummary | None, event: UserProfileUpdated, at: Recorded) -> UserSummary:
    """Set the changed fields of a line."""
    assert row is not None
    for field in event.changed_fields.paths:
        if field in ("email", "username", "first_name", "last_name"):
            setattr(row, field, getattr(event, field))
    mark_changed(row, at)
    return row


@user_summaries.on(RoleAssigned, key=lambda e: e.user_id)
def summary_role_assigned(row: UserSummary | None, event: RoleAssigned, at: Recorded) -> UserSummary:
    """Set the new role."""
    assert row is not None
    row.role = event.role
    mark_changed(row, at)
    return row


@user_summaries.on(UserDeactivated, key=lambda e: e.user_id)
def summary_deactivated(row: UserSummary | None, event: UserDeactivated, at: Recorded) -> UserSummary:
    """Set the status to deactivated."""
    assert row is not None
    row.status = USER_STATUS_DEACTIVATED
    mark_changed(row, at)
    return row


@user_summaries.on(UserReactivated, key=lambda e: e.user_id)
def summary_reactivated(row: UserSummary | None, event: UserReactivated, at: Recorded) -> UserSummary:
    """Set the status to active."""
    assert row is not None
    row.status = USER_STATUS_ACTIVE
    mark_changed(row, at)
    return row


@user_summaries.on(LoginRecorded, key=lambda e: e.user_id)
def summary_login_recorded(row: UserSummary | None, event: LoginRecorded, at: Recorded) -> UserSummary:
    """Set the latest login."""
    assert row is not None
    row.last_login_time.CopyFrom(event.login_time)
    mark_changed(row, at)
    return row


@user_summaries.on(UserRemoved, key=lambda e: e.user_id)
def summary_removed(row: UserSummary | None, event: UserRemoved, at: Recorded) -> None:
    """Delete the line."""
    return


@user_summaries.find(ListUsersRequest, ListUsersResponse, order_by=ORDERS)
def list_users(query: ListUsersRequest, now: datetime) -> Find:
    """Select all users, or those who meet all given conditions."""
    return Find(
        role.eq(query.role) if query.role else None,
        status.eq(query.status) if query.status else None,
        names.contains(comparable(query.name)) if query.name else None,
        email.contains(comparable(query.email)) if query.email else None,
        order=user_id,
    )


@user_summaries.find(FindUsersByEmailRequest, FindUsersByEmailResponse)
def find_by_email(query: FindUsersByEmailRequest, now: datetime) -> Find:
    """Select the user with an email."""
    return Find(email.eq(comparable(query.email).casefold()))


@user_summaries.find(ListActiveUsersRequest, ListActiveUsersResponse, order_by=ORDERS)
def list_active_users(query: ListActiveUsersRequest, now: datetime) -> Find:
    """Select active users, or those who logged in since a time."""
    return Find(
        status.eq(USER_STATUS_ACTIVE),
        last_login_time.ge(_not_before(query.active_since_time)) if query.HasField("active_since_time") else None,
        order=last_login_time.descending(),
    )


def _not_before(time: Timestamp) -> datetime:
    """Return the first microsecond that is not before a time in nanoseconds, because columns have microseconds."""
    return time.ToDatetime(UTC).replace(microsecond=0) + timedelta(microseconds=-(-time.nanos // 1000))


# View `role_statistics`: the number of users with each role.

role_statistics = users.view("role_statistics", RoleCount)


def _count(row: RoleCount | None, key: str, *, users: int = 0, active: int = 0) -> RoleCount:
    if row is None:
        row = RoleCount(role=key)
    row.user_count += users
    row.active_user_count += active
    return row


@role_statistics.on(UserRegistered, key=lambda e: UserRole.Name(e.role))
def role_taken(row: RoleCount | None, event: UserRegistered, at: Recorded) -> RoleCount:
    """Count a user who is active."""
    return _count(row, at.key, users=1, active=1)


@role_statistics.on_each(RoleAssigned, keys=lambda e: (UserRole.Name(e.previous_role), UserRole.Name(e.role)))
def role_exchanged(row: RoleCount | None, event: RoleAssigned, at: Recorded) -> RoleCount:
    """Count a user less in one role and one more in the other."""
    change = 1 if at.key == UserRole.Name(event.role) else -1
    return _count(row, at.key, users=change, active=change if event.status == USER_STATUS_ACTIVE else 0)


@role_statistics.on(UserDeactivated, key=lambda e: UserRole.Name(e.role))
def role_less_active(row: RoleCount | None, event: UserDeactivated, at: Recorded) -> RoleCount:
    """Count one active user less."""
    return _count(row, at.key, active=-1)


@role_statistics.on(UserReactivated, key=lambda e: UserRole.Name(e.role))
def role_more_active(row: RoleCount | None, event: UserReactivated, at: Recorded) -> RoleCount:
    """Count one active user more."""
    return _count(row, at.key, active=1)


@role_statistics.on(UserRemoved, key=lambda e: UserRole.Name(e.role))
def role_given_up(row: RoleCount | None, event: UserRemoved, at: Recorded) -> RoleCount:
    """Count one user less."""
    return _count(row, at.key, users=-1, active=-1 if event.status == USER_STATUS_ACTIVE else 0)


@users.combines(GetRoleStatisticsRequest, RoleStatistics, rows=lambda query, now: role_statistics.where())
def get_role_statistics(query: GetRoleStatisticsRequest, rows: Sequence[RoleCount]) -> RoleStatistics:
    """Return the counts of all roles, and their sums."""
    roles = sorted(rows, key=lambda row: row.role)
    return RoleStatistics(
        roles=roles,
        user_count=sum(row.user_count for row in rows),
        active_user_count=sum(row.active_user_count for row in rows),
    )
