"""Unique values: at most one aggregate of a type holds each."""

from __future__ import annotations

from typing import Any

import pytest

from command_server.submission import Accepted
from diptych import Aggregate
from diptych.contract.reasons import InvalidRequest
from shop.refusals import EmailTaken, UsernameTaken
from shop.v1.user_commands_pb2 import (
    UpdateUserProfileRequest,
)
from tests.support.batch_desk import (
    SHOP,
    Desk,
    accepted,
    email,
    login,
    register,
)

# Unique values.


@pytest.mark.parametrize("address", ["ada@example.com", "ADA@Example.COM"])
@pytest.mark.parametrize("together", [True, False])
async def test_a_second_user_with_the_same_email_is_refused(desk: Desk, together: bool, address: str) -> None:
    if together:
        _, outcome = await desk.batch(register("ada"), register("ben", email=address))
    else:
        await desk.batch(register("ada"))
        [outcome] = await desk.batch(register("ben", email=address))
    assert outcome == EmailTaken(email="ada@example.com")
    [again] = await desk.batch(register("ben"))
    assert accepted(again).version == 1, "a refused command leaves nothing"


@pytest.mark.parametrize("together", [True, False])
async def test_a_released_email_is_free_for_the_next_command(desk: Desk, together: bool) -> None:
    await desk.batch(register("ada"))
    commands = [
        register("ben", email="ada@example.com"),
        email("ada", "new@example.com"),
        register("cleo", email="ada@example.com"),
        register("dan", email="new@example.com"),
    ]
    if together:
        outcomes = await desk.batch(*commands)
    else:
        outcomes = [outcome for command in commands for outcome in await desk.batch(command)]
    assert outcomes[0] == EmailTaken(email="ada@example.com")
    assert accepted(outcomes[1]).version == 2
    assert accepted(outcomes[2]).version == 1
    assert outcomes[3] == EmailTaken(email="new@example.com")


async def test_two_users_cannot_swap_emails_but_can_pass_them_on(desk: Desk) -> None:
    await desk.batch(register("ada"), register("ben"))
    outcomes = await desk.batch(
        email("ada", "ben@example.com"),
        email("ben", "third@example.com"),
        email("ada", "ben@example.com"),
        email("ben", "ada@example.com"),
    )
    assert outcomes[0] == EmailTaken(email="ben@example.com")
    assert [accepted(one).version for one in outcomes[1:]] == [2, 2, 3]
    desk.forget()
    assert await desk.batch(register("x", email="third@example.com"), register("y", email="ada@example.com")) == [
        Accepted(desk.domain.domain.aggregates["user"].ref("x"), 1, 6, False),
        EmailTaken(email="ada@example.com"),
    ]


async def test_a_refused_claim_leaves_nothing_to_later_commands(desk: Desk) -> None:
    await desk.batch(register("ada", username="ada"), register("ben"))
    change = UpdateUserProfileRequest(user_id="ben", email="free@example.com", username="ADA", first_name="Ben")
    refused, logged_in, renamed, free = await desk.batch(
        change,
        login("ben", expected=1),
        UpdateUserProfileRequest(user_id="ben", first_name="Ben"),
        register("cleo", email="free@example.com"),
    )
    assert refused == UsernameTaken(username="ada")
    assert [accepted(one).version for one in (logged_in, renamed, free)] == [2, 3, 1]
    events = await desk.events()
    assert [one.version for one in events if one.aggregate.id == "ben"] == [1, 2, 3]


async def test_a_user_can_change_the_case_of_its_own_email(desk: Desk) -> None:
    await desk.batch(register("ada"))
    assert accepted((await desk.batch(email("ada", "ADA@example.com")))[0]).version == 2


async def test_a_unique_value_or_id_with_a_nul_is_refused_alone(desk: Desk) -> None:
    users: Aggregate[Any] = SHOP.domain.aggregates["user"]
    submission = desk.submission(register("ben"))
    submission.command.email = "ada@example.com\0"  # type: ignore[attr-defined]
    other = desk.submission(register("cleo"))
    await desk.decide([submission, other])
    assert isinstance(submission.refusal, InvalidRequest)
    assert other.accepted == (users.ref("cleo"), 1, 1, False)


@pytest.mark.parametrize("together", [True, False])
async def test_a_refused_command_neither_releases_nor_takes_unique_values(desk: Desk, together: bool) -> None:
    await desk.batch(register("ada", username="ada"), register("ben", username="ben"))
    change = UpdateUserProfileRequest(user_id="ada", email="new@example.com", username="ben")
    commands = [change, register("eve", email="ada@example.com"), register("fay", email="new@example.com")]
    if together:
        outcomes = await desk.batch(*commands)
    else:
        outcomes = [outcome for command in commands for outcome in await desk.batch(command)]
    assert outcomes[0] == UsernameTaken(username="ben")
    assert outcomes[1] == EmailTaken(email="ada@example.com"), "two users would have one email"
    assert accepted(outcomes[2]).version == 1, "a refused command takes nothing"
    desk.forget()
    [again] = await desk.batch(register("gus", email="ada@example.com"))
    assert again == EmailTaken(email="ada@example.com")
