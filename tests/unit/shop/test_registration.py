"""Registration: each step done, refused, failed for good, and undone; and every order in which that can happen."""

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from diptych import Call, Send
from diptych.testing import Answer, Explored, World, ask, explore, fold, given
from shop import domain
from shop.process_views import processes, registrations
from shop.refusals import EmailTaken, RegistrationExists, RegistrationNotFound, UsernameTaken, UserNotFound
from shop.registration import PROFILE, STEPS, registration
from shop.users import user
from shop.v1.effects_pb2 import SendEmailRequest, SendEmailResponse
from shop.v1.process_commands_pb2 import RemoveUserRequest
from shop.v1.processes_pb2 import (
    PROCESS_STATUS_COMPENSATING,
    PROCESS_STATUS_COMPLETED,
    PROCESS_STATUS_FAILED,
    PROCESS_STATUS_RUNNING,
)
from shop.v1.registration_commands_pb2 import StartRegistrationRequest
from shop.v1.registration_events_pb2 import (
    RegistrationCompleted,
    RegistrationFailed,
    RegistrationStarted,
    RegistrationStepCompensated,
    RegistrationStepCompleted,
    RegistrationStepFailed,
)
from shop.v1.registration_queries_pb2 import GetRegistrationRequest
from shop.v1.registrations_pb2 import (
    STEP_STATUS_COMPENSATED,
    STEP_STATUS_COMPENSATING,
    STEP_STATUS_COMPLETED,
    STEP_STATUS_FAILED,
    STEP_STATUS_PENDING,
    STEP_STATUS_RUNNING,
    RegistrationStep,
)
from shop.v1.user_commands_pb2 import AssignRoleRequest, RegisterUserRequest, UpdateUserProfileRequest
from shop.v1.users_pb2 import USER_ROLE_CUSTOMER, USER_ROLE_SELLER

CREATE_USER, SEND_EMAIL, CREATE_PROFILE, ASSIGN_ROLE = STEPS

start = StartRegistrationRequest(
    registration_id="r1",
    user_id="ada",
    email="ada@example.com",
    username="countess",
    first_name="Ada",
    last_name="Lovelace",
    role=USER_ROLE_SELLER,
    registration_source="web",
    bio="Analyst",
    avatar_uri="https://example.com/ada.png",
    preferences={"theme": "dark"},
)
started = RegistrationStarted(
    registration_id="r1",
    user_id="ada",
    email="ada@example.com",
    username="countess",
    first_name="Ada",
    last_name="Lovelace",
    role=USER_ROLE_SELLER,
    registration_source="web",
    bio="Analyst",
    avatar_uri="https://example.com/ada.png",
    preferences={"theme": "dark"},
)
register = RegisterUserRequest(user_id="ada", email="ada@example.com", registration_source="web")
welcome = SendEmailRequest(
    to="ada@example.com",
    subject="Welcome to the shop",
    text="Dear Ada,\n\nyou can order from now on, as ada@example.com.\n\nThe shop\n",
)
profile = UpdateUserProfileRequest(
    user_id="ada",
    username="countess",
    first_name="Ada",
    last_name="Lovelace",
    bio="Analyst",
    avatar_uri="https://example.com/ada.png",
    preferences={"theme": "dark"},
)
assign = AssignRoleRequest(user_id="ada", role=USER_ROLE_SELLER)
cleared = UpdateUserProfileRequest(user_id="ada", update_mask=FieldMask(paths=PROFILE))
sent = SendEmailResponse(message_id="<1@example.com>")
username_taken = UsernameTaken(username="countess")


def letter(reason: str) -> SendEmailRequest:
    return SendEmailRequest(
        to="ada@example.com",
        subject="Your registration could not be completed",
        text=f"Dear Ada,\n\nplease take our welcome for void: {reason}\n"
        "Nothing is kept of you, so you can register again.\n\nThe shop\n",
    )


def remove(reason: str) -> RemoveUserRequest:
    return RemoveUserRequest(user_id="ada", reason=reason)


def done(step: RegistrationStep) -> RegistrationStepCompleted:
    return RegistrationStepCompleted(registration_id="r1", step=step)


def undone(step: RegistrationStep) -> RegistrationStepCompensated:
    return RegistrationStepCompensated(registration_id="r1", step=step)


def wrong(step: RegistrationStep, reason: str, message: str) -> RegistrationStepFailed:
    return RegistrationStepFailed(registration_id="r1", step=step, reason=reason, message=message)


def failed(reason: str) -> RegistrationFailed:
    return RegistrationFailed(registration_id="r1", reason=reason)


completed = RegistrationCompleted(registration_id="r1", user_id="ada")
at_profile = (started, done(CREATE_USER), done(SEND_EMAIL))
turned_at_profile = (*at_profile, wrong(CREATE_PROFILE, "USERNAME_TAKEN", str(username_taken)))
turned_at_role = (*at_profile, done(CREATE_PROFILE), wrong(ASSIGN_ROLE, "USER_NOT_FOUND", "There is no user ada."))


