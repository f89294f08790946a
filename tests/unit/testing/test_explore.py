"""Exploring: all that can happen is tried, with the shop's registration; and what was seen is drawn."""

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
    """Remembers how many emails were sent."""
    yield Answer(SendEmailResponse(), f"{memory}.")


def explored(*clients: RegisterUserRequest | DeactivateUserRequest, worlds_max: int = 1000) -> Explored:
    return explore(
        domain, registration, first=FIRST, clients=clients, effects={SendEmailRequest: email}, worlds_max=worlds_max
    )


def test_without_anybody_else_there_is_one_way_to_one_end() -> None:
    found = explored()
    (end,) = found.ends
    assert end.state(registration, "r1").status == PROCESS_STATUS_COMPLETED
    assert end.memory == "."
    assert [step.label for step in found.steps] == [
        "StartRegistration",
        "RegisterUser accepted",
        "SendEmail answered",
        "UpdateUserProfile accepted",
        "AssignRole accepted",
    ]
    assert found.worlds == 9, "four things are wanted, and each is done and then heard of"


def test_a_client_is_heard_at_every_moment_or_not_at_all() -> None:
    found = explored(RegisterUserRequest(user_id="eve", email="eve@example.com", username="ADA"))
    ends = {
        (end.state(registration, "r1").status, end.state(user, "eve").exists, end.state(user, "ada").exists)
        for end in found.ends
    }
    assert ends == {
        (PROCESS_STATUS_COMPLETED, False, True),
        (PROCESS_STATUS_FAILED, True, False),
    }


def test_what_must_never_be_is_found_wherever_it_is() -> None:
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


def test_more_worlds_than_expected_are_an_error() -> None:
    with pytest.raises(AssertionError, match="more than 3 worlds"):
        explored(worlds_max=3)


def test_a_first_command_that_is_refused_is_an_error() -> None:
    with pytest.raises(AssertionError, match="RegisterUserRequest was refused"):
        explore(
            domain,
            registration,
            given=[RegisterUserRequest(user_id="ada", email=f"{each}@example.com") for each in "ab"],
            first=FIRST,
            effects={},
        )


def test_a_diagram_has_each_change_of_phase_once_from_the_first_to_the_last() -> None:
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
