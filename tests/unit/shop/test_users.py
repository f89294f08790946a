"""Users: for each command the right events, the right refusals, and silence where nothing changes."""

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from diptych.testing import NOW, ask, given
from shop.refusals import EmailTaken, UserDeactivated, UserExists, UsernameTaken, UserNotFound
from shop.user_views import users
from shop.users import user
from shop.v1.process_commands_pb2 import RemoveUserRequest
from shop.v1.user_commands_pb2 import (
    AssignRoleRequest,
    DeactivateUserRequest,
    ReactivateUserRequest,
    RecordLoginRequest,
    RegisterUserRequest,
    UpdateUserProfileRequest,
)
from shop.v1.user_events_pb2 import (
    LoginRecorded,
    RoleAssigned,
    UserProfileUpdated,
    UserReactivated,
    UserRegistered,
    UserRemoved,
)
from shop.v1.user_events_pb2 import (
    UserDeactivated as Deactivated,
)
from shop.v1.user_queries_pb2 import GetRoleStatisticsRequest
from shop.v1.users_pb2 import (
    USER_ROLE_ADMINISTRATOR,
    USER_ROLE_CUSTOMER,
    USER_ROLE_SELLER,
    USER_STATUS_ACTIVE,
    USER_STATUS_DEACTIVATED,
    UserStatus,
)

registered = UserRegistered(
    user_id="ada",
    email="Ada@example.com",
    username="Countess",
    first_name="Ada",
    last_name="Lovelace",
    role=USER_ROLE_CUSTOMER,
)
grace = UserRegistered(user_id="grace", email="grace@example.com", username="amazing", role=USER_ROLE_SELLER)
deactivated = Deactivated(user_id="ada", reason="left", role=USER_ROLE_CUSTOMER)
reactivated = UserReactivated(user_id="ada", role=USER_ROLE_CUSTOMER)


def test_a_user_is_registered_with_the_given_fields() -> None:
    given(user).when(
        RegisterUserRequest(
            user_id="grace",
            email="Grace@example.com",
            username="amazing",
            first_name="Grace",
            last_name="Hopper",
            role=USER_ROLE_ADMINISTRATOR,
            registration_source="web",
        )
    ).then(
        UserRegistered(
            user_id="grace",
            email="Grace@example.com",
            username="amazing",
            first_name="Grace",
            last_name="Hopper",
            role=USER_ROLE_ADMINISTRATOR,
            registration_source="web",
        )
    )


def test_without_a_role_a_user_is_a_customer_and_without_an_id_gets_one() -> None:
    given(user).when(RegisterUserRequest(email="a@example.com"), new_id="0190").then(
        UserRegistered(user_id="0190", email="a@example.com", role=USER_ROLE_CUSTOMER)
    )


def test_an_id_is_registered_once() -> None:
    given(user, registered).when(RegisterUserRequest(user_id="ada", email="other@example.com")).refused(
        UserExists(user_id="ada")
    )


@pytest.mark.parametrize("history", [[registered], [registered, deactivated]])
def test_an_email_is_taken_in_any_case_even_by_a_deactivated_user(history: list[UserRegistered]) -> None:
    given(user).when(RegisterUserRequest(user_id="new", email="ADA@EXAMPLE.com"), also=[given(user, *history)]).refused(
        EmailTaken(email="ada@example.com")
    )


def test_a_username_is_taken_in_any_case() -> None:
    given(user).when(
        RegisterUserRequest(user_id="new", email="new@example.com", username="cOUNTESS"), also=[given(user, registered)]
    ).refused(UsernameTaken(username="countess"))


def test_two_users_without_a_username_do_not_collide() -> None:
    nameless = UserRegistered(user_id="x", email="x@example.com", role=USER_ROLE_CUSTOMER)
    given(user).when(RegisterUserRequest(user_id="y", email="y@example.com"), also=[given(user, nameless)]).then(
        UserRegistered(user_id="y", email="y@example.com", role=USER_ROLE_CUSTOMER)
    )


def test_a_changed_email_and_username_are_free_again() -> None:
    moved = UserProfileUpdated(
        user_id="ada", changed_fields=FieldMask(paths=["email", "username"]), email="new@example.com", username="byron"
    )
    given(user).when(
        RegisterUserRequest(user_id="b", email="ada@example.com", username="Countess"),
        also=[given(user, registered, moved)],
    ).then(UserRegistered(user_id="b", email="ada@example.com", username="Countess", role=USER_ROLE_CUSTOMER))