def test_it_begins_by_creating_the_user() -> None:
    given(registration).when(start).then(started, Send(register))


def test_missing_ids_are_created_and_other_missing_fields_stay_empty() -> None:
    command = StartRegistrationRequest(email="ada@example.com")
    given(registration).when(command, new_id="0190").then(
        RegistrationStarted(registration_id="0190", user_id="0190", email="ada@example.com", role=USER_ROLE_CUSTOMER),
        Send(RegisterUserRequest(user_id="0190", email="ada@example.com")),
    )


def test_an_id_is_used_once() -> None:
    given(registration, started).when(start).refused(RegistrationExists(registration_id="r1"))


def test_each_step_leads_to_the_next() -> None:
    given(registration, started).accepted(register).then(done(CREATE_USER), Call(welcome))
    given(registration, started, done(CREATE_USER)).answered(welcome, sent).then(done(SEND_EMAIL), Send(profile))
    given(registration, *at_profile).accepted(profile).then(done(CREATE_PROFILE), Send(assign))
    given(registration, *at_profile, done(CREATE_PROFILE)).accepted(assign).then(done(ASSIGN_ROLE), completed)


def test_if_the_user_is_refused_there_is_nothing_to_undo() -> None:
    refusal = EmailTaken(email="ada@example.com")
    given(registration, started).refused(register, refusal).then(
        wrong(CREATE_USER, "EMAIL_TAKEN", str(refusal)), failed("EMAIL_TAKEN")
    )


def test_if_the_email_fails_the_user_is_removed() -> None:
    given(registration, started, done(CREATE_USER)).failed(welcome, "RECIPIENT_REFUSED", "No such mailbox.").then(
        wrong(SEND_EMAIL, "RECIPIENT_REFUSED", "No such mailbox."),
        Send(remove("RECIPIENT_REFUSED"), compensates=True),
    )


def test_if_the_profile_is_refused_the_email_is_taken_back_and_then_the_user_removed() -> None:
    given(registration, *at_profile).refused(profile, username_taken).then(
        wrong(CREATE_PROFILE, "USERNAME_TAKEN", str(username_taken)),
        Call(letter(str(username_taken)), compensates=True),
    )
    given(registration, *turned_at_profile).answered(letter(str(username_taken)), sent).then(
        undone(SEND_EMAIL), Send(remove("USERNAME_TAKEN"), compensates=True)
    )
    given(registration, *turned_at_profile, undone(SEND_EMAIL)).accepted(remove("USERNAME_TAKEN")).then(
        undone(CREATE_USER), failed("USERNAME_TAKEN")
    )


def test_if_the_role_is_refused_all_three_steps_are_undone_the_last_one_first() -> None:
    given(registration, *at_profile, done(CREATE_PROFILE)).refused(assign, UserNotFound(user_id="ada")).then(
        wrong(ASSIGN_ROLE, "USER_NOT_FOUND", "There is no user ada."), Send(cleared, compensates=True)
    )
    given(registration, *turned_at_role).accepted(cleared).then(
        undone(CREATE_PROFILE), Call(letter("There is no user ada."), compensates=True)
    )


def test_an_outcome_out_of_turn_changes_nothing() -> None:
    over = given(registration, *at_profile, done(CREATE_PROFILE), done(ASSIGN_ROLE), completed)
    over.accepted(register).then_nothing()
    over.answered(welcome, sent).then_nothing()
    over.accepted(profile).then_nothing()
    over.accepted(assign).then_nothing()
    over.accepted(remove("")).then_nothing()
    undone_all = (undone(SEND_EMAIL), undone(CREATE_USER), failed("USERNAME_TAKEN"))
    given(registration, *turned_at_profile, *undone_all).accepted(remove("")).then_nothing()
    given(registration, started).failed(welcome, "RECIPIENT_REFUSED").then_nothing()
    given(registration, started).refused(profile, username_taken).then_nothing()
    given(registration, started).refused(assign, UserNotFound(user_id="ada")).then_nothing()
    given(registration, started, done(CREATE_USER)).refused(register, username_taken).then_nothing()


def test_a_cleared_profile_keeps_the_rules_of_its_command() -> None:
    made = given(user).when(register)
    history = (*made.events, *given(user, *made.events).when(profile).events)
    assert given(user, *history).state.username == "countess"
    after = given(user, *history).when(cleared)
    assert (after.state.username, after.state.first_name, after.state.preferences) == ("", "", ())


# All orders of events: with another user who has the username or the email, and an email that may be refused.


def email(request: SendEmailRequest, memory: str) -> list[Answer]:
    """A server that takes emails, or refuses the first for good."""
    sent_ = Answer(sent, f"{memory}{request.subject.split()[0]} ")
    return [sent_] if memory else [sent_, Answer(None, memory, "RECIPIENT_REFUSED")]


def explored(*given: Message, clients: tuple[Message, ...] = ()) -> Explored:
    return explore(domain, registration, first=start, given=given, clients=clients, effects={SendEmailRequest: email})


