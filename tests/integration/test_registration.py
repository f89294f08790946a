"""Registration with real servers and a real mail server: completed, compensated, and ended after any kill."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from diptych.client import CallRefused, Connection
from diptych.v1.commands_pb2 import CommandContext
from shop.v1.processes_pb2 import (
    PROCESS_STATUS_COMPENSATING,
    PROCESS_STATUS_COMPLETED,
    PROCESS_STATUS_FAILED,
    PROCESS_STATUS_RUNNING,
)
from shop.v1.registration_commands_pb2 import StartRegistrationRequest
from shop.v1.registration_queries_pb2 import GetRegistrationRequest
from shop.v1.registrations_pb2 import (
    STEP_STATUS_COMPENSATED,
    STEP_STATUS_COMPLETED,
    STEP_STATUS_FAILED,
    STEP_STATUS_PENDING,
)
from shop.v1.user_commands_pb2 import RegisterUserRequest
from shop.v1.user_queries_pb2 import FindUsersByEmailRequest, GetUserRequest, ListUsersRequest
from shop.v1.users_pb2 import USER_ROLE_SELLER
from tests.history.clients import whole_log
from tests.support.mail_server import MailServer
from tests.support.pair import Pair, started_pair
from tests.support.shop_processes import last, watched

WELCOME = "Welcome to the shop"
SORRY = "Your registration could not be completed"


@pytest.fixture(scope="module")
def mail() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, mail: MailServer) -> Iterator[Pair]:
    with started_pair(tmp_path_factory.mktemp("registration") / "data", env={"SHOP_SMTP_URL": mail.url}) as pair:
        yield pair


@pytest.fixture
async def shop(pair: Pair) -> AsyncIterator[Connection]:
    """A client that reads its own writes."""
    async with pair.connect(read_your_writes=True, retry_seconds=60) as connection:
        yield connection


async def refusal(shop: Connection, query: object) -> str:
    with pytest.raises(CallRefused) as refused:
        await shop.query(query)  # type: ignore[arg-type]
    return refused.value.reason


async def test_a_user_is_registered_under_one_correlation_id(pair: Pair, shop: Connection, mail: MailServer) -> None:
    watching = asyncio.create_task(watched(shop, "registrations", ["well"]))
    await shop.execute(
        StartRegistrationRequest(
            context=CommandContext(correlation_id="first-to-last"),
            registration_id="well",
            user_id="ada",
            email="ada@example.com",
            username="countess",
            first_name="Ada",
            role=USER_ROLE_SELLER,
            preferences={"theme": "dark"},
        )
    )
    rows = await watching
    assert {row.status for row in rows["well"]} <= {PROCESS_STATUS_RUNNING, PROCESS_STATUS_COMPLETED}
    end = (await last(shop, "registrations", ["well"]))["well"]
    assert [step.status for step in end.steps] == [STEP_STATUS_COMPLETED] * 4
    times = [step.update_time.ToNanoseconds() for step in end.steps]
    assert times == sorted(times)
    assert await shop.query(GetRegistrationRequest(registration_id="well")) == end
    user = await shop.query(GetUserRequest(user_id="ada"))
    assert (user.email, user.username, user.first_name, user.role) == (
        "ada@example.com",
        "countess",
        "Ada",
        USER_ROLE_SELLER,
    )
    assert dict(user.preferences) == {"theme": "dark"}
    (welcome,) = mail.to("ada@example.com").values()
    assert (welcome.subject, welcome.email["X-Correlation-ID"]) == (WELCOME, "first-to-last")
    log = await whole_log(pair.command.address)
    streams = {("registration", "well"), ("user", "ada")}
    mine = [event for event in log if (event.aggregate.type, event.aggregate.id) in streams]
    assert {event.metadata.correlation_id for event in mine} == {"first-to-last"}
    assert {event.event.TypeName().rpartition(".")[2] for event in mine} >= {
        "RegistrationStarted",
        "UserRegistered",
        "UserProfileUpdated",
        "RoleAssigned",
        "RegistrationCompleted",
    }


async def test_a_username_that_is_taken_undoes_the_registration_and_frees_the_email(
    shop: Connection, mail: MailServer
) -> None:
    await shop.execute(RegisterUserRequest(user_id="first", email="first@example.com", username="only-one"))
    await shop.execute(
        StartRegistrationRequest(registration_id="second", email="Second@example.com", username="ONLY-ONE")
    )
    end = (await last(shop, "registrations", ["second"]))["second"]
    assert (end.status, end.reason) == (PROCESS_STATUS_FAILED, "USERNAME_TAKEN")
    assert [step.status for step in end.steps] == [
        STEP_STATUS_COMPENSATED,
        STEP_STATUS_COMPENSATED,
        STEP_STATUS_FAILED,
        STEP_STATUS_PENDING,
    ]
    assert set(mail.to("Second@example.com")) == {WELCOME, SORRY}
    assert await refusal(shop, GetUserRequest(user_id="second")) == "USER_NOT_FOUND"
    assert not (await shop.query(FindUsersByEmailRequest(email="second@example.com"))).users
    assert not (await shop.query(ListUsersRequest(email="second@example.com"))).users
    await shop.execute(StartRegistrationRequest(registration_id="third", user_id="second", email="second@example.com"))
    assert (await last(shop, "registrations", ["third"]))["third"].status == PROCESS_STATUS_COMPLETED
    assert (await shop.query(GetUserRequest(user_id="second"))).email == "second@example.com"


async def test_an_unreachable_email_is_free_again(shop: Connection, mail: MailServer) -> None:
    await shop.execute(StartRegistrationRequest(registration_id="unknown", email="nobody@example.com"))
    end = (await last(shop, "registrations", ["unknown"]))["unknown"]
    assert (end.status, end.reason) == (PROCESS_STATUS_FAILED, "RECIPIENT_REFUSED")
    assert await refusal(shop, GetUserRequest(user_id="unknown")) == "USER_NOT_FOUND"
    await shop.execute(RegisterUserRequest(user_id="somebody", email="nobody@example.com"))


async def test_an_email_that_is_taken_ends_the_registration_at_once(shop: Connection, mail: MailServer) -> None:
    await shop.execute(RegisterUserRequest(user_id="owner", email="owner@example.com"))
    await shop.execute(StartRegistrationRequest(registration_id="late", email="OWNER@example.com"))
    end = (await last(shop, "registrations", ["late"]))["late"]
    assert (end.status, end.reason) == (PROCESS_STATUS_FAILED, "EMAIL_TAKEN")
    assert not mail.to("OWNER@example.com")
    with pytest.raises(CallRefused) as refused:
        await shop.execute(StartRegistrationRequest(registration_id="late", email="other@example.com"))
    assert refused.value.reason == "REGISTRATION_EXISTS"


async def test_a_mail_server_that_is_busy_delays_a_registration(shop: Connection, mail: MailServer) -> None:
    mail.busy = 2
    await shop.execute(StartRegistrationRequest(registration_id="patient", email="patient@example.com"))
    end = (await last(shop, "registrations", ["patient"]))["patient"]
    assert end.status == PROCESS_STATUS_COMPLETED
    assert set(mail.to("patient@example.com")) == {WELCOME}


async def test_every_registration_ends_after_kills_at_any_step(pair: Pair, shop: Connection, mail: MailServer) -> None:
    rng = random.Random(6)
    await shop.execute(RegisterUserRequest(user_id="holder", email="holder@example.com", username="held"))
    started: dict[str, str] = {}

    async def start(id: str) -> None:
        # Every fourth wants a username that is taken, and is undone; every seventh cannot be reached.
        number = int(id.rpartition("-")[2])
        email = f"{'nobody-' if number % 7 == 0 else ''}{id}@example.com"
        username = "HELD" if number % 4 == 0 else id
        started[id] = email
        await shop.execute(StartRegistrationRequest(registration_id=id, email=email, username=username))

    for turn in range(3):
        starting = [asyncio.create_task(start(f"killed-{turn * 12 + number}")) for number in range(12)]
        await asyncio.sleep(rng.uniform(0, 0.15))
        pair.command.kill()
        if turn % 2:
            await pair.projector.restart()
        await pair.command.restart()
        await asyncio.gather(*starting)
    ends = await last(shop, "registrations", started)
    for id, row in ends.items():
        emails = set(mail.to(started[id]))
        number = int(id.rpartition("-")[2])
        if number % 7 == 0:
            assert (row.status, row.reason, emails) == (PROCESS_STATUS_FAILED, "RECIPIENT_REFUSED", set())
        elif number % 4 == 0:
            assert (row.status, row.reason, emails) == (PROCESS_STATUS_FAILED, "USERNAME_TAKEN", {WELCOME, SORRY})
        else:
            assert (row.status, emails) == (PROCESS_STATUS_COMPLETED, {WELCOME})
            assert (await shop.query(GetUserRequest(user_id=id))).username == id
            continue
        # Nothing is left, and the email can be used.
        assert await refusal(shop, GetUserRequest(user_id=id)) == "USER_NOT_FOUND"
        await shop.execute(RegisterUserRequest(user_id=f"again-{number}", email=started[id]))
    assert PROCESS_STATUS_COMPENSATING not in {row.status for row in ends.values()}