def test_a_user_may_write_the_own_email_in_another_case() -> None:
    given(user, registered).when(
        UpdateUserProfileRequest(user_id="ada", email="ada@example.com"), also=[given(user, grace)]
    ).then(
        UserProfileUpdated(
            user_id="ada",
            changed_fields=FieldMask(paths=["email"]),
            email="ada@example.com",
            previous_email="Ada@example.com",
        )
    )


def test_an_update_cannot_take_another_users_email_or_username() -> None:
    ada = given(user, registered)
    ada.when(UpdateUserProfileRequest(user_id="ada", email="Grace@example.com"), also=[given(user, grace)]).refused(
        EmailTaken(email="grace@example.com")
    )
    ada.when(UpdateUserProfileRequest(user_id="ada", username="AMAZING"), also=[given(user, grace)]).refused(
        UsernameTaken(username="amazing")
    )


def test_without_a_mask_all_that_is_given_and_differs_is_written() -> None:
    given(user, registered).when(
        UpdateUserProfileRequest(
            user_id="ada", first_name="Ada", last_name="King", bio="Analyst", preferences={"b": "2", "a": "1"}
        )
    ).then(
        UserProfileUpdated(
            user_id="ada",
            changed_fields=FieldMask(paths=["last_name", "bio", "preferences"]),
            last_name="King",
            bio="Analyst",
            preferences={"a": "1", "b": "2"},
        )
    )


def test_a_field_that_the_mask_names_is_cleared_where_it_is_empty() -> None:
    given(user, registered).when(
        UpdateUserProfileRequest(
            user_id="ada", first_name="Not named", update_mask=FieldMask(paths=["username", "bio"])
        )
    ).then(
        UserProfileUpdated(user_id="ada", changed_fields=FieldMask(paths=["username"]), previous_username="Countess")
    )


def test_preferences_are_replaced_together() -> None:
    set_before = UserProfileUpdated(
        user_id="ada", changed_fields=FieldMask(paths=["preferences"]), preferences={"theme": "dark", "lang": "en"}
    )
    ada = given(user, registered, set_before)
    ada.when(UpdateUserProfileRequest(user_id="ada", preferences={"theme": "light"})).then(
        UserProfileUpdated(
            user_id="ada", changed_fields=FieldMask(paths=["preferences"]), preferences={"theme": "light"}
        )
    )
    ada.when(UpdateUserProfileRequest(user_id="ada", update_mask=FieldMask(paths=["preferences"]))).then(
        UserProfileUpdated(user_id="ada", changed_fields=FieldMask(paths=["preferences"]))
    )
    ada.when(UpdateUserProfileRequest(user_id="ada", preferences={"lang": "en", "theme": "dark"})).then_nothing()


@pytest.mark.parametrize(
    "command",
    [
        UpdateUserProfileRequest(user_id="ada"),
        UpdateUserProfileRequest(user_id="ada", email="Ada@example.com", first_name="Ada"),
        UpdateUserProfileRequest(user_id="ada", update_mask=FieldMask(paths=["bio", "avatar_uri", "preferences"])),
        AssignRoleRequest(user_id="ada", role=USER_ROLE_CUSTOMER),
        ReactivateUserRequest(user_id="ada"),
    ],
    ids=lambda command: f"{command.DESCRIPTOR.name}",
)
def test_an_equal_value_records_nothing(command: UpdateUserProfileRequest) -> None:
    given(user, registered).when(command).then_nothing()


def test_a_deactivated_user_can_be_updated_and_given_a_role() -> None:
    gone = given(user, registered, deactivated)
    gone.when(UpdateUserProfileRequest(user_id="ada", bio="x")).then(
        UserProfileUpdated(user_id="ada", changed_fields=FieldMask(paths=["bio"]), bio="x")
    )
    gone.when(AssignRoleRequest(user_id="ada", role=USER_ROLE_SELLER)).then(
        RoleAssigned(
            user_id="ada", role=USER_ROLE_SELLER, previous_role=USER_ROLE_CUSTOMER, status=USER_STATUS_DEACTIVATED
        )
    )


