"""Exploration of the shop's registration, and the diagram of its steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from diptych.testing import Answer, Explored, Transition, World, diagram, explore
from shop import domain
from shop.registration import registration
from shop.users import user
from shop.v1.effects_pb2 import SendEmailRequest, SendEmailResponse
from shop.v1.processes_pb2 import PROCESS_STATUS_COMPLETED, PROCESS_STATUS_FAILED
from shop.v1.registration_commands_pb2 import StartRegistrationRequest
from shop.v1.user_commands_pb2 import DeactivateUserRequest, RegisterUserRequest
from shop.v1.users_pb2 import USER_STATUS_DEACTIVATED

FIRST = StartRegistrationRequest(registration_id="r1", user_id="ada", email="ada@example.com", username="ada")


def email(request: SendEmailRequest, memory: str) -> Iterator[Answer]:
    """Yield the answer, and count emails in the memory."""
    yield Answer(SendEmailResponse(), f"{memory}.")


def explored(*clients: RegisterUserRequest | DeactivateUserRequest, worlds_max: int = 1000) -> Explored:
    return explore(
        domain, registration, first=FIRST, clients=clients, effects={SendEmailRequest: email}, worlds_max=worlds_max
    )


def test_explore_has_one_end_without_clients() -> None:
    result = explored()
    (end,) = result.ends
    assert end.state(registration, "r1").status == PROCESS_STATUS_COMPLETED
    assert end.memory == "."
    assert [step.label for step in result.steps] == [
        "StartRegistration",
        "RegisterUser accepted",
        "SendEmail answered",
        "UpdateUserProfile accepted",
        "AssignRole accepted",
    ]
    assert result.worlds == 9, "each of four outputs is executed, and then its outcome is handled"


def test_explore_sends_the_command_of_a_client_at_every_moment_or_never() -> None:
    result = explored(RegisterUserRequest(user_id="eve", email="eve@example.com", username="ADA"))
    ends = {
        (end.state(registration, "r1").status, end.state(user, "eve").exists, end.state(user, "ada").exists)
        for end in result.ends
    }
    assert ends == {
        (PROCESS_STATUS_COMPLETED, False, True),
        (PROCESS_STATUS_FAILED, True, False),
    }


def test_explore_calls_always_with_every_world() -> None:
    def never_deactivated(world: World) -> None:
        assert world.state(user, "ada").status != USER_STATUS_DEACTIVATED, "found"

    with pytest.raises(AssertionError, match="found"):
        explore(
            domain,
            registration,
            first=FIRST,
            clients=[DeactivateUserRequest(user_id="ada")],
            effects={SendEmailRequest: email},
            always=never_deactivated,
        )


def test_explore_fails_beyond_the_limit_of_worlds() -> None:
    with pytest.raises(AssertionError, match="more than 3 worlds"):
        explored(worlds_max=3)


def test_explore_fails_when_the_first_command_is_refused() -> None:
    with pytest.raises(AssertionError, match="RegisterUserRequest was refused"):
        explore(
            domain,
            registration,
            given=[RegisterUserRequest(user_id="ada", email=f"{each}@example.com") for each in "ab"],
            first=FIRST,
            effects={},
        )


def test_diagram_has_each_change_of_phase_once_in_order() -> None:
    steps = [
        Transition("", "Started", "running"),
        Transition("running", "Ticked", "running"),
        Transition("running", "Stopped", "over"),
        Transition("running", "Broke", "over"),
        Transition("running", "Stopped", "over"),
    ]
    assert diagram(steps, str) == (
        "stateDiagram-v2\n"
        "    [*] --> running: Started\n"
        "    running --> over: Broke\n"
        "    running --> over: Stopped\n"
        "    over --> [*]\n"
    )
