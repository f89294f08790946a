"""Registration: create a user, send a welcome email, write the profile and assign the role, or undo all of that.

1. The steps run one after the other.
2. If a step is refused, or fails and is not tried again, the earlier steps are undone in reverse order: the profile is
   cleared, the welcome is retracted by a second email, and the user is removed, so that the email is free again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from diptych import Accepted, Answered, Call, Deciding, Failed, Process, Refused, Send, Step, call, send
from shop.refusals import RegistrationExists
from shop.v1.effects_pb2 import SendEmailRequest, SendEmailResponse
from shop.v1.process_commands_pb2 import RemoveUserRequest
from shop.v1.processes_pb2 import (
    PROCESS_STATUS_COMPENSATING,
    PROCESS_STATUS_COMPLETED,
    PROCESS_STATUS_FAILED,
    PROCESS_STATUS_RUNNING,
    PROCESS_STATUS_UNSPECIFIED,
    ProcessStatus,
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
from shop.v1.registrations_pb2 import (
    REGISTRATION_STEP_ASSIGN_DEFAULT_ROLE,
    REGISTRATION_STEP_CREATE_PROFILE,
    REGISTRATION_STEP_CREATE_USER,
    REGISTRATION_STEP_SEND_WELCOME_EMAIL,
    REGISTRATION_STEP_UNSPECIFIED,
    RegistrationStep,
)
from shop.v1.user_commands_pb2 import AssignRoleRequest, RegisterUserRequest, UpdateUserProfileRequest
from shop.v1.users_pb2 import USER_ROLE_CUSTOMER

STEPS: tuple[RegistrationStep, ...] = (
    REGISTRATION_STEP_CREATE_USER,
    REGISTRATION_STEP_SEND_WELCOME_EMAIL,
    REGISTRATION_STEP_CREATE_PROFILE,
    REGISTRATION_STEP_ASSIGN_DEFAULT_ROLE,
)
"""Steps in their order."""

PROFILE = ("username", "first_name", "last_name", "bio", "avatar_uri", "preferences")
"""Fields of a user that belong to the profile."""

Creating = Send[RegisterUserRequest] | Call[SendEmailRequest] | Send[UpdateUserProfileRequest] | Send[AssignRoleRequest]
Undoing = Send[UpdateUserProfileRequest] | Call[SendEmailRequest] | Send[RemoveUserRequest]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationState:
    """State of a registration."""

    status: ProcessStatus = PROCESS_STATUS_UNSPECIFIED
    step: RegistrationStep = REGISTRATION_STEP_UNSPECIFIED
    """Step that is running or, when compensating, being undone."""
    request: RegistrationStarted | None = None
    """Fields of the new user."""
    reason: str = ""
    """Cause of a failed step."""
    message: str = ""


registration = Process[RegistrationState]("registration", initial=RegistrationState(), id="registration_id")


@registration.starts(StartRegistrationRequest)
def start(
    state: RegistrationState, command: StartRegistrationRequest, at: Deciding
) -> Sequence[RegistrationStarted | Creating]:
    """Start with the first step."""
    if at.version:
        raise RegistrationExists(registration_id=at.id)
    request = RegistrationStarted(
        registration_id=at.id,
        user_id=command.user_id or at.id,
        email=command.email,
        username=command.username,
        first_name=command.first_name,
        last_name=command.last_name,
        role=command.role or USER_ROLE_CUSTOMER,
        registration_source=command.registration_source,
        bio=command.bio,
        avatar_uri=command.avatar_uri,
        preferences=command.preferences,
    )
    return [request, _do(STEPS[0], request)]


# Inputs of the first step: the user.


@registration.accepted(RegisterUserRequest)
def user_created(state: RegistrationState, outcome: Accepted[RegisterUserRequest], at: Deciding) -> Step:
    """Continue with the email, which belongs to the user now."""
    return _forward(state, REGISTRATION_STEP_CREATE_USER, at)


@registration.refused(RegisterUserRequest)
def user_refused(state: RegistrationState, outcome: Refused[RegisterUserRequest], at: Deciding) -> Step:
    """Turn back. There is nothing to undo yet."""
    return _turn_back(state, REGISTRATION_STEP_CREATE_USER, outcome, at)


@registration.accepted(RemoveUserRequest)
def user_removed(state: RegistrationState, outcome: Accepted[RemoveUserRequest], at: Deciding) -> Step:
    """Record that nothing is left to undo."""
    return _back(state, REGISTRATION_STEP_CREATE_USER, at)


# Inputs of the second step: the email.


@registration.answered(SendEmailRequest)
def email_sent(state: RegistrationState, outcome: Answered[SendEmailRequest, SendEmailResponse], at: Deciding) -> Step:
    """Continue after the welcome email, or after the email that retracts it."""
    if state.status == PROCESS_STATUS_RUNNING:
        return _forward(state, REGISTRATION_STEP_SEND_WELCOME_EMAIL, at)
    return _back(state, REGISTRATION_STEP_SEND_WELCOME_EMAIL, at)


@registration.failed(SendEmailRequest)
def email_failed(state: RegistrationState, outcome: Failed[SendEmailRequest], at: Deciding) -> Step:
    """Turn back: the address cannot be reached."""
    return _turn_back(state, REGISTRATION_STEP_SEND_WELCOME_EMAIL, outcome, at)


# Inputs of the third step: the profile.


@registration.accepted(UpdateUserProfileRequest)
def profile_written(state: RegistrationState, outcome: Accepted[UpdateUserProfileRequest], at: Deciding) -> Step:
    """Continue after the profile is written, or cleared."""
    if state.status == PROCESS_STATUS_RUNNING:
        return _forward(state, REGISTRATION_STEP_CREATE_PROFILE, at)
    return _back(state, REGISTRATION_STEP_CREATE_PROFILE, at)


@registration.refused(UpdateUserProfileRequest)
def profile_refused(state: RegistrationState, outcome: Refused[UpdateUserProfileRequest], at: Deciding) -> Step:
    """Turn back: another user has the username."""
    return _turn_back(state, REGISTRATION_STEP_CREATE_PROFILE, outcome, at)


# Inputs of the last step: the role.


@registration.accepted(AssignRoleRequest)
def role_assigned(state: RegistrationState, outcome: Accepted[AssignRoleRequest], at: Deciding) -> Step:
    """Complete the registration."""
    return _forward(state, REGISTRATION_STEP_ASSIGN_DEFAULT_ROLE, at)


@registration.refused(AssignRoleRequest)
def role_refused(state: RegistrationState, outcome: Refused[AssignRoleRequest], at: Deciding) -> Step:
    """Turn back, and undo all earlier steps."""
    return _turn_back(state, REGISTRATION_STEP_ASSIGN_DEFAULT_ROLE, outcome, at)


def _forward(state: RegistrationState, step: RegistrationStep, at: Deciding) -> Step:
    """Complete a step and start the next one."""
    if (state.status, state.step) != (PROCESS_STATUS_RUNNING, step) or state.request is None:
        return []
    completed = RegistrationStepCompleted(registration_id=at.id, step=step)
    if step == STEPS[-1]:
        return [completed, RegistrationCompleted(registration_id=at.id, user_id=state.request.user_id)]
    return [completed, _do(_after(step), state.request)]


def _turn_back(state: RegistrationState, step: RegistrationStep, why: Refused[Any] | Failed[Any], at: Deciding) -> Step:
    """Fail a step and undo the one before it."""
    if (state.status, state.step) != (PROCESS_STATUS_RUNNING, step) or state.request is None:
        return []
    failed = RegistrationStepFailed(registration_id=at.id, step=step, reason=why.reason, message=why.message)
    return [failed, _before(step, state.request, why.reason, why.message)]


def _back(state: RegistrationState, step: RegistrationStep, at: Deciding) -> Step:
    """Record that a step is undone, and undo the one before it."""
    if (state.status, state.step) != (PROCESS_STATUS_COMPENSATING, step) or state.request is None:
        return []
    undone = RegistrationStepCompensated(registration_id=at.id, step=step)
    return [undone, _before(step, state.request, state.reason, state.message)]


def _before(
    step: RegistrationStep, request: RegistrationStarted, reason: str, message: str
) -> Undoing | RegistrationFailed:
    """Undo the step before; before the first step, fail the registration."""
    if step == STEPS[0]:
        return RegistrationFailed(registration_id=request.registration_id, reason=reason)
    return _undo(_step_before(step), request, reason, message)


def _do(step: RegistrationStep, request: RegistrationStarted) -> Creating:
    """Return the output that runs a step."""
    if step == REGISTRATION_STEP_CREATE_USER:
        return send(
            RegisterUserRequest(
                user_id=request.user_id, email=request.email, registration_source=request.registration_source
            )
        )
    if step == REGISTRATION_STEP_SEND_WELCOME_EMAIL:
        return call(
            SendEmailRequest(
                to=request.email,
                subject="Welcome to the shop",
                text=f"{_greeting(request)},\n\nyou can order from now on, as {request.email}.\n\nThe shop\n",
            )
        )
    if step == REGISTRATION_STEP_CREATE_PROFILE:
        profile = {field: getattr(request, field) for field in PROFILE}
        return send(UpdateUserProfileRequest(user_id=request.user_id, **profile))
    return send(AssignRoleRequest(user_id=request.user_id, role=request.role))


def _undo(step: RegistrationStep, request: RegistrationStarted, reason: str, message: str) -> Undoing:
    """Return the output that undoes a step."""
    if step == REGISTRATION_STEP_CREATE_PROFILE:
        cleared = UpdateUserProfileRequest(user_id=request.user_id, update_mask=FieldMask(paths=PROFILE))
        return send(cleared, compensates=True)
    if step == REGISTRATION_STEP_SEND_WELCOME_EMAIL:
        letter = SendEmailRequest(
            to=request.email,
            subject="Your registration could not be completed",
            text=f"{_greeting(request)},\n\nplease take our welcome for void: {message or reason}\n"
            "Nothing is kept of you, so you can register again.\n\nThe shop\n",
        )
        return call(letter, compensates=True)
    return send(RemoveUserRequest(user_id=request.user_id, reason=reason), compensates=True)


def _greeting(request: RegistrationStarted) -> str:
    return f"Dear {request.first_name or request.username or 'customer'}"


def _after(step: RegistrationStep) -> RegistrationStep:
    return STEPS[STEPS.index(step) + 1]


def _step_before(step: RegistrationStep) -> RegistrationStep:
    return STEPS[STEPS.index(step) - 1]


@registration.evolves(RegistrationStarted)
def started(state: RegistrationState, event: RegistrationStarted) -> RegistrationState:
    """Start the first step."""
    return RegistrationState(status=PROCESS_STATUS_RUNNING, step=STEPS[0], request=event)


@registration.evolves(RegistrationStepCompleted)
def step_completed(state: RegistrationState, event: RegistrationStepCompleted) -> RegistrationState:
    """Start the next step, if there is one."""
    return state if event.step == STEPS[-1] else replace(state, step=_after(event.step))


@registration.evolves(RegistrationStepFailed)
def step_failed(state: RegistrationState, event: RegistrationStepFailed) -> RegistrationState:
    """Start to undo the step before, if there is one."""
    turned = replace(state, status=PROCESS_STATUS_COMPENSATING, reason=event.reason, message=event.message)
    return turned if event.step == STEPS[0] else replace(turned, step=_step_before(event.step))


@registration.evolves(RegistrationStepCompensated)
def step_compensated(state: RegistrationState, event: RegistrationStepCompensated) -> RegistrationState:
    """Start to undo the step before, if there is one."""
    return state if event.step == STEPS[0] else replace(state, step=_step_before(event.step))


@registration.evolves(RegistrationCompleted)
def completed(state: RegistrationState, event: RegistrationCompleted) -> RegistrationState:
    """Set the registration to completed."""
    return replace(state, status=PROCESS_STATUS_COMPLETED)


@registration.evolves(RegistrationFailed)
def failed(state: RegistrationState, event: RegistrationFailed) -> RegistrationState:
    """Set the registration to failed."""
    return replace(state, status=PROCESS_STATUS_FAILED)