def test_a_role_is_assigned_with_the_one_before() -> None:
    decision = given(user, registered).when(AssignRoleRequest(user_id="ada", role=USER_ROLE_SELLER))
    decision.then(
        RoleAssigned(user_id="ada", role=USER_ROLE_SELLER, previous_role=USER_ROLE_CUSTOMER, status=USER_STATUS_ACTIVE)
    )
    given(user, registered, *decision.events).when(
        AssignRoleRequest(user_id="ada", role=USER_ROLE_SELLER)
    ).then_nothing()


def test_deactivating_tells_why_and_doing_it_twice_adds_nothing() -> None:
    given(user, registered).when(DeactivateUserRequest(user_id="ada", reason="left")).then(deactivated)
    given(user, registered, deactivated).when(DeactivateUserRequest(user_id="ada", reason="other")).then_nothing()


def test_a_reactivated_user_can_be_deactivated_again() -> None:
    given(user, registered, deactivated).when(ReactivateUserRequest(user_id="ada")).then(reactivated)
    given(user, registered, deactivated, reactivated).when(DeactivateUserRequest(user_id="ada")).then(
        Deactivated(user_id="ada", role=USER_ROLE_CUSTOMER)
    )


def test_every_login_counts() -> None:
    login = LoginRecorded(user_id="ada", login_time=NOW)
    given(user, registered).when(RecordLoginRequest(user_id="ada"), at=NOW).then(login)
    given(user, registered, login).when(RecordLoginRequest(user_id="ada"), at=NOW).then(login)


def test_a_deactivated_user_cannot_log_in() -> None:
    given(user, registered, deactivated).when(RecordLoginRequest(user_id="ada")).refused(UserDeactivated(user_id="ada"))
    given(user, registered, deactivated, reactivated).when(RecordLoginRequest(user_id="ada")).then(
        LoginRecorded(user_id="ada", login_time=NOW)
    )


@pytest.mark.parametrize(
    "command",
    [
        UpdateUserProfileRequest(user_id="ada", bio="x"),
        AssignRoleRequest(user_id="ada", role=USER_ROLE_SELLER),
        DeactivateUserRequest(user_id="ada"),
        ReactivateUserRequest(user_id="ada"),
        RecordLoginRequest(user_id="ada"),
    ],
    ids=lambda command: f"{command.DESCRIPTOR.name}",
)
def test_a_missing_user_cannot_be_changed(command: UpdateUserProfileRequest) -> None:
    given(user).when(command).refused(UserNotFound(user_id="ada"))


# A failed registration removes its user.

remove = RemoveUserRequest(user_id="ada", reason="USERNAME_TAKEN")
gone = UserRemoved(user_id="ada", reason="USERNAME_TAKEN", role=USER_ROLE_CUSTOMER, status=USER_STATUS_ACTIVE)


def test_a_removed_user_leaves_id_email_and_username_free() -> None:
    removed = given(user, registered, gone)
    assert removed.state == user.initial
    again = RegisterUserRequest(user_id="ada", email="ada@example.com", username="Countess")
    removed.when(again).then(
        UserRegistered(user_id="ada", email="ada@example.com", username="Countess", role=USER_ROLE_CUSTOMER)
    )
    other = RegisterUserRequest(user_id="b", email="ADA@example.com", username="countess")
    given(user).when(other, also=[removed]).then(
        UserRegistered(user_id="b", email="ADA@example.com", username="countess", role=USER_ROLE_CUSTOMER)
    )


@pytest.mark.parametrize(
    ("history", "status"),
    [
        ((registered,), USER_STATUS_ACTIVE),
        ((registered, deactivated), USER_STATUS_DEACTIVATED),
        ((registered, deactivated, reactivated), USER_STATUS_ACTIVE),
    ],
)
def test_a_removal_records_the_status_so_that_counts_fall(history: tuple[Message, ...], status: UserStatus) -> None:
    expected = UserRemoved(user_id="ada", reason="USERNAME_TAKEN", role=USER_ROLE_CUSTOMER, status=status)
    given(user, *history).when(remove).then(expected)
    counts = ask(users, GetRoleStatisticsRequest(), *history, expected)
    assert (counts.user_count, counts.active_user_count) == (0, 0)


def test_a_removal_is_recorded_once_and_changes_nothing_after_it() -> None:
    given(user).when(remove).then_nothing()
    removed = given(user, registered, gone)
    removed.when(remove).then_nothing()
    removed.when(RecordLoginRequest(user_id="ada")).refused(UserNotFound(user_id="ada"))
    removed.when(UpdateUserProfileRequest(user_id="ada", bio="x")).refused(UserNotFound(user_id="ada"))
