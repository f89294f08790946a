"""Registration: a user is created, welcomed, given a profile and a role; or nothing of it is left.

The steps are done one after the other. If one is refused or fails for good, those before it are undone, the last one
first: the profile is cleared, the welcome taken back, and the user removed, so that the email is free again.
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
"""What is done, in this order."""

PROFILE = ("username", "first_name", "last_name", "bio", "avatar_uri", "preferences")
"""What of a user the profile is."""

Creating = Send[RegisterUserRequest] | Call[SendEmailRequest] | Send[UpdateUserProfileRequest] | Send[AssignRoleRequest]
Undoing = Send[UpdateUserProfileRequest] | Call[SendEmailRequest] | Send[RemoveUserRequest]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationState:
    """How far a registration has come."""

    status: ProcessStatus = PROCESS_STATUS_UNSPECIFIED
    step: RegistrationStep = REGISTRATION_STEP_UNSPECIFIED
    """The step that is being done or, when compensating, undone."""
    asked: RegistrationStarted | None = None
    """What to register."""
    reason: str = ""
    """Why a step failed."""
    message: str = ""


registration = Process[RegistrationState]("registration", initial=RegistrationState(), id="registration_id")


@registration.starts(StartRegistrationRequest)
def start(
    state: RegistrationState, command: StartRegistrationRequest, at: Deciding
) -> Sequence[RegistrationStarted | Creating]:
    """Begins with the first step."""
    if at.version:
        raise RegistrationExists(registration_id=at.id)
    asked = RegistrationStarted(
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
    return [asked, _do(STEPS[0], asked)]


# The first step: the user.


@registration.accepted(RegisterUserRequest)
def user_created(state: RegistrationState, outcome: Accepted[RegisterUserRequest], at: Deciding) -> Step:
    """The email is theirs; they can be written to."""
    return _forward(state, REGISTRATION_STEP_CREATE_USER, at)


@registration.refused(RegisterUserRequest)
def user_refused(state: RegistrationState, outcome: Refused[RegisterUserRequest], at: Deciding) -> Step:
    """There is nothing to undo yet."""
    return _turn_back(state, REGISTRATION_STEP_CREATE_USER, outcome, at)


@registration.accepted(RemoveUserRequest)
def user_removed(state: RegistrationState, outcome: Accepted[RemoveUserRequest], at: Deciding) -> Step:
    """Nothing is left."""
    return _back(state, REGISTRATION_STEP_CREATE_USER, at)


# The second step: the email.


@registration.answered(SendEmailRequest)
def email_sent(state: RegistrationState, outcome: Answered[SendEmailRequest, SendEmailResponse], at: Deciding) -> Step:
    """The welcome is on its way, or what takes it back."""
    if state.status == PROCESS_STATUS_RUNNING:
        return _forward(state, REGISTRATION_STEP_SEND_WELCOME_EMAIL, at)
    return _back(state, REGISTRATION_STEP_SEND_WELCOME_EMAIL, at)


@registration.failed(SendEmailRequest)
def email_failed(state: RegistrationState, outcome: Failed[SendEmailRequest], at: Deciding) -> Step:
    """Nobody is to be reached under that address."""
    return _turn_back(state, REGISTRATION_STEP_SEND_WELCOME_EMAIL, outcome, at)


# The third step: the profile.


@registration.accepted(UpdateUserProfileRequest)
def profile_written(state: RegistrationState, outcome: Accepted[UpdateUserProfileRequest], at: Deciding) -> Step:
    """The profile is there, or cleared."""
    if state.status == PROCESS_STATUS_RUNNING:
        return _forward(state, REGISTRATION_STEP_CREATE_PROFILE, at)
    return _back(state, REGISTRATION_STEP_CREATE_PROFILE, at)


@registration.refused(UpdateUserProfileRequest)
def profile_refused(state: RegistrationState, outcome: Refused[UpdateUserProfileRequest], at: Deciding) -> Step:
    """Another user has the username."""
    return _turn_back(state, REGISTRATION_STEP_CREATE_PROFILE, outcome, at)


# The last step: the role.


@registration.accepted(AssignRoleRequest)
def role_assigned(state: RegistrationState, outcome: Accepted[AssignRoleRequest], at: Deciding) -> Step:
    """All is done."""
    return _forward(state, REGISTRATION_STEP_ASSIGN_DEFAULT_ROLE, at)


@registration.refused(AssignRoleRequest)
def role_refused(state: RegistrationState, outcome: Refused[AssignRoleRequest], at: Deciding) -> Step:
    """Everything before it is undone."""
    return _turn_back(state, REGISTRATION_STEP_ASSIGN_DEFAULT_ROLE, outcome, at)


def _forward(state: RegistrationState, step: RegistrationStep, at: Deciding) -> Step:
    """A step is done: on to the next."""
    if (state.status, state.step) != (PROCESS_STATUS_RUNNING, step) or state.asked is None:
        return []
    completed = RegistrationStepCompleted(registration_id=at.id, step=step)
    if step == STEPS[-1]:
        return [completed, RegistrationCompleted(registration_id=at.id, user_id=state.asked.user_id)]
    return [completed, _do(_after(step), state.asked)]


def _turn_back(state: RegistrationState, step: RegistrationStep, why: Refused[Any] | Failed[Any], at: Deciding) -> Step:
    """A step is not to be done: back to the one before it."""
    if (state.status, state.step) != (PROCESS_STATUS_RUNNING, step) or state.asked is None:
        return []
    failed = RegistrationStepFailed(registration_id=at.id, step=step, reason=why.reason, message=why.message)
    return [failed, _before(step, state.asked, why.reason, why.message)]


def _back(state: RegistrationState, step: RegistrationStep, at: Deciding) -> Step:
    """A step is undone: back to the one before it."""
    if (state.status, state.step) != (PROCESS_STATUS_COMPENSATING, step) or state.asked is None:
        return []
    undone = RegistrationStepCompensated(registration_id=at.id, step=step)
    return [undone, _before(step, state.asked, state.reason, state.message)]


def _before(
    step: RegistrationStep, asked: RegistrationStarted, reason: str, message: str
) -> Undoing | RegistrationFailed:
    """Undoes the step before; before the first there is nothing to undo."""
    if step == STEPS[0]:
        return RegistrationFailed(registration_id=asked.registration_id, reason=reason)
    return _undo(_step_before(step), asked, reason, message)


def _do(step: RegistrationStep, asked: RegistrationStarted) -> Creating:
    """What does a step."""
    if step == REGISTRATION_STEP_CREATE_USER:
        return send(
            RegisterUserRequest(user_id=asked.user_id, email=asked.email, registration_source=asked.registration_source)
        )
    if step == REGISTRATION_STEP_SEND_WELCOME_EMAIL:
        return call(
            SendEmailRequest(
                to=asked.email,
                subject="Welcome to the shop",
                text=f"{_greeting(asked)},\n\nyou can order from now on, as {asked.email}.\n\nThe shop\n",
            )
        )
    if step == REGISTRATION_STEP_CREATE_PROFILE:
        profile = {field: getattr(asked, field) for field in PROFILE}
        return send(UpdateUserProfileRequest(user_id=asked.user_id, **profile))
    return send(AssignRoleRequest(user_id=asked.user_id, role=asked.role))


def _undo(step: RegistrationStep, asked: RegistrationStarted, reason: str, message: str) -> Undoing:
    """What undoes a step that was done."""
    if step == REGISTRATION_STEP_CREATE_PROFILE:
        cleared = UpdateUserProfileRequest(user_id=asked.user_id, update_mask=FieldMask(paths=PROFILE))
        return send(cleared, compensates=True)
    if step == REGISTRATION_STEP_SEND_WELCOME_EMAIL:
        letter = SendEmailRequest(
            to=asked.email,
            subject="Your registration could not be completed",
            text=f"{_greeting(asked)},\n\nplease take our welcome for void: {message or reason}\n"
            "Nothing is kept of you, so you can register again.\n\nThe shop\n",
        )
        return call(letter, compensates=True)
    return send(RemoveUserRequest(user_id=asked.user_id, reason=reason), compensates=True)


def _greeting(asked: RegistrationStarted) -> str:
    return f"Dear {asked.first_name or asked.username or 'customer'}"


def _after(step: RegistrationStep) -> RegistrationStep:
    return STEPS[STEPS.index(step) + 1]


def _step_before(step: RegistrationStep) -> RegistrationStep:
    return STEPS[STEPS.index(step) - 1]


@registration.evolves(RegistrationStarted)
def started(state: RegistrationState, event: RegistrationStarted) -> RegistrationState:
    """The first step is under way."""
    return RegistrationState(status=PROCESS_STATUS_RUNNING, step=STEPS[0], asked=event)


@registration.evolves(RegistrationStepCompleted)
def step_completed(state: RegistrationState, event: RegistrationStepCompleted) -> RegistrationState:
    """The next one is under way, if there is one."""
    return state if event.step == STEPS[-1] else replace(state, step=_after(event.step))


@registration.evolves(RegistrationStepFailed)
def step_failed(state: RegistrationState, event: RegistrationStepFailed) -> RegistrationState:
    """The one before it is being undone, if there is one."""
    turned = replace(state, status=PROCESS_STATUS_COMPENSATING, reason=event.reason, message=event.message)
    return turned if event.step == STEPS[0] else replace(turned, step=_step_before(event.step))


@registration.evolves(RegistrationStepCompensated)
def step_compensated(state: RegistrationState, event: RegistrationStepCompensated) -> RegistrationState:
    """The one before it is being undone, if there is one."""
    return state if event.step == STEPS[0] else replace(state, step=_step_before(event.step))


@registration.evolves(RegistrationCompleted)
def completed(state: RegistrationState, event: RegistrationCompleted) -> RegistrationState:
    """Nothing follows."""
    return replace(state, status=PROCESS_STATUS_COMPLETED)


@registration.evolves(RegistrationFailed)
def failed(state: RegistrationState, event: RegistrationFailed) -> RegistrationState:
    """Nothing follows."""
    return replace(state, status=PROCESS_STATUS_FAILED)