def ends(explored_states: Explored) -> set[tuple[Any, ...]]:
    """Return the final states, the existence of the user, and the emails."""

    def summary(end: World) -> tuple[Any, ...]:
        state = end.state(registration, "r1")
        return state.status, state.reason, end.state(user, "ada").exists, end.memory

    return {summary(end) for end in explored_states.ends}


def test_it_ends_with_all_or_with_nothing() -> None:
    assert ends(explored()) == {
        (PROCESS_STATUS_COMPLETED, "", True, "Welcome "),
        (PROCESS_STATUS_FAILED, "RECIPIENT_REFUSED", False, ""),
    }


def test_it_fails_and_leaves_nothing_when_another_user_takes_email_or_username() -> None:
    rival = RegisterUserRequest(user_id="eve", email="ADA@example.com", username="COUNTESS")
    namesake = RegisterUserRequest(user_id="eve", email="eve@example.com", username="COUNTESS")
    assert ends(explored(clients=(rival,))) == {
        (PROCESS_STATUS_COMPLETED, "", True, "Welcome "),
        (PROCESS_STATUS_FAILED, "RECIPIENT_REFUSED", False, ""),
        (PROCESS_STATUS_FAILED, "EMAIL_TAKEN", False, ""),
    }
    assert ends(explored(clients=(namesake,))) == {
        (PROCESS_STATUS_COMPLETED, "", True, "Welcome "),
        (PROCESS_STATUS_FAILED, "RECIPIENT_REFUSED", False, ""),
        (PROCESS_STATUS_FAILED, "USERNAME_TAKEN", False, "Welcome Your "),
    }


def test_an_existing_user_is_not_changed() -> None:
    before = RegisterUserRequest(user_id="ada", email="first@example.com")
    explored_states = explored(before)
    assert ends(explored_states) == {(PROCESS_STATUS_FAILED, "USER_EXISTS", True, "")}


# The view.


def statuses(*events: Message) -> tuple[Any, ...]:
    row = fold(registrations, *events)["r1"]
    assert [step.step for step in row.steps] == list(STEPS)
    return row.status, [step.status for step in row.steps]


@pytest.mark.parametrize(
    ("events", "status", "steps"),
    [
        ((started,), PROCESS_STATUS_RUNNING, "running pending pending pending"),
        ((started, done(CREATE_USER)), PROCESS_STATUS_RUNNING, "completed running pending pending"),
        (at_profile, PROCESS_STATUS_RUNNING, "completed completed running pending"),
        (
            (*at_profile, done(CREATE_PROFILE), done(ASSIGN_ROLE), completed),
            PROCESS_STATUS_COMPLETED,
            "completed completed completed completed",
        ),
        (
            (started, wrong(CREATE_USER, "EMAIL_TAKEN", ""), failed("EMAIL_TAKEN")),
            PROCESS_STATUS_FAILED,
            "failed pending pending pending",
        ),
        (turned_at_profile, PROCESS_STATUS_COMPENSATING, "completed compensating failed pending"),
        (
            (*turned_at_profile, undone(SEND_EMAIL)),
            PROCESS_STATUS_COMPENSATING,
            "compensating compensated failed pending",
        ),
        (
            (*turned_at_profile, undone(SEND_EMAIL), undone(CREATE_USER), failed("USERNAME_TAKEN")),
            PROCESS_STATUS_FAILED,
            "compensated compensated failed pending",
        ),
        (turned_at_role, PROCESS_STATUS_COMPENSATING, "completed completed compensating failed"),
    ],
)
def test_the_row_shows_each_step(events: tuple[Message, ...], status: int, steps: str) -> None:
    names = {
        "pending": STEP_STATUS_PENDING,
        "running": STEP_STATUS_RUNNING,
        "completed": STEP_STATUS_COMPLETED,
        "failed": STEP_STATUS_FAILED,
        "compensating": STEP_STATUS_COMPENSATING,
        "compensated": STEP_STATUS_COMPENSATED,
    }
    assert statuses(*events) == (status, [names[each] for each in steps.split()])


def test_the_row_says_why_it_failed_and_when_each_step_was_taken() -> None:
    row = ask(processes, GetRegistrationRequest(registration_id="r1"), *turned_at_profile)
    assert (row.reason, row.message) == ("USERNAME_TAKEN", str(username_taken))
    assert (row.user_id, row.email, row.username, row.role) == ("ada", "ada@example.com", "countess", USER_ROLE_SELLER)
    assert [step.update_time.seconds - row.create_time.seconds for step in row.steps[:3]] == [1, 3, 3]
    assert not row.steps[3].HasField("update_time")
    assert (row.version, row.update_time.seconds - row.create_time.seconds) == (4, 3)


def test_a_registration_that_is_not_there() -> None:
    with pytest.raises(RegistrationNotFound):
        ask(processes, GetRegistrationRequest(registration_id="r2"), started)
